"""Stands in for a Ray cluster's dashboard: its version, its nodes, and the jobs that it is sent."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

_INFO = {"type": "SUBMISSION", "submission_id": "job_1", "entrypoint": "python -m jobs train", "start_time": 1000}


@dataclass
class Dashboard:
    """nodes: resources of each. kinds: of nodes, as an autoscaler reports them. token: that it asks for.

    submitted: bodies of the jobs that it was sent. stopped: jobs that it was asked to stop. job: how its one job is.
    """

    nodes: list[dict[str, float]]
    kinds: tuple[str, ...] = ()
    token: str = ""
    url: str = ""
    submitted: list[dict[str, Any]] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    job: dict[str, Any] = field(default_factory=lambda: {"status": "RUNNING"})

    def answer(self, method: str, path: str, body: bytes) -> Any:
        """The JSON of an answer; None for 404."""
        path = path.partition("?")[0]
        if path == "/api/version":
            return {"version": "4", "ray_version": "2.60.0", "ray_commit": "x", "session_name": "s"}
        if path == "/nodes":
            return _data({"summary": [{"raylet": _node(resources)} for resources in self.nodes]})
        if path == "/api/cluster_status":
            report = {"activeNodes": dict.fromkeys(self.kinds, 1)} if self.kinds else None
            return _data({"clusterStatus": report and {"autoscalerReport": report}})
        if path.startswith("/api/packages/"):
            return {}
        if (method, path) == ("POST", "/api/jobs/"):
            self.submitted.append(json.loads(body))
            return {"submission_id": "job_1", "job_id": "job_1"}
        if method == "POST" and path.endswith("/stop"):
            self.stopped.append(path)
            return {"stopped": self.job["status"] == "RUNNING"}
        return {**_INFO, **self.job} if path == "/api/jobs/job_1" else None


def _data(content: dict[str, Any]) -> dict[str, Any]:
    return {"result": True, "msg": "", "data": content}


def _node(resources: dict[str, float]) -> dict[str, Any]:
    return {"state": "ALIVE", "resourcesTotal": resources, "labels": {}}


@contextmanager
def serving(dashboard: Dashboard) -> Iterator[Dashboard]:
    """The dashboard, on a port of its own."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            given = self.headers.get("authorization", "").removeprefix("Bearer ")
            allowed = not dashboard.token or given == dashboard.token
            found = dashboard.answer(self.command, self.path, body) if allowed else {}
            text = b"It does not exist." if found is None else json.dumps(found).encode()
            self.send_response(401 if not allowed else 404 if found is None else 200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_POST = do_PUT = do_GET

        def log_message(self, *arguments: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    dashboard.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield dashboard
    finally:
        server.shutdown()
        server.server_close()
