"""The choice of implementations, by name, made once when a model is built and recorded with the run.

`auto` is resolved in a written order per device and never falls back in silence: a backend named explicitly and missing
raises `BackendUnavailable`, with the package, the extra that installs it and the alternative.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any


class BackendUnavailable(ValueError):
    """A backend was named that can't run here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backends:
    """Names of the implementations to use; `auto` takes the first available one in the order of `ORDER`."""

    scan: str = "auto"
    """`reference`, `torch` or `mamba_ssm`."""
    conv: str = "auto"
    """`reference` or `torch`."""
    attention: str = "auto"
    """`reference`, `sdpa` or `flash_attn`."""

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Implementation:
    module: str | None
    """Where the functions are; None where this version has no adapter for the package yet."""
    package: str | None = None
    """The package it needs, None for torch alone."""
    extra: str | None = None
    """The extra of this project that installs the package."""


IMPLEMENTATIONS: dict[str, dict[str, _Implementation]] = {
    "scan": {
        "reference": _Implementation(module="vamba.ops.scan.reference"),
        "torch": _Implementation(module="vamba.ops.scan.chunked"),
        "mamba_ssm": _Implementation(module=None, package="mamba_ssm", extra="gpu"),
    },
    "conv": {
        "reference": _Implementation(module="vamba.ops.conv.reference"),
        "torch": _Implementation(module="vamba.ops.conv.shifted"),
    },
    "attention": {
        "reference": _Implementation(module="vamba.ops.attention.reference"),
        "sdpa": _Implementation(module="vamba.ops.attention.sdpa"),
        "flash_attn": _Implementation(module=None, package="flash_attn", extra="gpu"),
    },
}
ORDER: dict[str, tuple[str, ...]] = {"scan": ("torch",), "conv": ("torch",), "attention": ("sdpa",)}
"""What `auto` tries, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operations:
    """The functions of the chosen implementations; signatures as in each operation's `reference`."""

    scan: Callable[..., Any]
    conv: Callable[..., Any]
    self_attention: Callable[..., Any]
    cross_attention: Callable[..., Any]
    names: Backends
    """What was chosen: no `auto` in it."""


def choose(backends: Backends) -> Operations:
    """Resolve names to functions. Raises BackendUnavailable for one that is unknown or can't run here."""
    names = Backends(**{op: _resolve(op, getattr(backends, op)) for op in ORDER})
    modules = {op: importlib.import_module(_module(op, getattr(names, op))) for op in ORDER}
    return Operations(
        scan=modules["scan"].scan,
        conv=modules["conv"].conv,
        self_attention=modules["attention"].self_attention,
        cross_attention=modules["attention"].cross_attention,
        names=names,
    )


def available(operation: str) -> tuple[str, ...]:
    """Names of the implementations of one operation that can run here."""
    return tuple(name for name, impl in IMPLEMENTATIONS[operation].items() if _missing(operation, name, impl) is None)


def _resolve(operation: str, name: str) -> str:
    known = IMPLEMENTATIONS[operation]
    if name == "auto":
        return next(candidate for candidate in ORDER[operation] if candidate in available(operation))
    if name not in known:
        raise BackendUnavailable(
            f"backends.{operation} is {name!r}, which is not a backend of this version; one of {['auto', *known]}"
        )
    reason = _missing(operation, name, known[name])
    if reason is not None:
        raise BackendUnavailable(f"backends.{operation} is {name!r}: {reason}")
    return name


def _missing(operation: str, name: str, implementation: _Implementation) -> str | None:
    alternative = f"use {ORDER[operation][-1]!r}, which needs torch alone"
    if implementation.package is not None and importlib.util.find_spec(implementation.package) is None:
        return (
            f"the package {implementation.package} is not installed; "
            f"install it with `pip install 'vamba[{implementation.extra}]'` on a machine with an NVIDIA GPU, or "
            f"{alternative}"
        )
    if implementation.module is None:
        return f"{implementation.package} is installed, but this version has no adapter for it; {alternative}"
    return None


def _module(operation: str, name: str) -> str:
    module = IMPLEMENTATIONS[operation][name].module
    assert module is not None, f"{operation} {name} was resolved without a module"
    return module
