"""Where queries look in a video: the weight that softmax gives each of its tokens, averaged over heads and queries.

    lse over all keys, from attention in parts ── a second time through the parts ──> exp(score - lse), summed per token

No more than a block of rows of one part's weights exists at a time: memory stays flat however long the video is.

Shapes: T queries, M keys of a part, H query heads, K key/value heads, D values per head, N = T H/K rows.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from vamba.ops.attention.partial import Part

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
