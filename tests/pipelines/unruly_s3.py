"""An S3 server on loopback that loses answers, is busy, or ignores conditions, as a test wants it to.

It is moto's application behind a rule: `rule(request)` sees each request first and may answer in its place, or have the
answer lost. One request is served at a time, as if each were atomic, which S3's are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import boto3
import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
from werkzeug.wrappers import Request, Response

from tests.s3_server import S3_ENVIRONMENT

BUCKET = "unruly"


@dataclass(slots=True)
class UnrulyS3:
    """The server: `rule` may be set at any time; `requests` has what was asked, as "PUT key"."""

    endpoint: str = ""
    requests: list[str] = field(default_factory=list)
    rule: Callable[[Request], Response | None] | None = None
    loses_answer: Callable[[Request], bool] | None = None


def error(status: int, code: str) -> Response:
    """An answer of S3 that says what is wrong."""
    return Response(f"<Error><Code>{code}</Code><Message>{code}</Message></Error>", status, mimetype="text/xml")


@contextmanager
def serving() -> Iterator[UnrulyS3]:
    """Runs the server, with one bucket."""
    server, moto, one_at_a_time = UnrulyS3(), DomainDispatcherApplication(create_backend_app), threading.Lock()

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        request = Request(environ)
        with one_at_a_time:
            server.requests.append(f"{request.method} {request.path.partition('/')[2].partition('/')[2]}")
            answer = server.rule(request) if server.rule else None
            if answer is None:
                answer = Response.from_app(moto, environ, buffered=True)
                if server.loses_answer is not None and server.loses_answer(request):
                    answer = error(500, "InternalError")
            return answer(environ, start_response)

    http = make_server("127.0.0.1", 0, application, threaded=True)
    server.endpoint = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()


@pytest.fixture
def unruly(monkeypatch: pytest.MonkeyPatch) -> Iterator[UnrulyS3]:
    """The server, with the environment that leads to it and an empty bucket."""
    with serving() as server:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_REGION"):
            monkeypatch.delenv(name, raising=False)
        for name, value in {**S3_ENVIRONMENT, "AWS_ENDPOINT_URL": server.endpoint}.items():
            monkeypatch.setenv(name, value)
        client = boto3.client("s3", endpoint_url=server.endpoint)
        client.create_bucket(Bucket=BUCKET)
        server.requests.clear()
        yield server
        server.rule = server.loses_answer = None
        for entry in client.list_objects_v2(Bucket=BUCKET).get("Contents", ()):
            client.delete_object(Bucket=BUCKET, Key=entry["Key"])
        client.delete_bucket(Bucket=BUCKET)
