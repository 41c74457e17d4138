"""A finished run becomes a model version: its directory by URI, its lineage as tags. Done twice it gives the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.registry.lineage import build_lineage
from pipelines.registry.model_files import hash_model_files
from pipelines.registry.models import is_model_directory, resolve_model
from pipelines.registry.tracking import is_server, open_client, tracking_uri

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


def register_model(ref: str, name: str) -> RegisteredVersion:
    """Register the model of a run (or of a model directory) as the next version of `name`.

    Raises ValueError for a reference that is already a version, or a tracking server that can't take a local directory.
    """
    from mlflow.exceptions import MlflowException

    if ref.startswith("models:"):
        raise ValueError(f"{ref} is registered already: promote it as it is, or register the run it came from.")
    if not name or any(character in name for character in "/:@") or name.isspace():
        raise ValueError(f"{name!r} can't name a registered model: use letters, digits, '-', '_' and '.'.")
    directory = resolve_model(ref).directory
    refuse_local_source(directory)
    files = hash_model_files(directory)
    tags = dict(build_lineage(directory.parent, files).tags)
    client = open_client()
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    for known in client.search_model_versions(f"name = '{name}'"):
        if known.tags.get("model_digest") == files.digest and known.tags.get("run", "") == tags.get("run", ""):
            return RegisteredVersion(
                name=name, version=str(known.version), source=str(known.source), tags=known.tags, created=False
            )
    made = client.create_model_version(
        name, source=directory.as_uri(), run_id=_known_run(client, tags), tags=tags, await_creation_for=0
    )
    return RegisteredVersion(name=name, version=str(made.version), source=str(made.source), tags=tags, created=True)


def refuse_local_source(directory: Path) -> None:
    """A tracking server rejects sources on a local disk, which it could not serve to anyone else anyway."""
    if is_server(tracking_uri()) and is_model_directory(directory):
        raise ValueError(
            f"The model lies in {directory} on this machine, and the tracking server {tracking_uri()} takes no local "
            "directories. Copy it to the object store that the server knows and register that, or unset "
            "MLFLOW_TRACKING_URI to use the local registry."
        )


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
