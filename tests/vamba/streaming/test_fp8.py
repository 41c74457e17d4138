"""Eight-bit keys and values: how far off they are, and what comes through unchanged."""

from __future__ import annotations

import torch

from vamba.ops.attention.partial import Group, Part, attend
from vamba.streaming.fp8 import Fp8Store
from vamba.streaming.store import TOKENS, DeviceStore, keys_values


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def through(k_MKD: torch.Tensor, v_MKD: torch.Tensor) -> tuple[torch.Tensor, ...]:
    store = Fp8Store(DeviceStore(), torch.float32)
    store.append(keys_values(0), (0, len(k_MKD)), (k_MKD, v_MKD))
    assert store.inner.spans(keys_values(0)) == store.spans(keys_values(0)) == ((0, len(k_MKD)),)
    held = next(store.inner.read([(keys_values(0), 0)]))
    assert [t.numel() * t.element_size() for t in held] == [k_MKD.numel(), 4 * k_MKD.shape[1]] * 2
    return next(store.read([(keys_values(0), 0)]))


def test_a_value_is_off_by_at_most_a_sixteenth() -> None:
    """Of itself, or the smallest step at the scale of its head; heads have scales of their own."""
    k_MKD, v_MKD = random(500, 2, 16) * torch.tensor([1.0, 1000.0])[None, :, None], random(500, 2, 16, seed=1)
    for made, given in zip(through(k_MKD, v_MKD), (k_MKD, v_MKD), strict=True):
        smallest = given.abs().amax(dim=(0, 2), keepdim=True) / 448 / 512
        assert bool(((made - given).abs() <= torch.maximum(given.abs() / 16, smallest)).all())


def test_what_attention_reads_is_within_five_per_cent() -> None:
    k_MKD, v_MKD, q_THD = random(2000, 2, 64), random(2000, 2, 64, seed=1), random(7, 4, 64, seed=2)
    group = [Group(slice(0, 7), 0, 2000)]
    exact, _ = attend(q_THD, [Part(0, k_MKD, v_MKD)], group)
    rounded, _ = attend(q_THD, [Part(0, *through(k_MKD, v_MKD))], group)
    error = (rounded - exact).norm() / exact.norm()
    assert 0.001 < error < 0.05, error


def test_zeros_and_everything_else_pass_through() -> None:
    k_MKD, v_MKD = through(torch.zeros(3, 1, 8), random(3, 1, 8))
    assert k_MKD.eq(0).all() and not v_MKD.isnan().any()
    store = Fp8Store(DeviceStore(), torch.float32)
    tokens = random(3, 8)
    store.append(TOKENS, (0, 3), (tokens,))
    store.append(keys_values(1), (0, 3), (random(3, 1, 8), random(3, 1, 8)))
    mixed = list(store.read([(TOKENS, 0), (keys_values(1), 0), (TOKENS, 0)]))
    assert mixed[0][0].equal(tokens) and mixed[1][0].dtype == torch.float32 and mixed[2][0].equal(tokens)
