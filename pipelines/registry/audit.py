"""The audit log beside the registry: `audit.jsonl`, one JSON object a line, only ever longer.

    decide(entries so far) ──> what happened ──append, if nobody was faster──> audit.jsonl
                                    └── number, time, actor, and `prev`: SHA-256 of the line before

A line that is changed, cut or put in between breaks the chain at the next one, which `find_damage` tells. That the last
lines are missing is told by the registry: each registered model carries the number and digest of its newest line as a
tag (`anchor.py`). The file is replaced by a conditional write, so of two writers one appends and the other looks again
at what the log says now: `append` is the one place where processes that promote at once meet, and it works the same on
a disk and on S3. Documents too long for a line (the evidence of a gate) lie beside it under their own SHA-256.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pipelines.storage import Storage, open_storage, vamba_home

LOG_NAME = "audit.jsonl"
EVIDENCE = "evidence"
_ATTEMPTS = 100
_PAUSE_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A line. digest: SHA-256 of its bytes. body: its object, empty where the line is none."""

    number: int
    digest: str
    body: Mapping[str, Any]


Decide = Callable[[Sequence[Entry]], Mapping[str, Any]]


class AuditLog:
    """The log in one storage."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    @property
    def uri(self) -> str:
        return f"{self._storage.uri}/{LOG_NAME}"

    def entries(self) -> list[Entry]:
        """Every line, oldest first."""
        return list(_parse(self._read()[0]))

    def append(self, decide: Decide) -> Entry:
        """Add the line that `decide` makes of all lines so far.

        Where another process was faster, `decide` is asked again with its line; what it raises ends the attempt, and
        nothing is written. Raises ConnectionError when others are faster again and again.
        """
        for _ in range(_ATTEMPTS):
            data, version = self._read()
            entries = list(_parse(data))
            line = _line(len(entries) + 1, entries[-1].digest if entries else "", decide(entries))
            # A last line without an end was cut by somebody; it stays, for `find_damage` to tell.
            grown = data + (b"\n" if data and not data.endswith(b"\n") else b"") + line + b"\n"
            if version is None:
                done = self._storage.create(LOG_NAME, grown)
            else:
                done = self._storage.replace(LOG_NAME, grown, version) is not None
            if done:
                return next(entry for entry in _parse(grown) if entry.number == len(entries) + 1)
            time.sleep(_PAUSE_S * random.random())
        raise ConnectionError(
            f"{self.uri} could not be appended to: others were faster {_ATTEMPTS} times. Run the same command again."
        )

    def keep(self, document: Mapping[str, Any]) -> str:
        """Store a document beside the log; returns `sha256:…`, by which `kept` finds it."""
        data = json.dumps(document, indent=1, sort_keys=True).encode()
        digest = hashlib.sha256(data).hexdigest()
        self._storage.create(_document_path(digest), data)
        return f"sha256:{digest}"

    def kept(self, digest: str) -> dict[str, Any]:
        """The document of that digest. Raises FileNotFoundError, or ValueError where it is not what it was."""
        path = _document_path(digest.removeprefix("sha256:"))
        data = self._storage.read_bytes(path)
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
            raise ValueError(f"{self._storage.uri}/{path} was changed: its content has another SHA-256 than its name.")
        return dict(json.loads(data))

    def find_damage(self) -> list[str]:
        """One sentence for every place where lines were changed, cut or put in between; empty for a whole log."""
        data, _ = self._read()
        found = [] if not data or data.endswith(b"\n") else ["the last line is cut"]
        before = ""
        for entry in _parse(data):
            if not entry.body:
                found.append(f"line {entry.number} is no JSON object")
            elif entry.body.get("prev") != before:
                place = f"line {entry.number - 1} was" if entry.number > 1 else "lines before line 1 were"
                found.append(f"{place} changed or removed: line {entry.number} does not follow it")
            elif entry.body.get("number") != entry.number:
                found.append(f"line {entry.number} says it is line {entry.body.get('number')}")
            before = entry.digest
        return found

    def _read(self) -> tuple[bytes, str | None]:
        try:
            return self._storage.read_version(LOG_NAME)
        except FileNotFoundError:
            return b"", None


def open_audit_log() -> AuditLog:
    """The log beside the registry in use.

    `$VAMBA_AUDIT` (a folder or s3://…); unset, `audit/` beside the registry's SQLite file, or in VAMBA_HOME where the
    registry is a server.
    """
    from pipelines.registry.tracking import database_file, tracking_uri

    named = os.environ.get("VAMBA_AUDIT")
    if named:
        return AuditLog(open_storage(named))
    database = database_file(tracking_uri())
    return AuditLog(open_storage((database.parent if database else vamba_home()) / "audit"))


def actor() -> str:
    """Who acts: `$VAMBA_ACTOR`, else the account that runs this process."""
    named = os.environ.get("VAMBA_ACTOR", "").strip()
    if named:
        return named
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container may run under a user id that has no name.
        return str(os.getuid())


def utc_now() -> str:
    """ISO 8601 in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _line(number: int, previous: str, body: Mapping[str, Any]) -> bytes:
    head = {"number": number, "created_at": utc_now(), "actor": actor()}
    return json.dumps({**head, **body, "prev": previous}, ensure_ascii=False).encode()


def _parse(data: bytes) -> Iterator[Entry]:
    for number, line in enumerate(data.removesuffix(b"\n").split(b"\n") if data else (), start=1):
        try:
            body = json.loads(line)
        except ValueError:
            body = None
        digest = hashlib.sha256(line).hexdigest()
        yield Entry(number=number, digest=digest, body=body if isinstance(body, dict) else {})


def _document_path(digest: str) -> str:
    return f"{EVIDENCE}/{digest}.json"
