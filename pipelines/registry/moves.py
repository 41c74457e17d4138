"""Moving an alias so that of two at once one wins, and a kill at any moment leaves a log that tells the truth.

    settle ──> what a killed process left open is ended, by what the registry shows
    move_alias:  alias.begin (only if nobody is at it, and nothing moved since `seen`) ── the claim
                 ──> alias set, read back ──> tags of the version ──> alias.move (only if the claim still stands)

MLflow sets an alias without conditions and keeps no history of it, so the condition is the audit log's: a line is
appended only to the log that was looked at. A claim lasts for the few requests between its two lines, not for the
minutes of judging. Whoever dies within is known by its process on the same machine, and by silence on another.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from pipelines.processes import machine_name, start_ticks
from pipelines.registry import history
from pipelines.registry.anchor import record
from pipelines.registry.audit import AuditLog, Entry

if TYPE_CHECKING:
    from mlflow import MlflowClient

SILENCE_S = 300.0
_at_work: set[str] = set()
"""The claims of this process: one of its own that is not here was left behind by an error."""


class AliasBusy(RuntimeError):
    """Another process moves the alias at this moment."""

    exit_code = 1


class AliasMoved(RuntimeError):
    """The alias is not where it was when the decision was made."""

    exit_code = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A decision to be carried out. previous: the holder when it was made, "" for none. tags: of the version.

    seen: the number of the log's newest move of each alias that the decision rests on. facts: what the log is to keep.
    """

    model: str
    version: str
    alias: str
    previous: str
    decision: str
    seen: Mapping[str, int]
    tags: Mapping[str, str]
    facts: Mapping[str, Any]


def holder_of(client: MlflowClient, model: str, alias: str) -> str:
    """The version that an alias points at, "" where there is no such alias."""
    from mlflow.exceptions import MlflowException

    try:
        return str(client.get_registered_model(model).aliases.get(alias, ""))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return ""


def settle(client: MlflowClient, log: AuditLog, model: str, alias: str) -> None:
    """End what a killed process has begun, saying where it left the alias. What is under way elsewhere stays."""
    for begin in history.open_begins(log.entries(), model, alias):
        if _is_alive(begin):
            continue
        holder = holder_of(client, model, alias)
        # Another process may end it first.
        with contextlib.suppress(AliasBusy):
            record(client, log, model, partial(_interrupt, begin=begin, holder=holder))


def move_alias(client: MlflowClient, log: AuditLog, move: Move) -> Entry:
    """Carry out a decision; returns the line that completes it.

    Raises AliasBusy or AliasMoved where another process was faster; the alias is then as that one left it.
    """
    claim = secrets.token_hex(8)
    _at_work.add(claim)
    try:
        return _carry_out(client, log, move, claim)
    finally:
        _at_work.discard(claim)


def _carry_out(client: MlflowClient, log: AuditLog, move: Move, claim: str) -> Entry:
    begin = record(client, log, move.model, partial(_begin, move=move, claim=claim))
    end = partial(_end, begin=begin, move=move)
    found = holder_of(client, move.model, move.alias)
    if found not in (move.previous, move.version):
        record(client, log, move.model, partial(end, action=history.ABANDON, holder=found))
        raise AliasMoved(_moved(move, found, "by something that keeps no log (MLflow itself?)"))
    # If this process has slept, another one has taken over, and the alias is its to move.
    _check_open(log.entries(), begin, move)
    client.set_registered_model_alias(move.model, move.alias, move.version)
    found = holder_of(client, move.model, move.alias)
    if found != move.version:
        record(client, log, move.model, partial(end, action=history.ABANDON, holder=found))
        raise AliasMoved(_moved(move, found, "while this one moved it"))
    for key, value in move.tags.items():
        client.set_model_version_tag(move.model, move.version, key, value)
    return record(client, log, move.model, partial(end, action=history.MOVE))


def _begin(entries: Sequence[Entry], *, move: Move, claim: str) -> dict[str, Any]:
    """The claim. Raises where somebody is at it, or was since the decision was made."""
    for other in history.open_begins(entries, move.model, move.alias):
        body = other.body
        raise AliasBusy(
            f"{body['actor']} (process {body['pid']} on {body['host']}) has been moving {move.alias} of {move.model} "
            f"to version {body['version']} since {body['created_at']}: wait a moment and run the same command again. "
            f"If that process is gone, its claim ends {SILENCE_S:.0f} s after it was made (here, at once)."
        )
    for alias, number in move.seen.items():
        newer = [entry for entry in history.moves(entries, move.model, alias) if entry.number > number]
        if newer:
            body = newer[-1].body
            raise AliasMoved(
                f"{alias} of {move.model} was moved from version {body['previous'] or '(none)'} to {body['version']} "
                f"by {body['actor']} at {body['created_at']}, while version {move.version} was judged: nothing was "
                "changed. Run the same command again to judge against what holds now."
            )
    if history.is_deleted(entries, move.model, move.version):
        raise AliasMoved(f"Version {move.version} of {move.model} was deleted meanwhile; nothing was changed.")
    return {
        "action": history.BEGIN,
        **_subject(move),
        "claim": claim,
        "host": socket.gethostname(),
        "boot": machine_name(),
        "pid": os.getpid(),
        "pid_start": start_ticks(os.getpid()),
    }


def _end(entries: Sequence[Entry], *, action: str, begin: Entry, move: Move, **found: str) -> dict[str, Any]:
    _check_open(entries, begin, move)
    return {"action": action, **_subject(move), **found, "of": begin.digest}


def _check_open(entries: Sequence[Entry], begin: Entry, move: Move) -> None:
    if all(other.digest != begin.digest for other in history.open_begins(entries, move.model, move.alias)):
        raise AliasMoved(
            f"This process was not heard of for {SILENCE_S:.0f} s while it moved {move.alias} of {move.model} to "
            f"version {move.version}, and another one took over. `vamba history {move.model} --verify` tells where the "
            "alias is."
        )


def _interrupt(entries: Sequence[Entry], *, begin: Entry, holder: str) -> dict[str, Any]:
    body = begin.body
    if all(other.digest != begin.digest for other in history.open_begins(entries, body["model"], body["alias"])):
        raise AliasBusy(f"Another process ends what was left open of {body['model']}: run the same command again.")
    subject = {key: body[key] for key in ("version", "alias", "previous", "decision")}
    return {"action": history.INTERRUPT, **subject, "holder": holder, "of": begin.digest}


def _subject(move: Move) -> dict[str, Any]:
    return {
        "version": move.version,
        "alias": move.alias,
        "previous": move.previous,
        "decision": move.decision,
        **move.facts,
    }


def _moved(move: Move, found: str, how: str) -> str:
    return (
        f"{move.alias} of {move.model} points at version {found or '(none)'} and not at {move.previous or '(none)'} as "
        f"when version {move.version} was judged: it was moved {how}. Nothing was changed; run the same command again."
    )


def _is_alive(begin: Entry) -> bool:
    body = begin.body
    if body["host"] == socket.gethostname() and body["boot"] == machine_name():
        if (body["pid"], body["pid_start"]) == (os.getpid(), start_ticks(os.getpid())):
            return body["claim"] in _at_work
        return start_ticks(body["pid"]) == body["pid_start"]
    age = datetime.now(UTC) - datetime.fromisoformat(body["created_at"])
    return age.total_seconds() < SILENCE_S
