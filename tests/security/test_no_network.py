"""A decoder that was taken over finds no socket and starts no program. Its other limits: test_containment."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"),
    reason="a process is kept off the network by seccomp, which our filter has for Linux on these two processors",
)

ATTEMPTS = """
import os, socket, subprocess, _socket
from pipelines.ingest.no_network import forbid_network

def refused(attempt):
    try:
        attempt()
    except PermissionError:
        return True
    return False

before = socket.create_server(("127.0.0.1", 0))
assert forbid_network()
address = before.getsockname()
print("socket", refused(lambda: socket.socket()))
print("unix", refused(lambda: socket.socket(socket.AF_UNIX)))
print("pair", refused(lambda: socket.socketpair()))
print("connect", refused(lambda: before.connect(address)))
print("accept", refused(lambda: before.accept()))
print("program", refused(lambda: os.execv("/bin/true", ["true"])))
print("child", refused(lambda: subprocess.run(["/bin/true"], check=True)))
assert forbid_network(), "a second time is allowed"
import threading
found = []
thread = threading.Thread(target=lambda: found.append(refused(lambda: socket.socket())))
thread.start(); thread.join()
print("thread", found[0])
print("file", open("/dev/null").read() == "")
"""


def test_neither_socket_nor_program() -> None:
    done = subprocess.run([sys.executable, "-c", ATTEMPTS], capture_output=True, text=True, cwd=ROOT, timeout=60)
    answers = dict(line.split() for line in done.stdout.splitlines())
    assert answers and set(answers.values()) == {"True"}, (answers, done.stderr[-500:])
    assert {"socket", "connect", "program", "thread", "file"} <= set(answers)


def test_the_decoder_is_such_a_process(tmp_path: Path) -> None:
    from pipelines.ingest.sandbox import DecoderProcess

    decoder = DecoderProcess(max_rss_bytes=1 << 30)
    try:
        child = decoder._running_child()
        with pytest.raises(Exception, match="no file at"):
            from pipelines.ingest.config import Limits
            from pipelines.ingest.types import Location

            decoder.probe(Location(uri=str(tmp_path / "none.mp4")), Limits(), limit_s=60)
        status = dict(line.split(":", 1) for line in Path(f"/proc/{child.pid}/status").read_text().splitlines())
        assert status["Seccomp"].strip() == "2" and status["NoNewPrivs"].strip() == "1"
    finally:
        decoder.close()
