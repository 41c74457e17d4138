"""Taking a version out of the registry: never one that an alias points at, or that another version came from."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from pipelines.registry import history
from pipelines.registry.anchor import record
from pipelines.registry.audit import Entry, open_audit_log
from pipelines.registry.candidates import find_version, require_version
from pipelines.registry.models import run_lineage, version_path
from pipelines.registry.pages import all_models, all_versions
from pipelines.registry.tracking import open_client
from pipelines.training.registered import unmark_registered

if TYPE_CHECKING:
    from mlflow import MlflowClient


class VersionInUse(ValueError):
    """The version is aliased, or another one's parent."""


def delete_version(target: str, *, reason: str) -> str:
    """Delete a version from the registry and release its checkpoint; its files stay. Returns where they are.

    Raises VersionInUse, ModelNotFoundError, or ValueError without a reason.
    """
    name, number = require_version(target)
    if not reason.strip():
        raise ValueError("Deleting a version needs --reason: it is what the audit log keeps of it.")
    client, log = open_client(), open_audit_log()
    version = find_version(client, name, number)
    refuse_used(client, name, number, version)
    source = str(version.source)
    body = {"action": history.DELETE, "version": number, "reason": reason.strip(), "source": source,
            "model_digest": version.tags.get("model_digest", "")}  # fmt: skip
    record(client, log, name, partial(_unless_promoted, body=body, name=name, number=number))
    client.delete_model_version(name, number)
    _release(source, f"{name}/{number}", version.tags)
    return source


def _unless_promoted(entries: Sequence[Entry], *, body: dict[str, Any], name: str, number: str) -> dict[str, Any]:
    """The line, unless a promotion has begun since we looked; one that begins after the line finds it in the log."""
    for entry in history.about(entries, name):
        alias = str(entry.body.get("alias", ""))
        moving = [str(other.body["version"]) for other in history.open_begins(entries, name, alias)]
        if number in (*moving, history.logged_holder(entries, name, alias)):
            raise VersionInUse(f"{name}/{number} is, or is becoming, {alias}: it can't be deleted.")
    return body


def refuse_used(client: MlflowClient, name: str, number: str, version: Any) -> None:
    """Raises VersionInUse."""
    aliases = [alias for alias, held in client.get_registered_model(name).aliases.items() if str(held) == number]
    if aliases:
        raise VersionInUse(
            f"{name}/{number} is {', '.join(sorted(aliases))}: it can't be deleted. Promote another version, or roll "
            "back, first."
        )
    children = _children(client, name, number, version.tags)
    if children:
        raise VersionInUse(
            f"{name}/{number} is what {', '.join(children)} started from: it can't be deleted while its children are "
            "there."
        )


def _children(client: MlflowClient, name: str, number: str, tags: dict[str, str]) -> list[str]:
    """The versions, of any model, that were trained from this one: by its name or by its weights."""
    weights, uri = tags.get("weights_digest", ""), f"models:/{name}/{number}"
    found = []
    for model in all_models(client):
        for other in all_versions(client, model.name):
            same_weights = weights and other.tags.get("parent_digest") == weights
            if other.tags.get("parent") == uri or same_weights:
                found.append(f"{other.name}/{other.version}")
    return [label for label in found if label != f"{name}/{number}"]


def _release(source: str, label: str, tags: dict[str, str]) -> None:
    """Give the checkpoint back to the retention rule."""
    path = version_path(source)
    unmark_registered(path, label)
    run = path.parent if (path.parent / "run.json").is_file() else path.parent.parent
    if run_lineage(run).get("run") == tags.get("run"):
        for checkpoint in (run / "checkpoints").glob("step_*"):
            if checkpoint.is_dir():
                unmark_registered(checkpoint, label)
