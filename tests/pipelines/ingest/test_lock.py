"""One ingest at a time, on a disk and on S3: the second is refused with the name of the first; a dead holder is no
holder; one that lost its lock finds out before it publishes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.ingest import lock
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.job import run_ingest
from pipelines.ingest.lock import LOCK_NAME, DestinationBusy, LeaseLost, destination_lock
from pipelines.ingest.progress import Silent
from pipelines.storage import open_storage
from tests.pipelines.unruly_s3 import BUCKET, UnrulyS3, unruly  # noqa: F401 - a fixture

ROOT = Path(__file__).parents[3]
ELSEWHERE = {"token": "t", "host": "elsewhere", "boot": "b", "pid": 1, "pid_start": 1, "started": "then"}
# Holds the lock, tells so, and does as it is told: confirm it, or end.
HOLDER = """
import sys
from pipelines.ingest import lock
from pipelines.storage import open_storage
try:
    with lock.destination_lock(open_storage(sys.argv[1])) as lease:
        print("held", flush=True)
        for line in sys.stdin:
            lease.confirm()
            print("confirmed", flush=True)
except ValueError as error:
    print(type(error).__name__, flush=True)
"""


@pytest.fixture(params=["disk", "s3"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "disk":
        return str(tmp_path / "out")
    request.getfixturevalue("unruly")
    return f"s3://{BUCKET}/out"


@pytest.fixture(autouse=True)
def watch_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_WATCH_S", 0.2)
    monkeypatch.setattr(lock, "_LOOK_S", 0.05)


class Holder:
    def __init__(self, out: str) -> None:
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", HOLDER, out]
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=ROOT, text=True, bufsize=1)

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def confirms(self) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        return self.says()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def holder(out: str) -> Iterator[Holder]:
    process = Holder(out)
    assert process.says() == "held"
    yield process
    process.end()


def test_second_ingest_is_refused_with_the_name_of_the_first(out: str, holder: Holder, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x")
    started = json.loads(open_storage(out).read_bytes(LOCK_NAME))["started"].replace("+", r"\+")
    name = f"process {holder.process.pid} on {socket.gethostname()}, started {started}"
    with pytest.raises(DestinationBusy, match=name):
        run_ingest(IngestConfig(sources=(str(tmp_path / "a.mp4"),), out=out), Silent())
    with pytest.raises(DestinationBusy, match=name), destination_lock(open_storage(out)):
        pass
    assert holder.confirms() == "confirmed"
    holder.end()
    with destination_lock(open_storage(out)) as lease:  # killed, it left its lock behind
        assert json.loads(open_storage(out).read_bytes(LOCK_NAME))["pid"] == os.getpid()
        lease.confirm()
        lock.check_holder(open_storage(out), lease.holder)
    assert not open_storage(out).exists(LOCK_NAME)


def test_of_several_that_start_at_once_one_holds(out: str) -> None:
    holders = [Holder(out) for _ in range(3)]
    try:
        assert sorted(holder.says() for holder in holders) == ["DestinationBusy", "DestinationBusy", "held"]
    finally:
        for holder in holders:
            holder.end()


def test_of_several_that_find_a_dead_lock_one_takes_it(out: str) -> None:
    open_storage(out).write_atomic(LOCK_NAME, json.dumps({**ELSEWHERE, "heard_s": 0}).encode())
    held, done = [], threading.Event()

    def take() -> None:
        try:
            with destination_lock(open_storage(out)):
                held.append(True)
                done.wait(60)
        except DestinationBusy:
            held.append(False)
            if len(held) == 6:
                done.set()

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(held) == [False] * 5 + [True]


def test_a_sleeper_that_lost_its_lock_finds_out(out: str, holder: Holder, monkeypatch: pytest.MonkeyPatch) -> None:
    holder.process.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(lock, "machine_name", lambda: "another machine")  # where its process cannot be looked at
    with pytest.raises(DestinationBusy):  # it was heard of a moment ago
        lock.check_free(open_storage(out))
    monkeypatch.setattr(lock, "_SILENCE_S", 0)
    with destination_lock(open_storage(out)) as lease:
        holder.process.send_signal(signal.SIGCONT)
        assert holder.confirms() == "LeaseLost"
        assert holder.process.wait(60) == 0
        lease.confirm()  # and its end left ours in place
        storage = open_storage(out)
        storage.write_atomic(LOCK_NAME, json.dumps({**ELSEWHERE, "heard_s": 0}).encode())
        with pytest.raises(LeaseLost, match="nothing was published"):
            lease.confirm()
        for _ in range(2):  # once lost, it stays lost
            with pytest.raises(LeaseLost):
                lease.confirm()
        with pytest.raises(LeaseLost):
            lock.check_holder(storage, lease.holder)
    assert storage.exists(LOCK_NAME)


def test_a_lock_that_only_looks_silent_is_not_taken(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its machine's clock is wrong, but it goes on renewing."""
    storage = open_storage(out)
    monkeypatch.setattr(lock, "_WATCH_S", 30.0)
    for heard_s in (0, 9e12):
        storage.write_atomic(LOCK_NAME, json.dumps({**ELSEWHERE, "heard_s": heard_s}).encode())
        renewal = json.dumps({**ELSEWHERE, "heard_s": heard_s + 20}).encode()
        threading.Timer(0.2, storage.write_atomic, (LOCK_NAME, renewal)).start()
        with pytest.raises(DestinationBusy, match="elsewhere"), destination_lock(storage):
            pass


def test_a_silent_holder_on_another_machine_is_taken_over(out: str) -> None:
    storage = open_storage(out)
    for heard_s in (0, 9e12):
        storage.write_atomic(LOCK_NAME, json.dumps({**ELSEWHERE, "heard_s": heard_s}).encode())
        with destination_lock(storage):
            pass
        assert not storage.exists(LOCK_NAME)


def test_the_lock_is_renewed(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_HEARTBEAT_S", 0.05)
    storage = open_storage(out)
    with destination_lock(storage):
        _, first = storage.read_version(LOCK_NAME)
        while storage.read_version(LOCK_NAME)[1] == first:
            pass


def test_a_store_that_ignores_conditions_is_refused(unruly: UnrulyS3) -> None:  # noqa: F811
    def ignore(request: object) -> None:
        request.environ.pop("HTTP_IF_NONE_MATCH", None)  # type: ignore[attr-defined]

    unruly.rule = ignore
    with (
        pytest.raises(ValueError, match="nothing keeps two ingests apart"),
        destination_lock(open_storage(f"s3://{BUCKET}/a")),
    ):
        pass
