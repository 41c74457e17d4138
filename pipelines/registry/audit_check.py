"""Is the audit log the whole truth? Its chain, its end, the evidence it names, and where the aliases really are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipelines.registry import history
from pipelines.registry.anchor import HEAD_TAG, find_missing
from pipelines.registry.audit import AuditLog, open_audit_log
from pipelines.registry.pages import all_models
from pipelines.registry.tracking import open_client

if TYPE_CHECKING:
    from mlflow import MlflowClient


def find_problems(model: str) -> list[str]:
    """One sentence for everything that is not as it should be. Raises ValueError for an unknown model."""
    from mlflow.exceptions import MlflowException

    client, log = open_client(), open_audit_log()
    try:
        registered = client.get_registered_model(model)
    except MlflowException as error:
        raise ValueError(f"There is no registered model {model!r}: `vamba models ls` lists what there is.") from error
    found = [f"{log.uri}: {sentence}" for sentence in log.find_damage()]
    # The newest line of all is the one that no later line protects, whichever model it is about.
    for other in all_models(client):
        missing = find_missing(client, log, other.name) if HEAD_TAG in other.tags else ""
        found += [missing] if missing else []
    found += _damaged_evidence(log, model)
    found += _misplaced_aliases(client, log, model, registered)
    return found


def _damaged_evidence(log: AuditLog, model: str) -> list[str]:
    found = []
    for entry in history.about(log.entries(), model):
        digest = entry.body.get("evidence")
        if not digest:
            continue
        try:
            log.kept(str(digest))
        except FileNotFoundError:
            found.append(f"the evidence {digest} of line {entry.number} is missing")
        except ValueError as error:
            found.append(str(error))
    return list(dict.fromkeys(found))


def _misplaced_aliases(client: MlflowClient, log: AuditLog, model: str, registered: Any) -> list[str]:
    entries = log.entries()
    known = {str(entry.body["alias"]) for entry in history.about(entries, model) if entry.body.get("alias")}
    found = []
    for alias in sorted({*known, *registered.aliases}):
        held = str(registered.aliases.get(alias, ""))
        logged = history.logged_holder(entries, model, alias)
        is_open = any(history.open_begins(entries, model, alias))
        if held != logged:
            why = "a move is open: it goes on, or was killed" if is_open else "it was moved without the log"
            found.append(
                f"{alias} of {model} points at {held or 'none'}, and by the log at {logged or 'none'} ({why}); the "
                "same promotion or rollback again puts it right"
            )
    return found
