"""Where a model came from, as flat text tags: what a version carries, and what a gate demands."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.registry.model_files import ModelFiles
from pipelines.registry.models import find_run, parse_version, run_lineage

FILES_TAG = "checkpoint_files"
_SOURCE_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """The tags of a version.

    run, mlflow_run_id, manifest_digest, config_digest, git_commit, git_dirty: of the run; git falls back to the
    source tree
    in use. parent: what stage 2 started from. model_digest and checkpoint_files: the files, by SHA-256.
    environment_digest: of the installed packages and their versions.
    """

    tags: Mapping[str, str]


def build_lineage(run_directory: Path, files: ModelFiles) -> Lineage:
    """Everything known of the model that `run_directory` made."""
    known = run_lineage(run_directory)
    git = git_state(_SOURCE_ROOT) if "git_commit" not in known else {}
    parent = known.pop("init_from", "") or _init_from(run_directory)
    tags = {
        **known,
        **git,
        **_parent(parent),
        "model_digest": files.digest,
        FILES_TAG: json.dumps(dict(files.sha256), sort_keys=True),
        "environment_digest": environment_digest(),
    }
    return Lineage(tags={key: value for key, value in tags.items() if value})


def git_state(directory: Path) -> dict[str, str]:
    """`git_commit` and `git_dirty` ("true"/"false") of a source tree; empty where git or the repository is missing."""
    try:
        commit = _git(directory, "rev-parse", "HEAD")
        changes = _git(directory, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"git_commit": commit, "git_dirty": "true" if changes else "false"}


def installed_packages() -> tuple[str, ...]:
    """Every installed distribution with its version, as "name==version", sorted."""
    return tuple(sorted({f"{item.metadata['Name']}=={item.version}" for item in importlib.metadata.distributions()}))


def environment_digest() -> str:
    """`sha256:…` over every installed distribution and its version."""
    return "sha256:" + hashlib.sha256("\n".join(installed_packages()).encode()).hexdigest()


def _git(directory: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(directory), *arguments], capture_output=True, text=True, timeout=20, check=True
    )
    return done.stdout.strip()


def _init_from(run_directory: Path) -> str:
    path = run_directory / "config.json"
    if not path.is_file():
        return ""
    return json.loads(path.read_text(encoding="utf-8")).get("model", {}).get("init_from") or ""


def _parent(ref: str) -> dict[str, str]:
    """The parent as a registered version, a run, or a directory."""
    if not ref:
        return {}
    if parse_version(ref):
        return {"parent": ref}
    path = Path(ref)
    run = find_run(ref) or (path.parent if (path.parent / "run.json").is_file() else None)
    if run is None:
        return {"parent": ref}
    parent = {"parent": ref, "parent_run": run.name}
    return {**parent, **{f"parent_{key}": value for key, value in run_lineage(run).items() if key.endswith("_digest")}}
