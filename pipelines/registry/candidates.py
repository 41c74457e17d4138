"""From what a user wants promoted to a version: its files, its source and its tags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.registry.models import ModelNotFoundError, is_remote, parse_version, version_directory, version_path

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A model to be judged. version: "" before registration. directory: on this machine; of a remote source that has
    not been fetched it is missing still."""

    name: str
    version: str
    source: str
    directory: Path
    tags: Mapping[str, str]

    @property
    def label(self) -> str:
        return f"{self.name}/{self.version or '(new)'}"

    @property
    def is_remote(self) -> bool:
        return is_remote(self.source)


def parse_target(target: str) -> tuple[str, str] | None:
    """(name, version) of `NAME/VERSION` or `models:/NAME/VERSION`; None for a run or a directory."""
    uri = target if target.startswith("models:") else f"models:/{target}"
    parsed = parse_version(uri)
    if target.startswith("models:") and (parsed is None or parsed[1] is None):
        raise ValueError(f"{target!r} names no version: write NAME/VERSION or models:/NAME/VERSION.")
    if parsed is None or parsed[1] is None or Path(target).exists():
        return None
    return parsed[0], parsed[1]


def require_version(target: str) -> tuple[str, str]:
    """(name, version) where nothing else will do. Raises ValueError."""
    parsed = parse_target(target)
    if parsed is None:
        raise ValueError(f"{target!r} names no version: write NAME/VERSION or models:/NAME/VERSION.")
    return parsed


def registered_candidate(client: MlflowClient, name: str, number: str) -> Candidate:
    """A version of the registry. Raises ModelNotFoundError."""
    version = find_version(client, name, number)
    source, tags = str(version.source), dict(version.tags)
    directory = (
        version_path(source) if is_remote(source) else version_directory(source, digest=tags.get("model_digest", ""))
    )
    return Candidate(name=name, version=number, source=source, directory=directory, tags=tags)


def find_version(client: MlflowClient, name: str, number: str) -> Any:
    """MLflow's record of a version. Raises ModelNotFoundError."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version(name, number)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise ModelNotFoundError(
            f"There is no version {number} of {name!r} in the registry. `vamba models ls` lists what is there."
        ) from error
