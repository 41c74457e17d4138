"""From what a user calls a model to the directory that holds it.

    directory | s3://… | run name | models:/NAME/VERSION | models:/NAME@alias  ──resolve_model──>  ResolvedModel

A model directory is in release layout (`config.json`, `*.safetensors`, tokenizer, `processing.json`). Registered
versions point at their directory by URI: a local one is used where it lies; one in an object store is fetched once
into `VAMBA_HOME/models/`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from pipelines.redaction import redacted
from pipelines.registry.model_files import kept_path
from pipelines.storage import open_storage, vamba_home

_VERSION = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<version>\d+)|@(?P<alias>[^/@]+))")


class ModelNotFoundError(ValueError):
    """The reference names no model; the message says what was looked for and what there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedModel:
    """A model that can be loaded.

    directory: local, in release layout. ref: as the user wrote it. lineage: what is known of its origin: `run`,
    `mlflow_run_id`, `manifest_digest`, `config_digest`, and for a registered version `name`, `version` and its tags.
    """

    directory: Path
    ref: str
    lineage: Mapping[str, str]


def resolve_model(ref: str) -> ResolvedModel:
    """Find the model that `ref` names. Raises `ModelNotFoundError`."""
    if ref.startswith("models:"):
        return _registered(ref)
    if ref.startswith("s3://"):
        return _stored(ref)
    if is_model_directory(Path(ref)):
        directory = Path(ref).resolve()
        return ResolvedModel(directory=directory, ref=ref, lineage=run_lineage(directory.parent))
    run = find_run(ref)
    if run is None:
        raise ModelNotFoundError(
            f"There is no model {ref!r}: not a directory with config.json and safetensors, not a run below "
            f"{vamba_home() / 'runs'} ({_names_of_runs()}), and not models:/NAME/VERSION or models:/NAME@alias."
        )
    if not is_model_directory(run / "model"):
        raise ModelNotFoundError(
            f"Run {ref!r} has no finished model yet ({run / 'model'} is missing): run the same `vamba train` "
            "command again to let it finish."
        )
    return ResolvedModel(directory=run / "model", ref=ref, lineage=run_lineage(run))


def is_model_directory(path: Path) -> bool:
    """True where a model in release layout lies."""
    return (path / "config.json").is_file() and any(path.glob("*.safetensors"))


def find_run(ref: str) -> Path | None:
    """The run directory named `ref` below VAMBA_HOME, or given by its path."""
    for candidate in (vamba_home() / "runs" / ref, Path(ref)):
        if (candidate / "run.json").is_file():
            return candidate.resolve()
    return None


def run_lineage(run: Path) -> dict[str, str]:
    """What `run.json` records of a run's origin, as flat text; empty for a directory that is no run."""
    path = run / "run.json"
    if not path.is_file():
        return {}
    return lineage_of_record(json.loads(path.read_text(encoding="utf-8")), run.name)


def lineage_of_record(record: Mapping[str, Any], name: str) -> dict[str, str]:
    """The content of a `run.json` as lineage. `parent`: what it started from, a version rather than an alias."""
    start = record.get("start_model") or {}
    known = {
        "run": record.get("name", name),
        "mlflow_run_id": record.get("mlflow_run_id"),
        "manifest_digest": record.get("data_digest"),
        "config_digest": record.get("config_digest"),
        "git_commit": record.get("git_commit"),
        "git_dirty": record.get("git_dirty"),
        "init_from": start.get("source") or record.get("init_from"),
        "parent_digest": start.get("digest"),
        "backends": record.get("backends"),
    }
    return {key: _text(value) for key, value in known.items() if value not in (None, "")}


def parse_version(ref: str) -> tuple[str, str | None, str | None] | None:
    """(name, version, alias) of a `models:/` reference, None when it is none."""
    match = _VERSION.fullmatch(ref)
    return (match["name"], match["version"], match["alias"]) if match else None


def version_path(source: str) -> Path:
    """Where the directory behind a version's source URI is on this machine, or will be once it is fetched."""
    if source.startswith("file:"):
        return Path(unquote(urlparse(source).path))
    if "://" not in source:
        return Path(source)
    return vamba_home() / "models" / hashlib.sha256(source.encode()).hexdigest()[:16]


def version_directory(source: str, digest: str = "") -> Path:
    """The local directory behind a version's source URI, fetched when it lies in an object store.

    digest: of the version's files. A longer training of its run may have put another model in its place; the one that
    was registered is then beside it (`pipelines.training.registered`).
    """
    path = version_path(source)
    if not is_remote(source):
        kept = kept_path(path, digest)
        return kept if digest and kept.is_dir() else path
    if not is_model_directory(path):
        from pipelines.registry.transfer import fetch_model

        fetch_model(open_storage(source), path)
    return path


def is_remote(source: str) -> bool:
    """Whether a source lies in an object store and not on a file system."""
    return "://" in source and not source.startswith("file:")


def _registered(ref: str) -> ResolvedModel:
    from mlflow.exceptions import MlflowException

    from pipelines.registry.tracking import open_client, tracking_uri

    parsed = parse_version(ref)
    if parsed is None:
        raise ModelNotFoundError(f"{ref!r} is not a model reference: write models:/NAME/VERSION or models:/NAME@alias.")
    name, number, alias = parsed
    client = open_client()
    try:
        version = (
            client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, str(number))
        )
    except MlflowException as error:
        raise ModelNotFoundError(
            f"{ref} is not in the registry at {redacted(tracking_uri())}. `vamba models ls` lists what is there."
        ) from error
    directory = version_directory(str(version.source), version.tags.get("model_digest", ""))
    if not is_model_directory(directory):
        raise ModelNotFoundError(
            f"{ref} points at {version.source}, where there is no model any more. Restore the directory, or "
            "promote another version."
        )
    lineage = {**version.tags, "name": version.name, "version": str(version.version)}
    return ResolvedModel(directory=directory, ref=ref, lineage=lineage)


def _names_of_runs() -> str:
    names = sorted(path.parent.name for path in (vamba_home() / "runs").glob("*/run.json"))
    return ", ".join(names[:10]) or "there are none"


def _stored(uri: str) -> ResolvedModel:
    """A model in an object store; where a run was mirrored, its run.json lies beside it."""
    from pipelines.registry.transfer import fetch_model, looks_current

    storage, directory = open_storage(uri), version_path(uri)
    # Unlike a version, an address may hold another model today than when it was fetched.
    if not (is_model_directory(directory) and looks_current(storage, directory)):
        fetch_model(storage, directory)
    if not is_model_directory(directory):
        raise ModelNotFoundError(f"There is no model at {uri}: no config.json with safetensors.")
    parent, _, _ = uri.rstrip("/").rpartition("/")
    try:
        record = json.loads(open_storage(parent).read_bytes("run.json"))
    except (FileNotFoundError, ValueError):
        record = {}
    lineage = lineage_of_record(record, parent.rpartition("/")[2]) if record else {}
    return ResolvedModel(directory=directory, ref=uri, lineage=lineage)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return json.dumps(dict(value), sort_keys=True)
    return str(value).lower() if isinstance(value, bool) else str(value)
