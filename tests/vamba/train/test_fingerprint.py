"""The digest of frozen weights: it tells other weights, and not how they are spread, apart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vamba.train import fingerprint as module
from vamba.train.fingerprint import fingerprint


def weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"a": torch.randn(7, 5, generator=generator), "b": torch.randn(9, generator=generator).bfloat16()}


def test_equal_weights_have_equal_digests_in_any_order() -> None:
    named = weights()
    assert fingerprint(named.items()) == fingerprint(reversed(list(weights().items())))


def test_any_change_shows() -> None:
    reference = fingerprint(weights().items())
    seen = {reference}
    for change in ("value", "sign of zero", "swap", "name", "dtype", "shape", "missing"):
        named = weights()
        a = named["a"]
        if change == "value":
            a[6, 4] = torch.nextafter(a[6, 4], torch.tensor(2.0))
        elif change == "sign of zero":
            a[0, 0] = -0.0
        elif change == "swap":
            a[0, 0], a[0, 1] = a[0, 1].clone(), a[0, 0].clone()
        elif change == "name":
            named["c"] = named.pop("a")
        elif change == "dtype":
            named["b"] = named["b"].view(torch.int16)
        elif change == "shape":
            named["a"] = a.view(5, 7)
        else:
            del named["b"]
        seen.add(fingerprint(named.items()))
    assert len(seen) == 8


def test_blocks_and_shards_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.randn(1000)
    whole = module._sum(tensor, 0)
    monkeypatch.setattr(module, "_BLOCK", 64)
    assert module._sum(tensor, 0) == whole
    parts = module._sum(tensor[:301], 0) + module._sum(tensor[301:], 301)
    assert (parts - whole) % 2**64 == 0


def test_the_digest_is_that_of_checkpoints_written_before() -> None:
    """By the sum as it was first written: index by index, bits times (index x spread, made odd)."""
    named = {"a": (torch.arange(700_000) / 7).reshape(700, 1000), "b": torch.tensor([1.5, -2.0, 0.0])}
    assert fingerprint(named.items()) == "sum64:76866127ac0317a5f759bdace5c5142e"
    narrow = {"a": torch.arange(256.0).bfloat16()}
    assert fingerprint(narrow.items()) == fingerprint([("a", torch.arange(256.0))])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.uint8])
def test_weights_are_left_as_they_are(dtype: torch.dtype) -> None:
    tensor = torch.arange(200).to(dtype)
    before = tensor.clone()
    fingerprint([("a", tensor)])
    assert tensor.equal(before)
