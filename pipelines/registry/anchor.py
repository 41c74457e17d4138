"""What the registry knows of the audit log: the number and digest of the newest line about each model, as its tags.

A chain of lines can't tell that its end is missing, and a second machine with a log of its own would not see the first
one's promotions. Both are told by comparing: the line that the registry names must be in the log that we see.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.registry.audit import AuditLog, Decide, Entry

if TYPE_CHECKING:
    from mlflow import MlflowClient

HEAD_TAG = "vamba.audit.head"
LOG_TAG = "vamba.audit.log"


class AuditLogElsewhere(ValueError):
    """The registry's decisions are recorded in another log than the one in use, or lines of it are missing."""


def record(client: MlflowClient, log: AuditLog, model: str, decide: Decide) -> Entry:
    """Append a line about `model` (see `AuditLog.append`), and let the registry know.

    Raises AuditLogElsewhere before anything is written.
    """
    require_whole(client, log, model)
    entry = log.append(lambda entries: {**decide(entries), "model": model})
    client.set_registered_model_tag(model, HEAD_TAG, f"{entry.number}:{entry.digest}")
    client.set_registered_model_tag(model, LOG_TAG, log.uri)
    return entry


def require_whole(client: MlflowClient, log: AuditLog, model: str) -> None:
    """Raise AuditLogElsewhere where the log in use lacks what the registry knows of."""
    problem = find_missing(client, log, model)
    if problem:
        raise AuditLogElsewhere(
            f"{problem}. Set VAMBA_AUDIT to the place that everybody who promotes uses; if the log was cut, restore it "
            f"({model} in the registry names the line), or remove the tag {HEAD_TAG} of {model} to go on without it."
        )


def find_missing(client: MlflowClient, log: AuditLog, model: str) -> str:
    """A sentence where the log lacks the line that the registry names for `model`, else ""."""
    tags = client.get_registered_model(model).tags
    number, _, digest = tags.get(HEAD_TAG, "").partition(":")
    # Read after the tag: the line that it names is in there, or missing.
    if not number or any(entry.digest == digest for entry in log.entries()):
        return ""
    where = tags.get(LOG_TAG, "")
    elsewhere = f" (the registry's log is {where})" if where and where != log.uri else ""
    return f"The audit log {log.uri} lacks line {number} about {model}, or it was changed{elsewhere}"
