"""The choice of implementations, by name, made once when a model is built and recorded with the run.

    Backends (names, `auto` allowed) ──choose, for a device──> Operations (functions, and the names without `auto`)

`auto` takes the first of `ORDER` that can run on the device; the lists are written down, so that the same machine gives
the same choice. A backend asked for by name is never replaced: one that can't run here raises `BackendUnavailable` with
the package, the extra that installs it and the alternative.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

INTERPRET = "TRITON_INTERPRET"
"""With this variable set to 1, Triton runs its kernels on the CPU, for tests: slow, and only for backends named."""


class BackendUnavailable(ValueError):
    """A backend was named that can't run here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backends:
    """Names of the implementations to use; `auto` takes the first of `ORDER` that can run on the device."""

    scan: str = "auto"
    """`reference`, `torch` or `mamba_ssm`."""
    conv: str = "auto"
    """`reference`, `torch` or `triton`."""
    attention: str = "auto"
    """`reference`, `sdpa` or `flash_attn`."""

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Implementation:
    """Where the functions of one backend are, and what they need beyond torch."""

    module: str
    packages: tuple[str, ...] = ()
    """As they are imported, the decisive one first."""
    cuda_only: bool = False
    is_triton: bool = False
    """Its kernels also run in Triton's interpreter."""


_EXTRA = "gpu"
"""The extra of this project that brings every kernel package."""

IMPLEMENTATIONS: dict[str, dict[str, Implementation]] = {
    "scan": {
        "reference": Implementation(module="vamba.ops.scan.reference"),
        "torch": Implementation(module="vamba.ops.scan.chunked"),
        "mamba_ssm": Implementation(
            module="vamba.ops.scan.mamba_ssm",
            packages=("mamba_ssm", "triton", "einops"),
            cuda_only=True,
            is_triton=True,
        ),
    },
    "conv": {
        "reference": Implementation(module="vamba.ops.conv.reference"),
        "torch": Implementation(module="vamba.ops.conv.shifted"),
        "triton": Implementation(module="vamba.ops.conv.triton", packages=("triton",), cuda_only=True, is_triton=True),
    },
    "attention": {
        "reference": Implementation(module="vamba.ops.attention.reference"),
        "sdpa": Implementation(module="vamba.ops.attention.sdpa"),
        "flash_attn": Implementation(module="vamba.ops.attention.flash_attn", packages=("flash_attn",), cuda_only=True),
    },
}
ORDER: dict[str, dict[str, tuple[str, ...]]] = {
    "cuda": {"scan": ("mamba_ssm", "torch"), "conv": ("triton", "torch"), "attention": ("flash_attn", "sdpa")},
    "cpu": {"scan": ("torch",), "conv": ("torch",), "attention": ("sdpa",)},
}
"""What `auto` tries, in order, by kind of device; another kind goes by the CPU's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operations:
    """The functions of the chosen implementations; signatures as in each operation's `reference`."""

    scan: Callable[..., Any]
    conv: Callable[..., Any]
    self_attention: Callable[..., Any]
    cross_attention: Callable[..., Any]
    names: Backends
    """What was chosen: no `auto` in it."""


def choose(backends: Backends, device: torch.device | str | None = None) -> Operations:
    """Resolve names to functions for a device, by default the GPU where torch sees one.

    Raises BackendUnavailable for a name that is unknown or can't run there.
    """
    kind = _kind(device)
    names = Backends(**{op: _resolve(op, getattr(backends, op), kind) for op in IMPLEMENTATIONS})
    modules = {op: _load(op, getattr(names, op), kind) for op in IMPLEMENTATIONS}
    return Operations(
        scan=modules["scan"].scan,
        conv=modules["conv"].conv,
        self_attention=modules["attention"].self_attention,
        cross_attention=modules["attention"].cross_attention,
        names=names,
    )


def available(operation: str, device: torch.device | str | None = None) -> tuple[str, ...]:
    """Names of the implementations of one operation that can run on a device."""
    kind = _kind(device)
    return tuple(name for name in IMPLEMENTATIONS[operation] if _obstacle(operation, name, kind) is None)


def describe(names: Backends) -> str:
    """One line for people: `scan torch, conv torch, attention sdpa`."""
    return ", ".join(f"{operation} {name}" for operation, name in names.to_dict().items())


def _resolve(operation: str, name: str, kind: str) -> str:
    known = IMPLEMENTATIONS[operation]
    if name == "auto":
        runnable = available(operation, kind)
        return next(candidate for candidate in _order(kind)[operation] if candidate in runnable)
    if name not in known:
        raise BackendUnavailable(
            f"backends.{operation} is {name!r}, which is not a backend of this version; one of {['auto', *known]}"
        )
    obstacle = _obstacle(operation, name, kind)
    if obstacle is not None:
        raise BackendUnavailable(f"backends.{operation} is {name!r}: {obstacle}")
    return name


def _obstacle(operation: str, name: str, kind: str) -> str | None:
    """Why an implementation can't run on a kind of device, and what to do; None where it can."""
    needed = IMPLEMENTATIONS[operation][name]
    alternative = _alternative(operation, kind)
    missing = [package for package in needed.packages if importlib.util.find_spec(package) is None]
    if missing:
        return (
            f"the package {missing[0]} is not installed; install it with `pip install 'vamba[{_EXTRA}]'` on a machine "
            f"with an NVIDIA GPU, or {alternative}"
        )
    interpreted = needed.is_triton and os.environ.get(INTERPRET) == "1"
    if needed.cuda_only and kind != "cuda" and not interpreted:
        return f"the package {needed.packages[0]} is installed, but it needs an NVIDIA GPU, not {kind}; {alternative}"
    return None


def _load(operation: str, name: str, kind: str) -> ModuleType:
    try:
        return importlib.import_module(IMPLEMENTATIONS[operation][name].module)
    except (ImportError, OSError) as error:
        # A package compiled against another torch is found, and fails only here.
        raise BackendUnavailable(
            f"backends.{operation} is {name!r}, whose packages are installed and do not load ({error}): install them "
            f"again with `pip install 'vamba[{_EXTRA}]'`, or {_alternative(operation, kind)}"
        ) from error


def _alternative(operation: str, kind: str) -> str:
    return f"use {_order(kind)[operation][-1]!r}, which needs torch alone"


def _kind(device: torch.device | str | None) -> str:
    if device is None:
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"
    return str(device).partition(":")[0]


def _order(kind: str) -> dict[str, tuple[str, ...]]:
    return ORDER.get(kind, ORDER["cpu"])
