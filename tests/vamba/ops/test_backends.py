"""Backends are chosen by name, once, for a device; a missing one is refused with its remedy."""

from __future__ import annotations

import importlib
import importlib.util

import pytest
import torch

from vamba.ops.backends import IMPLEMENTATIONS, ORDER, Backends, BackendUnavailable, available, choose, describe
from vamba.ops.scan import chunked


def found(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """Makes these packages, and no others, look installed."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name in packages else None)


def test_auto_is_resolved_and_recorded() -> None:
    operations = choose(Backends(), "cpu")
    assert operations.names.to_dict() == {"scan": "torch", "conv": "torch", "attention": "sdpa"}
    assert operations.scan is chunked.scan
    assert describe(operations.names) == "scan torch, conv torch, attention sdpa"


def test_auto_on_the_cpu_takes_torch_also_where_kernels_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    found(monkeypatch, "mamba_ssm", "triton", "einops", "flash_attn")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert choose(Backends(), torch.device("cpu")).names == Backends(scan="torch", conv="torch", attention="sdpa")


def test_no_device_means_the_gpu_where_torch_sees_one() -> None:
    assert available("scan") == available("scan", "cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(
    ("packages", "names"),
    [
        (("mamba_ssm", "triton", "einops", "flash_attn"), ("mamba_ssm", "triton", "flash_attn")),
        (("mamba_ssm", "triton", "einops"), ("mamba_ssm", "triton", "sdpa")),
        (("triton",), ("torch", "triton", "sdpa")),
        ((), ("torch", "torch", "sdpa")),
    ],
)
def test_auto_on_a_gpu_follows_the_written_order(
    packages: tuple[str, ...], names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    found(monkeypatch, *packages)
    chosen = [next(n for n in ORDER["cuda"][op] if n in available(op, "cuda:0")) for op in IMPLEMENTATIONS]
    assert tuple(chosen) == names


def test_every_order_ends_with_torch_alone() -> None:
    for kind, order in ORDER.items():
        assert order.keys() == IMPLEMENTATIONS.keys()
        for operation, names in order.items():
            assert IMPLEMENTATIONS[operation][names[-1]].packages == ()
            assert names[-1] in available(operation, kind)


KERNELS = [("scan", "mamba_ssm", "mamba_ssm"), ("conv", "triton", "triton"), ("attention", "flash_attn", "flash_attn")]


@pytest.mark.parametrize(("operation", "name", "package"), KERNELS)
def test_missing_package_is_named(operation: str, name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found(monkeypatch)
    with pytest.raises(BackendUnavailable, match=rf"{package} is not installed.*vamba\[gpu\].*needs torch alone"):
        choose(Backends(**{operation: name}), "cuda")


@pytest.mark.parametrize(("operation", "name", "package"), KERNELS)
def test_a_gpu_backend_is_refused_on_the_cpu(
    operation: str, name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found(monkeypatch, "mamba_ssm", "triton", "einops", "flash_attn")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(BackendUnavailable, match=rf"{package} is installed, but it needs an NVIDIA GPU.*torch alone"):
        choose(Backends(**{operation: name}), "cpu")


def test_the_interpreter_admits_triton_backends_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    found(monkeypatch, "mamba_ssm", "triton", "einops", "flash_attn")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert available("scan", "cpu") == ("reference", "torch", "mamba_ssm")
    assert available("conv", "cpu") == ("reference", "torch", "triton")
    assert available("attention", "cpu") == ("reference", "sdpa")


def test_a_package_that_does_not_load_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> object:
        raise ImportError("undefined symbol")

    found(monkeypatch, "flash_attn")
    monkeypatch.setattr(importlib, "import_module", load)
    with pytest.raises(BackendUnavailable, match="do not load .undefined symbol.*needs torch alone"):
        choose(Backends(scan="reference", conv="reference", attention="flash_attn"), "cuda")


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(BackendUnavailable, match="'tritn'.*reference"):
        choose(Backends(scan="tritn"))
