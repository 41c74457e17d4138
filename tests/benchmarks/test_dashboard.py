"""The picture of the dashboard asks a Prometheus for what every panel shows, and draws it."""

from __future__ import annotations

import http.server
import json
import threading
import urllib.parse
from pathlib import Path

import pytest

from benchmarks.dashboard import DASHBOARD, Prometheus, draw, shown


def test_every_panel_is_drawn_from_its_own_queries(tmp_path: Path) -> None:
    asked: list[str] = []

    class Answering(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)["query"][0])
            series = {"metric": {"run": "run-1"}, "values": [[100, "1"], [101, "2.5"]]}
            body = json.dumps({"data": {"result": [] if "mfu" in asked[-1] else [series]}}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        draw(Prometheus(f"http://127.0.0.1:{server.server_port}", 100.0, 160.0), tmp_path / "dashboard.png")
    finally:
        server.shutdown()
        server.server_close()
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    assert len(asked) == len(queries) and not any("$" in query for query in asked)
    assert (tmp_path / "dashboard.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0.627, "percentunit", "62.7%"), (3.13, "s", "3.13 s"), (2**20, "bytes", "1 MiB"), (15_000, "short", "15K"),
     (0, "short", "0"), (2e-4, "none", "0.0002"), (3e6, "short", "3M")],
)  # fmt: skip
def test_values_are_shown_in_their_unit(value: float, unit: str, text: str) -> None:
    assert shown(value, unit) == text
