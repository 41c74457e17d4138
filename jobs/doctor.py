"""The examination behind `vamba doctor`: one finding per thing a job may need.

States: "ok"; "missing" for what is optional and not there; "BROKEN" for what every job needs. Every finding that is
not ok says what to do.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

State = Literal["ok", "missing", "BROKEN"]
_LOW_SPACE_BYTES = 5 * 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """name: what was looked at. found: what is there. remedy: what to do, empty when it is fine."""

    name: str
    state: State
    found: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Every finding, in the order in which a user would fix them. A check that fails becomes a finding itself."""
    checks: tuple[Callable[[], Finding], ...] = (
        _python,
        _torch,
        _cuda,
        _backends,
        _ffmpeg,
        lambda: _package("PyAV", "av"),
        lambda: _package("Ray", "ray"),
        _cluster,
        lambda: _package("MLflow", "mlflow"),
        _tracking,
        _storage,
        _git,
    )
    findings = []
    for check in checks:
        try:
            findings.append(check())
        except Exception as error:
            text = " ".join(str(error).split())[:200]
            name = getattr(check, "__name__", "check").strip("_<>")
            findings.append(
                Finding(name=name, state="BROKEN", found=f"{type(error).__name__}: {text}", remedy="run make setup")
            )
    return findings


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] in ((3, 11), (3, 12)):
        return Finding(name="python", state="ok", found=f"{version} ({sys.executable})")
    return Finding(name="python", state="BROKEN", found=version, remedy="use Python 3.11 or 3.12")


def _torch() -> Finding:
    import torch

    return Finding(name="torch", state="ok", found=f"{torch.__version__}, {torch.get_num_threads()} threads")


def _cuda() -> Finding:
    import torch

    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())}
        return Finding(name="CUDA", state="ok", found=f"{torch.cuda.device_count()} × {', '.join(sorted(names))}")
    driver = shutil.which("nvidia-smi")
    found = "a driver, but torch was built without CUDA or can't use it" if driver else "no NVIDIA driver"
    remedy = (
        "run make setup again: it installs the CUDA build"
        if driver
        else "none needed: everything runs on the CPU, slowly"
    )
    return Finding(name="CUDA", state="missing", found=found, remedy=remedy)


def _backends() -> Finding:
    """What a model would run on here, and what else it could be told to."""
    import torch

    from vamba.ops.backends import IMPLEMENTATIONS, ORDER, Backends, available, choose, describe

    device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = choose(Backends(), device).names.to_dict()
    others = {op: [name for name in available(op, device) if name != chosen[op]] for op in IMPLEMENTATIONS}
    also = "; ".join(f"{op} {' or '.join(names)}" for op, names in others.items() if names)
    slower = [op for op, name in chosen.items() if name != ORDER[device][op][0]]
    remedy = "" if not slower else f"for a faster {' and '.join(slower)}: pip install -e '.[gpu]'"
    found = f"{describe(Backends(**chosen))} on {device}" + (f" (by name also {also})" if also else "")
    return Finding(name="backends", state="missing" if slower else "ok", found=found, remedy=remedy)


def _ffmpeg() -> Finding:
    from pipelines.ffmpeg import ENV_FFMPEG, ffmpeg_binary

    try:
        path = ffmpeg_binary()
        done = subprocess.run([path, "-version"], capture_output=True, text=True, timeout=30, check=True)
    except (ValueError, RuntimeError, OSError, subprocess.SubprocessError) as error:
        return Finding(
            name="ffmpeg", state="BROKEN", found=str(error), remedy=f"unset {ENV_FFMPEG}, or name a working ffmpeg"
        )
    origin = f"named by ${ENV_FFMPEG}" if os.environ.get(ENV_FFMPEG) else "from imageio-ffmpeg"
    version = done.stdout.split(" Copyright")[0].removeprefix("ffmpeg version ")
    return Finding(name="ffmpeg", state="ok", found=f"{version}, {origin} ({path})")


def _package(name: str, distribution: str) -> Finding:
    __import__(distribution)
    return Finding(name=name, state="ok", found=_version(distribution) or "installed")


def _cluster() -> Finding:
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        return Finding(name="Ray cluster", state="ok", found="none named: jobs start Ray on this machine")
    mode = os.environ.get("RAY_AUTH_MODE", "not set")
    remedy = "" if mode != "not set" else "set RAY_AUTH_MODE to token or disabled, as the cluster has it"
    return Finding(name="Ray cluster", state="ok", found=f"RAY_ADDRESS={address}, RAY_AUTH_MODE {mode}", remedy=remedy)


def _tracking() -> Finding:
    from pipelines.registry.tracking import open_client, tracking_uri
    from pipelines.storage import vamba_home

    uri = tracking_uri()
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        return Finding(name="MLflow tracking", state="ok", found=f"{uri}, made on first use in {vamba_home()}")
    try:
        open_client()
    except ConnectionError as error:
        return Finding(
            name="MLflow tracking",
            state="BROKEN",
            found=str(error)[:200],
            remedy="correct or unset MLFLOW_TRACKING_URI",
        )
    return Finding(name="MLflow tracking", state="ok", found=uri)


def _storage() -> Finding:
    from pipelines.storage import open_storage, vamba_home

    home = vamba_home()
    try:
        storage = open_storage(home)
        storage.write_atomic(".doctor", b"written by vamba doctor")
        storage.delete(".doctor")
    except OSError as error:
        return Finding(
            name="storage",
            state="BROKEN",
            found=f"{home} can't be written: {error}",
            remedy="set VAMBA_HOME to a writable folder",
        )
    free = shutil.disk_usage(home).free
    remedy = "free some space, or set VAMBA_HOME to a larger disk" if free < _LOW_SPACE_BYTES else ""
    return Finding(
        name="storage", state="ok", found=f"{home} is writable, {free / 1024**3:.0f} GiB free", remedy=remedy
    )


def _git() -> Finding:
    if shutil.which("git") is None:
        return Finding(
            name="git",
            state="missing",
            found="not installed",
            remedy="optional: install it, so that runs record their commit",
        )
    from pipelines.registry.lineage import git_state

    state = git_state(Path(__file__).resolve().parents[1])
    if not state:
        return Finding(
            name="git", state="missing", found="not a git checkout", remedy="optional: runs record no commit"
        )
    dirty = ", with uncommitted changes" if state["git_dirty"] == "true" else ""
    return Finding(name="git", state="ok", found=state["git_commit"][:12] + dirty)


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""
