"""Backends are chosen by name, once; a missing one is refused with its remedy."""

from __future__ import annotations

import importlib.util

import pytest

from vamba.ops.backends import IMPLEMENTATIONS, ORDER, Backends, BackendUnavailable, available, choose
from vamba.ops.scan import chunked


def test_auto_is_resolved_and_recorded() -> None:
    operations = choose(Backends())
    assert operations.names.to_dict() == {"scan": "torch", "conv": "torch", "attention": "sdpa"}
    assert operations.scan is chunked.scan


def test_every_order_ends_with_torch_alone() -> None:
    for operation, names in ORDER.items():
        assert IMPLEMENTATIONS[operation][names[-1]].package is None
        assert names[-1] in available(operation)


@pytest.mark.parametrize(
    ("operation", "name", "package"), [("scan", "mamba_ssm", "mamba_ssm"), ("attention", "flash_attn", "flash_attn")]
)
def test_missing_package_is_named(operation: str, name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(BackendUnavailable, match=rf"{package} is not installed.*vamba\[gpu\].*needs torch alone"):
        choose(Backends(**{operation: name}))


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(BackendUnavailable, match="'tritn'.*reference"):
        choose(Backends(scan="tritn"))
