"""`infra/ray/worker.py`: a machine that the cloud takes back drains, and any other is left alone."""

from __future__ import annotations

import http.server
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.architecture.sources import ROOT

SCRIPT = ROOT / "infra" / "ray" / "worker.py"
# Stands in for Ray: starts, waits, and writes down how it was ended.
RAY = """#!/bin/bash
echo "$$ $@" > "$RECORD/started"
trap 'echo drained > "$RECORD/ended"; exit 0' TERM
[ -e "$RECORD/broken" ] && { echo "No such head"; exit 1; }
echo "Ray runtime started."
while true; do sleep 0.05; done
"""


@dataclass
class Metadata:
    """A metadata service. notice: what the cloud says of this machine. garbled: whether it answers what is no HTTP.
    asked: the paths of all requests.
    """

    cloud: str
    url: str = ""
    notice: bool = False
    garbled: bool = False
    asked: list[str] = field(default_factory=list)

    def answer(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        self.asked.append(path)
        if self.cloud == "aws":
            if (method, path) == ("PUT", "/latest/api/token"):
                return 200, "a-token"
            right = headers.get("x-aws-ec2-metadata-token") == "a-token"
            if path == "/latest/meta-data/spot/instance-action" and right:
                return (200, '{"action": "terminate"}') if self.notice else (404, "")
            return 401, ""
        if path == "/computeMetadata/v1/instance/preempted" and headers.get("metadata-flavor") == "Google":
            return 200, "TRUE" if self.notice else "FALSE"
        return 403, ""


@pytest.fixture
def serve() -> Iterator[Callable[[str], Metadata]]:
    servers = []

    def start(cloud: str) -> Metadata:
        service = Metadata(cloud)

        class Handler(http.server.BaseHTTPRequestHandler):
            def _any(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                status, text = service.answer(self.command, self.path, headers)
                if service.garbled:
                    self.wfile.write(b"\xff\xfe no such thing\r\n\r\n")
                    return
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

            do_GET = do_PUT = _any

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        service.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return service

    yield start
    for server in servers:
        server.shutdown()


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    ray = tmp_path / "ray"
    ray.write_text(RAY)
    ray.chmod(0o755)
    settings = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "RECORD": str(tmp_path), "VAMBA_METADATA_INTERVAL": "0.05"}
    yield {**os.environ, **settings, "VAMBA_WORKER_LOG": str(tmp_path / "log")}
    started = tmp_path / "started"
    if started.exists() and not (tmp_path / "ended").exists() and not (tmp_path / "broken").exists():
        os.kill(int(started.read_text().split()[0]), signal.SIGTERM)


def _start(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], env=environment, capture_output=True, text=True, timeout=120
    )


def _wait(condition: Callable[[], bool]) -> None:
    while not condition():  # the time limit of the test ends a vain wait
        time.sleep(0.05)


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_a_notice_drains_the_node(
    cloud: str, serve: Callable[[str], Metadata], environment: dict[str, str], tmp_path: Path
) -> None:
    service = serve(cloud)
    started = _start({**environment, "VAMBA_METADATA": service.url}, cloud, "--address=10.0.0.1:6379")
    assert started.returncode == 0, started.stderr
    assert (tmp_path / "started").read_text().split()[1:] == ["start", "--block", "--address=10.0.0.1:6379"]
    _wait(lambda: len(service.asked) > 6)
    assert not (tmp_path / "ended").exists(), "without a notice nothing happens"
    service.notice = True
    _wait((tmp_path / "ended").exists)


def test_a_metadata_service_that_is_away_is_no_notice(environment: dict[str, str], tmp_path: Path) -> None:
    started = _start({**environment, "VAMBA_METADATA": "http://127.0.0.1:9"}, "aws")
    assert started.returncode == 0, started.stderr
    time.sleep(0.5)
    assert not (tmp_path / "ended").exists()


def test_a_metadata_service_that_stammers_does_not_end_the_watch(
    serve: Callable[[str], Metadata], environment: dict[str, str], tmp_path: Path
) -> None:
    service = serve("aws")
    service.garbled = True
    started = _start({**environment, "VAMBA_METADATA": service.url}, "aws")
    assert started.returncode == 0, started.stderr
    _wait(lambda: len(service.asked) > 3)
    service.garbled, service.notice = False, True
    _wait((tmp_path / "ended").exists)


def test_a_start_that_fails_says_why(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    started = _start(environment, "none")
    assert started.returncode == 1 and "No such head" in started.stderr


def test_an_unknown_cloud_is_refused(environment: dict[str, str], tmp_path: Path) -> None:
    started = _start(environment, "azure")
    assert started.returncode == 2 and "aws, gcp, none" in started.stderr
    assert not (tmp_path / "started").exists()
