"""Approvals: somebody says that a version may be promoted. The audit log is where they stand.

Names are taken as they are given, with the account that gave them beside it: who may write to the registry is decided
by those who guard it, not here.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.registry.anchor import record
from pipelines.registry.audit import Entry, open_audit_log
from pipelines.registry.candidates import Candidate, find_version, require_version
from pipelines.registry.history import about
from pipelines.registry.tracking import open_client

APPROVE = "version.approve"


def approve(target: str, *, by: str, reason: str) -> tuple[str, str]:
    """Record an approval of a version; returns (name, version). A second one by the same name changes nothing.

    Raises ValueError without a name or a reason.
    """
    name, number = require_version(target)
    by, reason = " ".join(by.split()), reason.strip()
    if not by or not reason:
        raise ValueError("An approval needs a name (--by) and a reason (--reason): they are what it consists of.")
    client, log = open_client(), open_audit_log()
    version = find_version(client, name, number)
    digest = version.tags.get("model_digest", "")
    known = _approvals(log.entries(), name, number, digest)
    if by.casefold() not in {str(entry.body["by"]).casefold() for entry in known}:
        body = {"action": APPROVE, "version": number, "by": by, "reason": reason, "model_digest": digest}
        record(client, log, name, lambda entries: body)
    shown = sorted({str(entry.body["by"]) for entry in known} | {by})
    client.set_model_version_tag(name, number, "approved_by", ", ".join(shown))
    return name, number


def approvers(entries: Sequence[Entry], candidate: Candidate) -> tuple[str, ...]:
    """Who approved a version, each name once, without whoever registered it."""
    registrar = candidate.tags.get("registered_by", "").casefold()
    digest = candidate.tags.get("model_digest", "")
    found: dict[str, str] = {}
    for entry in _approvals(entries, candidate.name, candidate.version, digest):
        found.setdefault(str(entry.body["by"]).casefold(), str(entry.body["by"]))
    return tuple(name for key, name in found.items() if key != registrar)


def _approvals(entries: Sequence[Entry], name: str, number: str, digest: str) -> list[Entry]:
    return [
        entry
        for entry in about(entries, name)
        if (entry.body.get("action"), entry.body.get("version"), entry.body.get("model_digest"))
        == (APPROVE, number, digest)
    ]
