"""Many prompts of different lengths about encoded videos, answered together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from vamba.hf.cached import RowVideos
    from vamba.hf.modeling import VambaForConditionalGeneration
    from vamba.streaming.memory import VideoMemory


@torch.no_grad()
def continue_prompts(
    model: VambaForConditionalGeneration,
    prompts: Sequence[Sequence[int]],
    videos: RowVideos | VideoMemory | Sequence[VideoMemory | None] | None,
    *,
    max_new_tokens: int,
    eos_ids: Sequence[int],
    **options: Any,
) -> list[list[int]]:
    """The continuation of each prompt, without the token that ended it; greedy unless `options` of generate say more.

    `videos`: one for all prompts, or one (or None) per prompt. ValueError for an empty prompt.
    """
    if any(len(prompt) == 0 for prompt in prompts):
        raise ValueError("a prompt is empty: there is nothing to continue")
    if not prompts or max_new_tokens < 1:
        return [[] for _ in prompts]
    # Padding is on the left, so that all rows end together; a mask hides it, whatever its id.
    pad_id = eos_ids[0] if eos_ids else 0
    longest = max(len(prompt) for prompt in prompts)
    ids = [[pad_id] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    real = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    made = model.generate(
        torch.tensor(ids, device=model.device),
        attention_mask=torch.tensor(real, device=model.device),
        videos=videos,
        max_new_tokens=max_new_tokens,
        **{"do_sample": False, "eos_token_id": list(eos_ids) or None, "pad_token_id": pad_id, **options},
    )
    return [_until(row, set(eos_ids)) for row in made[:, longest:].tolist()]


def _until(row: list[int], stop: set[int]) -> list[int]:
    return row[: next((index for index, token in enumerate(row) if token in stop), len(row))]
