"""Where a model came from, as flat text tags: what a version carries, and what a gate demands."""

from __future__ import annotations

import fnmatch
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
DECISIVE_FILES = ("*.safetensors", "*.safetensors.index.json", "config.json", "tokenizer.json")
_SOURCE_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """The tags of a version.

    run, mlflow_run_id, manifest_digest, config_digest, git_commit, git_dirty, backends: of the run; git falls back to
    the source tree in use. step: of the checkpoint, for one that was registered by its step. parent: what it started
    from, parent_digest: that model's `weights_digest`. model_digest and checkpoint_files: the files, by SHA-256.
    environment_digest: of the packages that trained it, or those installed here. lock_digest: of requirements/*.lock.
    """

    tags: Mapping[str, str]


def build_lineage(known: Mapping[str, str], files: ModelFiles, run_directory: Path | None = None) -> Lineage:
    """Everything known of a model. known: what `resolve_model` found out about it."""
    known = dict(known)
    git = git_state(_SOURCE_ROOT) if "git_commit" not in known else {}
    parent = known.pop("init_from", "") or (_init_from(run_directory) if run_directory else "")
    tags = {
        **known,
        **git,
        **_parent(parent),
        "model_digest": files.digest,
        "weights_digest": weights_digest(files.sha256),
        FILES_TAG: json.dumps(dict(files.sha256), sort_keys=True),
        "environment_digest": _training_environment(known.get("mlflow_run_id", "")) or environment_digest(),
        "lock_digest": lock_digest(_SOURCE_ROOT / "requirements"),
    }
    return Lineage(tags={key: value for key, value in tags.items() if value})


def weights_digest(sha256: Mapping[str, str]) -> str:
    """Digest of what a training that starts from a model depends on; equals `StartModel.digest` in run.json."""
    decisive = {
        name: value for name, value in sha256.items() if any(fnmatch.fnmatchcase(name, rule) for rule in DECISIVE_FILES)
    }
    lines = "".join(f"{name} {value}\n" for name, value in sorted(decisive.items()))
    return "sha256:" + hashlib.sha256(lines.encode()).hexdigest()


def lock_digest(folder: Path) -> str:
    """Digest of the locked requirements that came with the sources; "" where the package is installed without them."""
    locks = sorted(folder.glob("*.lock"))
    lines = "".join(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n" for path in locks)
    return "sha256:" + hashlib.sha256(lines.encode()).hexdigest() if locks else ""


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


def _training_environment(mlflow_run_id: str) -> str:
    """What the MLflow run of the training noted last, "" where there is none."""
    from mlflow.exceptions import MlflowException

    from pipelines.registry.tracking import open_client

    if not mlflow_run_id:
        return ""
    try:
        return str(open_client().get_run(mlflow_run_id).data.tags.get("environment_digest", ""))
    except MlflowException:
        return ""


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
