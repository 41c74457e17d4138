"""Writes requirements/*.lock: exact versions of everything that is installed, for Python 3.11 and 3.12 on Linux x86_64.

`make lock` runs it. pip itself resolves pyproject.toml once per Python: a dry run that installs nothing, but may
download some GB, because gpu.lock needs the metadata of the CUDA packages. The answers become one file per audience,
with an environment marker where the two Pythons differ:

    pyproject.toml ──pip install --dry-run──> metadata by name ──> cpu.lock  what the product needs
                                                                   dev.lock  what tests and checks add
                                                                   gpu.lock  what CUDA and its kernels add

Versions that stand in the present locks are kept as constraints unless `--upgrade` is given.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_PIP = next((ROOT / "scripts" / "bootstrap").glob("pip-*.whl"))
sys.path.insert(0, str(_PIP))

from pip._vendor.packaging.requirements import Requirement  # noqa: E402
from pip._vendor.packaging.utils import canonicalize_name  # noqa: E402

LOCKS = ROOT / "requirements"
TORCH = "2.13.0"
# Installed with pip itself and needed to install the project without a download.
BUILD_TOOLS = ["pip==26.3", "setuptools>=80"]
# Built from source against the installed torch, so they are listed apart: see requirements/gpu-kernels.lock.
KERNELS = {"flash-attn", "mamba-ssm"}
# What only a CUDA build of torch asks for.
CUDA_ONLY = re.compile(r"^(nvidia-|cuda-|triton$)")

Versions = dict[str, str]
Resolved = dict[str, dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", required=True, help="an interpreter; give one 3.11 and one 3.12")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions instead of the locked ones")
    arguments = parser.parse_args()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    runtime = [*project["dependencies"], *BUILD_TOOLS]
    cuda = [requirement for requirement in extras["gpu"] if Requirement(requirement).name not in KERNELS]
    constraints = [] if arguments.upgrade else _locked_lines()

    by_audience: dict[str, dict[str, Versions]] = {"cpu": {}, "dev": {}, "gpu": {}}
    for python in arguments.python:
        marker = _python_version(python)
        resolved = _resolve(python, [*runtime, *extras["dev"], *cuda, "einops", "ninja"], constraints)
        base = _reachable(resolved, runtime, marker)
        with_dev = _reachable(resolved, [*runtime, *extras["dev"]], marker)
        with_cuda = _reachable(resolved, [*runtime, *cuda, "einops", "ninja"], marker, cuda=True)
        everything = {name: _version(item) for name, item in resolved.items()}
        by_audience["cpu"][marker] = {n: everything[n] for n in base}
        by_audience["dev"][marker] = {n: everything[n] for n in with_dev - base}
        by_audience["gpu"][marker] = {n: everything[n] for n in with_cuda - base}
    for audience, versions in by_audience.items():
        path = LOCKS / f"{audience}.lock"
        path.write_text(_header(audience) + "".join(f"{line}\n" for line in _merge(versions)))
        print(f"{path.relative_to(ROOT)}: {sum(1 for _ in _merge(versions))} packages")


def _resolve(python: str, requirements: list[str], constraints: list[str]) -> Resolved:
    """The metadata of everything pip would install for `requirements`, by normalised name."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        constraint_file = Path(folder, "constraints.txt")
        constraint_file.write_text("\n".join(constraints))
        command = [python, f"{_PIP}/pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
        command += ["--only-binary=:all:", "--prefer-binary", "--report", str(report)]
        command += ["--constraint", str(constraint_file), f"torch=={TORCH}", *requirements]
        # Extra wheel folders may hold a CPU torch, whose metadata lacks the CUDA packages that gpu.lock needs.
        environment = os.environ | {"PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}
        subprocess.run(command, check=True, env=environment)
        installed = json.loads(report.read_text())["install"]
    return {canonicalize_name(item["metadata"]["name"]): item["metadata"] for item in installed}


def _reachable(resolved: Resolved, requirements: list[str], python: str, *, cuda: bool = False) -> set[str]:
    """The names that `requirements` lead to; unless `cuda`, without what only a CUDA build of torch asks for."""
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    todo = [(Requirement(text), "") for text in requirements]
    asked = {canonicalize_name(requirement.name) for requirement, _ in todo}
    while todo:
        requirement, extra = todo.pop()
        name = canonicalize_name(requirement.name)
        environment = {"extra": extra, "python_version": python, "python_full_version": f"{python}.0"}
        if not cuda and CUDA_ONLY.match(name) and name not in asked:
            continue
        if requirement.marker and not requirement.marker.evaluate(environment):
            continue
        found.add(name)
        for wanted in ("", *requirement.extras):
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                todo += [(Requirement(text), wanted) for text in resolved[name].get("requires_dist", [])]
    return found


def _merge(versions_by_python: dict[str, Versions]) -> list[str]:
    """One line per package; a marker where a Python lacks it or has another version."""
    names = sorted({name for versions in versions_by_python.values() for name in versions})
    lines = []
    for name in names:
        pairs = {python: versions.get(name) for python, versions in versions_by_python.items()}
        if len(set(pairs.values())) == 1:
            lines.append(f"{name}=={next(iter(pairs.values()))}")
            continue
        for python, version in sorted(pairs.items()):
            if version is not None:
                lines.append(f'{name}=={version} ; python_version == "{python}"')
    return lines


def _header(audience: str) -> str:
    says = {
        "cpu": "Everything the product needs, exact, for Python 3.11 and 3.12 on Linux x86_64.",
        "dev": "What tests and checks add to cpu.lock.",
        "gpu": "What a CUDA build of torch adds to cpu.lock (resolved; not installed on a GPU by this project's CI).",
    }
    return f"# {says[audience]}\n# Written by `make lock` from pyproject.toml; install it with `make setup`.\n"


def _locked_lines() -> list[str]:
    lines = [line for path in LOCKS.glob("???.lock") for line in path.read_text().splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _version(metadata: dict[str, Any]) -> str:
    """The public version: a lock must not ask for one build of torch (`2.13.0+cpu`)."""
    return str(metadata["version"]).split("+")[0]


def _python_version(python: str) -> str:
    command = [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
