"""Where queries look in a video: the weight that softmax gives each of its tokens, averaged over heads and queries.

    lse over all keys, from attention in parts ── a second time through the parts ──> exp(score - lse), summed per token

No more than a block of rows of one part's weights exists at a time: memory stays flat however long the video is.

Shapes: T queries, M keys of a part, H query heads, K key/value heads, D values per head, N = T H/K rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vamba.data.batch import to_device
from vamba.model.positions import text_rotary
from vamba.ops.attention.layout import segments
from vamba.ops.attention.partial import Group, Part, attend

if TYPE_CHECKING:
    from vamba.model.vamba import PackedVamba
    from vamba.streaming.media import Media
    from vamba.streaming.memory import VideoMemory

_WEIGHTS_AT_ONCE = 1 << 22


def token_mass(q_THD: Tensor, lse_TH: Tensor, parts: Iterable[Part]) -> Tensor:
    """float32 or wider, on the CPU: the mean weight of every video token; over all parts they add up to 1.

    lse: of the scores of each query over the keys of all parts, as `vamba.ops.attention.partial.attend` gives it.
    """
    found: list[tuple[int, Tensor]] = []
    for part in parts:
        found.append((part.start, _part_mass(q_THD, lse_TH, part.k_MKD).cpu()))
    return torch.cat([mass_M for _, mass_M in sorted(found, key=lambda one: one[0])]) / lse_TH.numel()


def _part_mass(q_THD: Tensor, lse_TH: Tensor, k_MKD: Tensor) -> Tensor:
    """Summed weight of each token of a part."""
    dtype = lse_TH.dtype
    kv_heads = k_MKD.shape[1]
    q_KND = q_THD.to(dtype).unflatten(1, (kv_heads, -1)).permute(1, 0, 2, 3).flatten(1, 2)
    lse_KN1 = lse_TH.unflatten(1, (kv_heads, -1)).permute(1, 0, 2).flatten(1, 2)[..., None]
    k_KDM = k_MKD.to(dtype).permute(1, 2, 0)
    mass_M = torch.zeros(len(k_MKD), dtype=dtype, device=k_MKD.device)
    rows = max(1, _WEIGHTS_AT_ONCE // max(1, kv_heads * len(k_MKD)))
    for q, lse in zip(q_KND.split(rows, dim=1), lse_KN1.split(rows, dim=1), strict=True):
        weights = (q @ k_KDM).mul_(q.shape[-1] ** -0.5).sub_(lse).exp_()
        mass_M += weights.sum((0, 1))
    return mass_M


@torch.no_grad()
def answer_mass(
    model: PackedVamba, memory: VideoMemory, prompt_ids: Sequence[int], answer_ids: Sequence[int]
) -> Tensor:
    """float32 or wider [M] on the CPU: where an answer's tokens were looking, over all layers and heads; sums to 1.

    One pass over the text, read from the memory. A token looks from the position before it, which predicts it; of an
    answer without tokens, that position alone counts.
    """
    ids = [*prompt_ids, *answer_ids][: len(prompt_ids) + max(0, len(answer_ids) - 1)]
    config, device = model.architecture, model.model.embed_tokens.weight.device
    t_TD = model.model.embed_tokens(torch.tensor(ids, device=device))
    rotary = text_rotary(torch.arange(len(ids), device=device), config.head_dim, config.rope_theta, t_TD.dtype)
    attend_text = partial(model.ops.self_attention, layout=to_device(segments([len(ids)]), device))
    everything = (Group(slice(0, len(ids)), 0, memory.num_tokens),)
    asking = slice(len(prompt_ids) - 1, None)
    shown = memory.open_pass(len(ids))
    mass_M = torch.zeros(())

    def read(layer: int, q_THD: Tensor) -> Tensor:
        nonlocal mass_M
        out_THD, lse_TH = attend(q_THD, shown.parts(layer), everything)
        mass_M = mass_M + token_mass(q_THD[asking], lse_TH[asking], shown.parts(layer))
        return out_THD.to(q_THD.dtype)

    for index, layer in enumerate(model.model.hybrid_layers):
        t_TD = layer.update_text(t_TD, rotary, attend_text, partial(read, index))
    return mass_M / len(model.model.hybrid_layers)


def pair_mass(mass_M: Tensor, media: Media) -> list[float]:
    """The same by frame pair, in the order of the media."""
    sizes = [media.tokens_per_pair(height, width) for pairs, height, width in media.grids for _ in range(pairs)]
    return [float(part.sum()) for part in mass_M.split(sizes)]
