"""The weight of each video token: adds up to one, is what softmax says, and does not depend on how keys are cut."""

from __future__ import annotations

import pytest
import torch

from vamba.ops.attention.partial import Group, Part, attend
from vamba.streaming import attention_mass
from vamba.streaming.attention_mass import token_mass

QUERIES, KEYS, HEADS, KV_HEADS = 5, 101, 6, 2


@pytest.mark.parametrize("sizes", [(101,), (64, 37), (1, 7, 13, 80)])
def test_mass_is_the_mean_of_softmax_whatever_the_parts(
    sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_mass, "_WEIGHTS_AT_ONCE", 300)  # a row or two of a part at a time
    torch.manual_seed(0)
    q, k, v = (torch.randn(n, h, 8, dtype=torch.float64) for n, h in ((QUERIES, HEADS), *[(KEYS, KV_HEADS)] * 2))
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    parts = [Part(s, k[s : s + n], v[s : s + n]) for s, n in zip(starts, sizes, strict=True)]
    _, lse = attend(q, parts, [Group(slice(0, QUERIES), 0, KEYS)])
    mass = token_mass(q, lse, reversed(parts))
    scores = torch.einsum("thd,mhd->thm", q, k.repeat_interleave(HEADS // KV_HEADS, dim=1)) / 8**0.5
    torch.testing.assert_close(mass, scores.softmax(-1).mean((0, 1)), rtol=1e-12, atol=1e-15)
    assert float(mass.sum()) == pytest.approx(1, abs=1e-12)
