"""MLflow's webhooks with their signature; models by address only; the log that is shared."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from pipelines.registry import verification
from pipelines.registry.anchor import AuditLogElsewhere
from pipelines.registry.audit_check import find_problems
from pipelines.registry.config import PromotionConfig
from pipelines.registry.promote import promote
from pipelines.registry.register import register_model
from pipelines.registry.tracking import open_client

pytestmark = [pytest.mark.services, pytest.mark.slow]

SECRET = "of-the-webhook"
EVENTS = ["model_version_alias.created", "model_version.created"]


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
    bucket: str,
    name: str,
    make_run: Callable[..., Path],
    came: tuple[str, list[tuple[dict[str, str], bytes]]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(verification, "load_problem", lambda directory: "")
    address, requests = came
    make_run("stage2")
    hook = open_client().create_webhook("promotions", address, EVENTS, secret=SECRET)
    monkeypatch.delenv("VAMBA_MODELS")
    with pytest.raises(ValueError, match="--store"):
        register_model("stage2", name)
    version = register_model("stage2", name, store=f"s3://{bucket}/models")
    assert str(open_client().get_model_version(name, "1").source) == version.source
    outcome = promote(PromotionConfig(target=f"{name}/1"), force=True, reason="test")
    assert outcome.moved and find_problems(name) == []

    deadline = time.monotonic() + 60
    while len(requests) < len(EVENTS) and time.monotonic() < deadline:
        time.sleep(0.1)
    open_client().delete_webhook(hook.webhook_id)
    told = {json.loads(body)["entity"]: (headers, body) for headers, body in requests}
    headers, body = told["model_version_alias"]
    data = json.loads(body)["data"]
    assert (data["name"], data["alias"], str(data["version"])) == (name, "champion", "1")
    assert headers["X-MLflow-Signature"] == mlflow_signature(headers, body)
    assert headers["X-MLflow-Signature"] != mlflow_signature(headers, body + b" ")

    # A machine that does not share the audit log is told, and moves nothing.
    monkeypatch.setenv("VAMBA_AUDIT", str(tmp_path / "its-own"))
    with pytest.raises(AuditLogElsewhere, match="VAMBA_AUDIT"):
        promote(PromotionConfig(target=f"{name}/1", alias="challenger"), force=True, reason="test")
    assert set(open_client().get_registered_model(name).aliases) == {"champion"}


def mlflow_signature(headers: dict[str, str], body: bytes) -> str:
    """As a receiver checks it: delivery id, time and body, under the secret."""
    signed = f"{headers['X-MLflow-Delivery-Id']}.{headers['X-MLflow-Timestamp']}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()).decode()
