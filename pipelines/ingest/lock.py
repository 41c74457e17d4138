"""One ingest at a time into one destination.

`ingest.lock` says who writes: host, process, when it began and when it was last heard of. A lock whose process is gone
(same machine), or that has been silent for two minutes (another machine), is taken over.
"""

from __future__ import annotations

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

from pipelines.storage import Storage

LOCK_NAME = "ingest.lock"
_HEARTBEAT_S = 20.0
_SILENCE_S = 120.0


class DestinationBusy(ValueError):
    """Another ingest is writing to the destination."""


def check_free(storage: Storage) -> None:
    """Refuses to go on while another ingest holds the destination, before anything there is looked at.

    Raises:
        DestinationBusy: another ingest holds it; the message names it.
    """
    holder = _read(storage)
    if holder is not None and _is_alive(holder):
        raise DestinationBusy(
            f"another ingest is writing to {storage.uri}: process {holder['pid']} on {holder['host']}, started "
            f"{holder['started']}. Wait for it or end it; then the same command continues from where it is"
        )


@contextmanager
def destination_lock(storage: Storage) -> Iterator[None]:
    """Holds the lock of a destination.

    Raises:
        DestinationBusy: another ingest holds it; the message names it.
    """
    me = {
        "token": secrets.token_hex(8),
        "host": socket.gethostname(),
        "boot": _boot_id(),
        "pid": os.getpid(),
        "pid_start": _start_ticks(os.getpid()),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    while not storage.create(LOCK_NAME, _encode(me)):
        check_free(storage)
        storage.delete(LOCK_NAME)
    stopped = threading.Event()
    beat = threading.Thread(target=_keep_alive, args=(storage, me, stopped), daemon=True, name="ingest-lock")
    beat.start()
    try:
        yield
    finally:
        stopped.set()
        beat.join()
        holder = _read(storage)
        if holder is not None and holder["token"] == me["token"]:
            storage.delete(LOCK_NAME)


def _keep_alive(storage: Storage, me: dict[str, Any], stopped: threading.Event) -> None:
    while not stopped.wait(_HEARTBEAT_S):
        holder = _read(storage)
        if holder is None or holder["token"] != me["token"]:
            return
        storage.write_atomic(LOCK_NAME, _encode(me))


def _encode(me: dict[str, Any]) -> bytes:
    return json.dumps({**me, "heard_s": time.time()}).encode()


def _read(storage: Storage) -> dict[str, Any] | None:
    try:
        document: dict[str, Any] = json.loads(storage.read_bytes(LOCK_NAME))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return document


def _is_alive(holder: dict[str, Any]) -> bool:
    if holder["host"] == socket.gethostname() and holder["boot"] == _boot_id():
        return _start_ticks(holder["pid"]) == holder["pid_start"]
    return time.time() - float(holder["heard_s"]) < _SILENCE_S


def _start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot: with the pid it names a process; None if there is none."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def _boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""
