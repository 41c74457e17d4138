"""The Kubernetes files as `kubectl kustomize` renders them, and where to find the tools that the tests run."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.architecture.sources import ROOT

KUBERAY = ROOT / "infra" / "kuberay"
JOBS = ("ingest", "train", "evaluate", "promote")
OVERLAYS = ("dev", "prod", "spot")

Object = dict[str, Any]


def installed(name: str) -> str:
    """A program that came with a locked package: it lies beside the interpreter, on no PATH."""
    found = Path(sys.executable).parent / name
    assert found.is_file(), f"{found} is missing: `make setup` installs it from requirements/dev.lock"
    return str(found)


@functools.cache
def rendered(folder: str) -> tuple[Object, ...]:
    """The objects of `infra/kuberay/FOLDER`. Raises CalledProcessError with kubectl's words if it can't be built."""
    done = subprocess.run(
        [installed("kubectl"), "kustomize", str(KUBERAY / folder)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, f"{folder}: {done.stderr}"
    return tuple(item for item in yaml.safe_load_all(done.stdout) if item)


def ray_job(overlay: str, job: str) -> Object:
    """The RayJob of a job in an overlay."""
    (found,) = (item for item in rendered(f"overlays/{overlay}/{job}") if item["kind"] == "RayJob")
    return found


def every_folder() -> list[str]:
    """All kustomizations that build by themselves; components are built as part of others."""
    files = sorted(KUBERAY.rglob("kustomization.yaml"))
    return [str(file.parent.relative_to(KUBERAY)) for file in files if "kind: Kustomization" in file.read_text()]


def groups(job: Object) -> list[Object]:
    """The head and the worker groups of a RayJob."""
    cluster = job["spec"]["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def templates(item: Object) -> Iterator[tuple[str, Object]]:
    """Every pod template of an object, with a name for messages."""
    name = f"{item['kind']} {item['metadata']['name']}"
    if item["kind"] == "RayJob":
        yield f"{name} submitter", item["spec"]["submitterPodTemplate"]
        for group in groups(item):
            yield f"{name} {group.get('groupName', 'head')}", group["template"]
    elif item["kind"] in ("Deployment", "StatefulSet"):
        yield name, item["spec"]["template"]
