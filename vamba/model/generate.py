"""Greedy generation: many prompts about one encoded video, decoded together.

Prompts of different lengths are packed for the first pass, which fills a cache of text keys and values; each later step
runs one token per row at that row's own position, and masks the unfilled tail of its cache. The video's keys and values
are the same for every row, so all rows' queries go through them in one call, and each key is read once.

Shapes: B rows (prompts), T packed tokens, H query heads, K key/value heads, D values per head, S capacity of the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vamba.data.batch import to_device
from vamba.model.positions import text_rotary
from vamba.ops.attention.layout import Segments, pad, segments
from vamba.ops.attention.sdpa import attend_folded

if TYPE_CHECKING:
    from vamba.model.layer import Attend
    from vamba.model.memory import VideoMemory
    from vamba.model.vamba import VambaForConditionalGeneration


@dataclass(frozen=True, slots=True, kw_only=True)
class _TextCache:
    """Keys and values of the text so far, one pair of buffers per layer, written in place."""

    keys: tuple[Tensor, ...]
    """(B, K, S, D) per layer."""
    values: tuple[Tensor, ...]

    def prefill(self, model: VambaForConditionalGeneration, layout: Segments, layer: int) -> Attend:
        """Packed causal attention that also stores its keys and values."""

        def attend(q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor) -> Tensor:
            self.keys[layer][:, :, : layout.max_len] = pad(k_TKD, layout).transpose(1, 2)
            self.values[layer][:, :, : layout.max_len] = pad(v_TKD, layout).transpose(1, 2)
            return model.ops.self_attention(q_THD, k_TKD, v_TKD, layout=layout)

        return attend

    def step(self, lengths_B: Tensor, layer: int) -> Attend:
        """One new token per row, at place `lengths_B` of its row."""
        keys, values = self.keys[layer], self.values[layer]
        rows = torch.arange(len(lengths_B), device=lengths_B.device)
        filled = torch.arange(keys.shape[2], device=lengths_B.device) <= lengths_B[:, None]

        def attend(q_BHD: Tensor, k_BKD: Tensor, v_BKD: Tensor) -> Tensor:
            keys[rows, :, lengths_B] = k_BKD
            values[rows, :, lengths_B] = v_BKD
            return attend_folded(q_BHD[:, None], keys, values, filled[:, None, None])[:, 0]

        return attend


@torch.no_grad()
def generate_many(
    model: VambaForConditionalGeneration,
    prompts: Sequence[Sequence[int]],
    memory: VideoMemory | None,
    max_new_tokens: int,
    eos_ids: Sequence[int],
) -> list[list[int]]:
    """The most likely continuation of each prompt, up to `max_new_tokens`, without the token that ended it.

    `memory` is the video the prompts are about, None for text alone. ValueError for an empty prompt.
    """
    if any(len(prompt) == 0 for prompt in prompts):
        raise ValueError("a prompt is empty: there is nothing to continue")
    if not prompts or max_new_tokens < 1:
        return [[] for _ in prompts]
    device = model.device
    layout = segments([len(prompt) for prompt in prompts])
    capacity = layout.max_len + max_new_tokens
    cache = _empty_cache(model, len(prompts), capacity)
    ends = layout.cu_seqlens.tolist()
    ids_T = torch.tensor([token for prompt in prompts for token in prompt], device=device)
    positions_T = torch.cat([torch.arange(len(prompt)) for prompt in prompts]).to(device)
    attends = [cache.prefill(model, to_device(layout, device), layer) for layer in range(len(model.model.layers))]
    lengths_B = torch.tensor([len(prompt) for prompt in prompts], device=device)
    last_T = torch.tensor([end - 1 for end in ends[1:]], device=device)
    next_B = _pass(model, ids_T, positions_T, memory, attends, last_T)
    stop = torch.tensor(sorted(set(eos_ids)), device=device, dtype=torch.long)
    steps = [next_B]
    finished_B = torch.isin(next_B, stop)
    while len(steps) < max_new_tokens and not bool(finished_B.all()):
        attends = [cache.step(lengths_B, layer) for layer in range(len(model.model.layers))]
        next_B = _pass(model, next_B, lengths_B, memory, attends, None)
        lengths_B = lengths_B + 1
        finished_B = finished_B | torch.isin(next_B, stop)
        steps.append(next_B)
    return [_until(row, set(eos_ids)) for row in torch.stack(steps, dim=1).tolist()]


def _pass(
    model: VambaForConditionalGeneration,
    ids_T: Tensor,
    positions_T: Tensor,
    memory: VideoMemory | None,
    attends: Sequence[Attend],
    rows: Tensor | None,
) -> Tensor:
    """The next token at the given rows of the packed text (all rows by default)."""
    config = model.config
    t_TD = model.model.embed_tokens(ids_T)
    rotary = text_rotary(positions_T, config.head_dim, config.rope_theta, t_TD.dtype)
    for index, (layer, attend) in enumerate(zip(model.model.hybrid_layers, attends, strict=True)):
        seen = None if memory is None else (memory.keys[index], memory.values[index])
        t_TD = layer.update_text(t_TD, seen, rotary, attend, _attend_memory)
    t_TD = t_TD if rows is None else t_TD.index_select(0, rows)
    return model.lm_head(model.model.norm(t_TD)).argmax(-1)


def _attend_memory(q_THD: Tensor, k_KMD: Tensor, v_KMD: Tensor) -> Tensor:
    return attend_folded(q_THD[None], k_KMD[None], v_KMD[None])[0]


def _empty_cache(model: VambaForConditionalGeneration, rows: int, capacity: int) -> _TextCache:
    config = model.config
    shape = (rows, config.num_key_value_heads, capacity, config.head_dim)
    empty = partial(model.model.embed_tokens.weight.new_zeros, shape)
    layers = range(config.num_hidden_layers)
    return _TextCache(keys=tuple(empty() for _ in layers), values=tuple(empty() for _ in layers))


def _until(row: list[int], stop: set[int]) -> list[int]:
    return row[: next((index for index, token in enumerate(row) if token in stop), len(row))]
