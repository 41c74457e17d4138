"""A model becomes a version of a registered one: its place by URI, its lineage as tags. Done twice it gives the same.

    RUN ── model/ ─────────────────────────────┐
    RUN@STEP ── export ──> models/step_…/ ─────┼── hash ──> [copied to a store] ──> version with tags, audit line, marks
    directory, s3://… ─────────────────────────┘

Nothing of the model goes through the tracking server: a version names where it lies. A server that others use takes
no place on this machine's disk; there `store` (or $VAMBA_MODELS) says which object store the files are copied to.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.redaction import redacted
from pipelines.registry import history
from pipelines.registry.anchor import record, require_whole
from pipelines.registry.audit import AuditLog, actor, open_audit_log
from pipelines.registry.lineage import build_lineage
from pipelines.registry.model_files import ModelFiles, hash_model_files
from pipelines.registry.pages import all_versions
from pipelines.registry.registrable import Registrable, find_registrable
from pipelines.registry.tracking import is_server, open_client, tracking_uri
from pipelines.registry.transfer import send_model
from pipelines.storage import open_storage
from pipelines.training.registered import mark_registered

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredVersion:
    """A version in the registry. created: False when this model was registered under this name before."""

    name: str
    version: str
    source: str
    tags: Mapping[str, str]
    created: bool

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.version}"


def register_model(ref: str, name: str, *, store: str | None = None) -> RegisteredVersion:
    """Register the model that `ref` names as the next version of `name`.

    ref: a run, RUN@STEP, a model directory, or s3://…. store: where its files are copied to first; None: $VAMBA_MODELS,
    and unset they stay where they are.

    Raises ValueError for a reference that is already a version, a name that can't be one, or a tracking server that
    can't take a local directory.
    """
    if ref.startswith("models:"):
        raise ValueError(f"{ref} is registered already: promote it as it is, or register the run it came from.")
    _check_name(name)
    store = store or os.environ.get("VAMBA_MODELS") or None
    if store is None and not ref.startswith("s3://"):
        _refuse_local_source(ref)
    model = find_registrable(ref)
    files = hash_model_files(model.directory)
    client, log = open_client(), open_audit_log()
    tags = {**build_lineage(model.lineage, files, model.run).tags, "registered_by": actor()}
    _create_model(client, name)
    require_whole(client, log, name)
    known = _known_version(client, name, tags)
    if known is not None:
        _mark(model, known, files.digest)
        _note(client, log, known)
        return known
    source = model.source if store is None else _copy(model.directory, store, name, files)
    made = client.create_model_version(
        name, source=source, run_id=_known_run(client, tags), tags=tags, await_creation_for=0
    )
    version = RegisteredVersion(name=name, version=str(made.version), source=source, tags=tags, created=True)
    version = _first_of(client, version)
    _mark(model, version, files.digest)
    _note(client, log, version)
    return version


def _note(client: MlflowClient, log: AuditLog, version: RegisteredVersion) -> None:
    """The audit line of a registration; of one that was killed before it had its line, too."""
    lines = [entry.body for entry in history.about(log.entries(), version.name)]
    if any((line.get("action"), line.get("version")) == (history.REGISTER, version.version) for line in lines):
        return
    named = {key: version.tags.get(key, "") for key in ("model_digest", "run", "parent")}
    body = {"action": history.REGISTER, "version": version.version, "source": version.source, **named}
    record(client, log, version.name, lambda entries: body)


def _check_name(name: str) -> None:
    if not name or any(character in name for character in "/:@'\"") or name.isspace():
        raise ValueError(f"{name!r} can't name a registered model: use letters, digits, '-', '_' and '.'.")


def _refuse_local_source(ref: str) -> None:
    """A tracking server rejects sources on a local disk, which it could not serve to anyone else anyway."""
    if is_server(tracking_uri()):
        raise ValueError(
            f"The model of {ref} lies on this machine, and the tracking server {redacted(tracking_uri())} takes no "
            "local directories. Say which object store it is copied to with --store s3://BUCKET/PREFIX (or "
            "VAMBA_MODELS); the server only gets the address. Or unset MLFLOW_TRACKING_URI to use the local registry."
        )


def _create_model(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _first_of(client: MlflowClient, made: RegisteredVersion) -> RegisteredVersion:
    """The version itself, or the one that another process made of the same model while this one copied its files.

    MLflow numbers versions one after the other and has no condition that would keep a second one out. So both look
    again: whoever has the higher number takes its version back, and both say the same.
    """
    known = _known_version(client, made.name, made.tags)
    if known is None or known.version == made.version:
        return made
    client.delete_model_version(made.name, made.version)
    return known


def _known_version(client: MlflowClient, name: str, tags: Mapping[str, str]) -> RegisteredVersion | None:
    """The first version that has these files from this run."""
    same = [
        known
        for known in all_versions(client, name)
        if all(known.tags.get(key, "") == tags.get(key, "") for key in ("model_digest", "run"))
    ]
    if not same:
        return None
    known = min(same, key=lambda version: int(version.version))
    return RegisteredVersion(
        name=name, version=str(known.version), source=str(known.source), tags=known.tags, created=False
    )


def _copy(directory: Path, store: str, name: str, files: ModelFiles) -> str:
    """The files at a place named after their content; returns its URI."""
    folder = f"{name}/{files.digest.removeprefix('sha256:')[:16]}"
    storage = open_storage(f"{store.rstrip('/')}/{folder}")
    send_model(directory, storage)
    return storage.uri if "://" in storage.uri else Path(storage.uri).as_uri()


def _mark(model: Registrable, version: RegisteredVersion, digest: str) -> None:
    """So that retention and longer runs leave alone what the version was made from."""
    for place in model.marks:
        mark_registered(place, f"{version.name}/{version.version}", digest)


def _known_run(client: MlflowClient, tags: Mapping[str, str]) -> str | None:
    from mlflow.exceptions import MlflowException

    run_id = tags.get("mlflow_run_id")
    if not run_id:
        return None
    try:
        client.get_run(run_id)
    except MlflowException:
        return None
    return run_id
