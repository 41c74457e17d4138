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
