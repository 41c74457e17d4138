"""Hides what only the developers' environment has: a run shows what the extra `lmms-eval` alone makes possible."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.architecture.sources import ROOT

BESIDE = ("lmms-eval", "vamba", "setuptools", "pip")
"""Installed without their dependencies, or with pip itself."""


def hide_the_rest() -> None:
    """From here on, packages that neither `vamba` nor its extra leads to can't be found by an import."""
    brought = _brought() | set(BESIDE)
    hidden = {
        module
        for module, owners in packages_distributions().items()
        if not any(canonicalize_name(owner) in brought for owner in owners)
    }

    class Finder(PathFinder):
        @classmethod
        def find_spec(
            cls, fullname: str, path: Sequence[str] | None = None, target: object = None
        ) -> ModuleSpec | None:  # type: ignore[override]
            return None if fullname in hidden else PathFinder.find_spec(fullname, path)

    sys.meta_path[sys.meta_path.index(PathFinder)] = Finder


def _brought() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = [*project["dependencies"], *project["optional-dependencies"]["lmms-eval"]]
    todo = [(Requirement(text), "") for text in texts]
    seen: set[tuple[str, str]] = set()
    while todo:
        requirement, extra = todo.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        for wanted in ("", *requirement.extras):
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                todo += [(Requirement(text), wanted) for text in _needs(name)]
    return {name for name, _ in seen}


def _needs(name: str) -> list[str]:
    try:
        return requires(name) or []
    except PackageNotFoundError:  # of another platform, or of a build of torch that is not this one
        return []
