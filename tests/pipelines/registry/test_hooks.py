"""Notifications on loopback: what is sent and signed, what is tried again, and that nothing a hook does matters."""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from pipelines.registry.audit import open_audit_log
from pipelines.registry.checks import Check, GateReport
from pipelines.registry.config import PromotionConfig
from pipelines.registry.hooks import SECRET_VARIABLE, check_urls, notify
from pipelines.registry.outcome import PromotionOutcome
from pipelines.registry.promote import promote
from pipelines.registry.register import register_model
from pipelines.registry.tracking import open_client


@dataclass
class Receiver:
    """Answers with the next of `answers`, the last one for good; keeps what came."""

    answers: list[int]
    port: int = 0
    came: list[tuple[dict[str, str], bytes, str]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    state = Receiver(answers=[200])

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            state.came.append((dict(self.headers), body, self.path))
            code = state.answers.pop(0) if len(state.answers) > 1 else state.answers[0]
            self.send_response(code)
            if code in (302, 307):
                self.send_header("Location", f"http://127.0.0.1:{state.port}/elsewhere")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.port = server.server_port
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield state
    server.shutdown()
    server.server_close()


@pytest.fixture
def outcome(run: Path) -> PromotionOutcome:
    """A decision about a registered version."""
    register_model("stage2", "toy")
    check = Check(name="overall", passed=False, found="10 %", required="90 %")
    return PromotionOutcome(
        name="toy", version="1", alias="champion", decision="refused", passed=False, moved=False, previous="",
        report=GateReport(checks=(check,), evaluations=()), tags={"run": "stage2"}, evaluations=(), directory="",
        entry="abc",
    )  # fmt: skip


def lines() -> list[dict[str, object]]:
    return [dict(e.body) for e in open_audit_log().entries() if str(e.body["action"]).startswith("hook.")]


def test_a_signed_decision_arrives(
    outcome: PromotionOutcome, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SECRET_VARIABLE, "s3cret")
    (delivery,) = notify(outcome, [receiver.url])
    assert (delivery.problem, delivery.attempts) == ("", 1)
    ((headers, body, _),) = receiver.came
    told = json.loads(body)
    assert (told["decision"], told["model"], told["version"], told["failed"]) == ("refused", "toy", "1", ["overall"])
    expected = hmac.new(b"s3cret", headers["X-Vamba-Timestamp"].encode() + b"." + body, "sha256").hexdigest()
    assert headers["X-Vamba-Signature"] == f"sha256={expected}"
    assert "s3cret" not in str(headers) + body.decode()
    (line,) = lines()
    assert (line["action"], line["about"]) == ("hook.deliver", "abc")


@pytest.mark.parametrize(
    ("answers", "attempts", "problem"),
    [([500, 503, 200], 3, ""), ([500], 3, "HTTP 500"), ([404], 1, "HTTP 404"), ([429, 200], 2, ""),
     ([302], 1, "HTTP 302")],
)  # fmt: skip
def test_what_may_pass_is_tried_again(
    outcome: PromotionOutcome, receiver: Receiver, answers: list[int], attempts: int, problem: str
) -> None:
    receiver.answers = answers
    (delivery,) = notify(outcome, [receiver.url], pauses_s=(0.0, 0.0))
    assert (delivery.attempts, delivery.problem) == (attempts, problem)
    assert len(receiver.came) == attempts and {path for _, _, path in receiver.came} == {"/hook"}
    assert "X-Vamba-Signature" not in receiver.came[0][0]


def test_credentials_are_used_and_never_shown(outcome: PromotionOutcome, receiver: Receiver) -> None:
    receiver.answers = [400]
    url = f"http://user:pa55@127.0.0.1:{receiver.port}/hook?token=t0ken"
    (delivery,) = notify(outcome, [url])
    assert receiver.came[0][0]["Authorization"].startswith("Basic ")
    assert receiver.came[0][2] == "/hook?token=t0ken"
    assert delivery.url == f"http://REDACTED@127.0.0.1:{receiver.port}/hook?token=REDACTED"
    written = Path(open_audit_log().uri).read_text()
    assert "pa55" not in written and "t0ken" not in written


@pytest.mark.parametrize("url", ["ftp://host/x", "host/x", "http://", "http://user:pa55@/x?k=t0ken"])
def test_an_address_that_is_none_is_refused_without_its_credentials(url: str) -> None:
    with pytest.raises(ValueError, match="http:// or https://") as caught:
        check_urls([url])
    assert "pa55" not in str(caught.value) and "t0ken" not in str(caught.value)


def test_a_hook_that_fails_undoes_nothing(run: Path) -> None:
    made = register_model("stage2", "toy")
    outcome = promote(PromotionConfig(target=f"toy/{made.version}"), force=True, reason="test")
    (delivery,) = notify(outcome, ["http://127.0.0.1:1/nobody"], pauses_s=())
    assert delivery.problem and delivery.attempts == 1
    assert open_client().get_registered_model("toy").aliases.keys() == {"champion"}
    (line,) = lines()
    assert line["action"] == "hook.fail" and line["about"] == outcome.entry
