"""One ingest at a time into one destination.

`ingest.lock` says who writes: host, process, when it began and when it was last heard of. It is created, renewed,
taken over and removed by conditional writes, so of several ingests one holds it, on S3 as on a disk. The holder renews
it every 20 s. A lock whose process is gone (same machine), or that has been silent for two minutes and stays so while
we watch (another machine), is taken over. Its former holder, should it only have slept, finds out before its next
write: the driver by renewing (`Lease.confirm`), its workers by reading (`check_holder`).
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from pipelines.processes import machine_name, start_ticks
from pipelines.storage import Storage

LOCK_NAME = "ingest.lock"
_HEARTBEAT_S = 20.0
_SILENCE_S = 120.0
_WATCH_S = 45.0  # clocks of machines differ: what looks silent gets the time to renew its lock twice
_LOOK_S = 1.0


class DestinationBusy(ValueError):
    """Another ingest is writing to the destination."""


class LeaseLost(ValueError):
    """This ingest has lost its destination to another one."""


class Lease:
    """The lock of a destination, while this process holds it."""

    def __init__(self, storage: Storage, me: dict[str, Any], version: str) -> None:
        self._storage, self._me, self._version = storage, me, version
        self._one_at_a_time = threading.Lock()
        self._lost = False

    @property
    def holder(self) -> str:
        """What `check_holder` knows this ingest by, in whatever process it works."""
        return str(self._me["token"])

    def confirm(self) -> None:
        """Renews the lock now. Call it before a step that only its holder may take.

        Raises:
            LeaseLost: another ingest has the destination.
        """
        with self._one_at_a_time:
            version = None if self._lost else self._storage.replace(LOCK_NAME, _encode(self._me), self._version)
            self._lost = version is None
            self._version = version or self._version
        if self._lost:
            raise _lost(self._storage)

    def release(self) -> None:
        """Removes the lock, unless it is another's by now."""
        with self._one_at_a_time:
            self._storage.delete_version(LOCK_NAME, self._version)


def check_free(storage: Storage) -> None:
    """Refuses to go on while another ingest holds the destination, before anything there is looked at.

    Raises:
        DestinationBusy: another ingest holds it; the message names it.
    """
    holder, _ = _read(storage)
    if holder is not None and _is_alive(holder):
        raise _busy(storage, holder)


def check_holder(storage: Storage, holder: str) -> None:
    """Call it before a worker writes what another ingest may have by the same name.

    Raises:
        LeaseLost: the destination is not `holder`'s any more: its driver is gone, or has slept too long.
    """
    found, _ = _read(storage)
    if found is None or found["token"] != holder:
        raise _lost(storage)


@contextmanager
def destination_lock(storage: Storage) -> Iterator[Lease]:
    """Holds the lock of a destination.

    Raises:
        DestinationBusy: another ingest holds it; the message names it.
    """
    me = {
        "token": secrets.token_hex(8),
        "host": socket.gethostname(),
        "boot": machine_name(),
        "pid": os.getpid(),
        "pid_start": start_ticks(os.getpid()),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    lease = Lease(storage, me, _acquire(storage, me))
    stopped = threading.Event()
    beat = threading.Thread(target=_keep_alive, args=(lease, stopped), daemon=True, name="ingest-lock")
    beat.start()
    try:
        storage.remove_leftovers()
        yield lease
    finally:
        stopped.set()
        beat.join()
        lease.release()


def _acquire(storage: Storage, me: dict[str, Any]) -> str:
    """Creates the lock or takes a dead one over; returns its version."""
    while True:
        if storage.create(LOCK_NAME, _encode(me)):
            if storage.create(LOCK_NAME, _encode({**me, "token": ""})):
                storage.delete(LOCK_NAME)
                raise ValueError(
                    f"the store of {storage.uri} writes an object although one is there and If-None-Match forbids it, "
                    "so nothing keeps two ingests apart; use a store, or a version of it, with conditional writes"
                )
            found, version = _read(storage)
            if found is not None and found["token"] == me["token"]:
                return version
            continue  # we slept, and it was taken over
        holder, version = _read(storage)
        if holder is not None and (_is_alive(holder) or not _stays_silent(storage, holder, version)):
            raise _busy(storage, holder)
        taken = storage.replace(LOCK_NAME, _encode(me), version) if version else None
        if taken is not None:
            return taken


def _keep_alive(lease: Lease, stopped: threading.Event) -> None:
    while not stopped.wait(_HEARTBEAT_S):
        try:
            lease.confirm()
        except LeaseLost:
            return
        except (OSError, ValueError):
            continue  # the store does not answer: perhaps next time; `confirm` decides before anything is published


def _stays_silent(storage: Storage, holder: dict[str, Any], version: str) -> bool:
    """Whether a lock is not renewed while we watch; at once if its process is known to be gone."""
    if _is_here(holder):
        return True
    until = time.monotonic() + _WATCH_S
    while time.monotonic() < until:
        time.sleep(min(_LOOK_S, _WATCH_S))
        if _read(storage)[1] != version:
            return False
    return True


def _busy(storage: Storage, holder: dict[str, Any]) -> DestinationBusy:
    elsewhere = "" if _is_here(holder) else f" (if its machine is gone, {_SILENCE_S:.0f} s after it was last heard of)"
    return DestinationBusy(
        f"another ingest is writing to {storage.uri}: process {holder['pid']} on {holder['host']}, started "
        f"{holder['started']}. Wait for it or end it; then the same command continues from where it is{elsewhere}"
    )


def _lost(storage: Storage) -> LeaseLost:
    return LeaseLost(
        f"this ingest was not heard of for {_SILENCE_S:.0f} s, and another one has taken {storage.uri} over; nothing "
        "was published. Run the same command again when that one has ended"
    )


def _encode(me: dict[str, Any]) -> bytes:
    return json.dumps({**me, "heard_s": time.time()}).encode()


def _read(storage: Storage) -> tuple[dict[str, Any] | None, str]:
    """The holder and the state of the lock; no holder if there is none or the file is no lock."""
    try:
        data, version = storage.read_version(LOCK_NAME)
    except FileNotFoundError:
        return None, ""
    with contextlib.suppress(ValueError):
        document: dict[str, Any] = json.loads(data)
        return document, version
    return None, version


def _is_here(holder: dict[str, Any]) -> bool:
    return bool(holder["host"] == socket.gethostname() and holder["boot"] == machine_name())


def _is_alive(holder: dict[str, Any]) -> bool:
    if _is_here(holder):
        return start_ticks(holder["pid"]) == holder["pid_start"]
    return abs(time.time() - float(holder["heard_s"])) < _SILENCE_S
