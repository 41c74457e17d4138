"""Against an MLflow server on loopback: models by address only, its webhooks with their signature, the log that is shared.

The server keeps its data in SQLite; the S3 store is moto's. Starting it takes 10 to 50 seconds.
"""  # noqa: E501

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from pipelines.registry.anchor import AuditLogElsewhere
from pipelines.registry.audit_check import find_problems
from pipelines.registry.config import PromotionConfig
from pipelines.registry.promote import promote
from pipelines.registry.register import register_model
from pipelines.registry.tracking import open_client
from tests.s3_server import S3Server, s3, s3_server  # noqa: F401

pytestmark = [pytest.mark.services, pytest.mark.slow]

SECRET = "of-the-webhook"
EVENTS = ["model_version_alias.created", "model_version.created"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, empty_registry: Path) -> Iterator[str]:
    """Its address."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copyfile(empty_registry, folder / "mlflow.db")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
    }
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
               "--serve-artifacts", "--artifacts-destination", str(folder / "artifacts"),
               "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env={**os.environ, **settings}, stdout=log, stderr=log,
                                   start_new_session=True, cwd=folder)  # fmt: skip
    try:
        _wait_until_healthy(f"http://127.0.0.1:{port}/health", process, folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.3)
    raise AssertionError(log.read_text())


@pytest.fixture
def came() -> Iterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    """(address, requests) of a receiver of webhooks."""
    requests: list[tuple[dict[str, str], bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            requests.append((dict(self.headers), body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    receiver = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=receiver.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{receiver.server_port}/mlflow", requests
    receiver.shutdown()
    receiver.server_close()


def test_a_promotion_through_a_server(
    server: str,
    run: Path,
    s3: S3Server,  # noqa: F811
    came: tuple[str, list[tuple[dict[str, str], bytes]]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    address, requests = came
    open_client().create_webhook("promotions", address, EVENTS, secret=SECRET)
    bucket = s3.make_bucket()
    with pytest.raises(ValueError, match="--store"):
        register_model("stage2", "toy")
    version = register_model("stage2", "toy", store=f"s3://{bucket}/models")
    assert str(open_client().get_model_version("toy", "1").source) == version.source
    outcome = promote(PromotionConfig(target="toy/1"), force=True, reason="test")
    assert outcome.moved and find_problems("toy") == []

    deadline = time.monotonic() + 60
    while len(requests) < len(EVENTS) and time.monotonic() < deadline:
        time.sleep(0.1)
    told = {json.loads(body)["entity"]: (headers, body) for headers, body in requests}
    headers, body = told["model_version_alias"]
    data = json.loads(body)["data"]
    assert (data["name"], data["alias"], str(data["version"])) == ("toy", "champion", "1")
    assert headers["X-MLflow-Signature"] == mlflow_signature(headers, body)
    assert headers["X-MLflow-Signature"] != mlflow_signature(headers, body + b" ")

    # A machine that does not share the audit log is told, and moves nothing.
    monkeypatch.setenv("VAMBA_AUDIT", str(tmp_path / "its-own"))
    with pytest.raises(AuditLogElsewhere, match="VAMBA_AUDIT"):
        promote(PromotionConfig(target="toy/1", alias="challenger"), force=True, reason="test")
    assert set(open_client().get_registered_model("toy").aliases) == {"champion"}


def mlflow_signature(headers: dict[str, str], body: bytes) -> str:
    """As a receiver checks it: delivery id, time and body, under the secret."""
    signed = f"{headers['X-MLflow-Delivery-Id']}.{headers['X-MLflow-Timestamp']}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()).decode()
