"""An MLflow server that refuses everything: training goes on, and what is missing is sent when it is back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipelines.training.config import TrackingConfig, TrainingConfig
from pipelines.training.run_directory import RunDirectory
from tests.faults.conftest import NUM_STEPS
from tests.faults.lives import Nursery, assert_as_undisturbed, events_of

pytestmark = [pytest.mark.faults, pytest.mark.timeout(150)]


class Refusal(BaseHTTPRequestHandler):
    """Answers every request with 400: what MLflow's client doesn't try again by itself."""

    def do_GET(self) -> None:
        self.send_response(400)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_POST = do_GET

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextmanager
def refusing_server() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusal)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def test_a_refusing_server_costs_no_step_and_is_caught_up(
    nursery: Nursery, config: TrainingConfig, undisturbed: RunDirectory, tmp_path: Path
) -> None:
    """MLflow refuses everything from start to end: no step waits, and all points are sent by the next job."""
    tracked = replace(config, tracking=TrackingConfig(enabled=True, flush_every_s=0.1))
    with refusing_server() as address:
        life = nursery.start(tracked, environment={"MLFLOW_TRACKING_URI": address})
        assert life.wait() == (0,), life.output.read_text()
    notices = [event["text"] for event in events_of(life.directory, "notice")]
    assert any("MLflow can't be reached" in text for text in notices)
    assert any("sent when the same command runs again" in text for text in notices)
    assert_as_undisturbed(life.directory, undisturbed)
    database = f"sqlite:///{tmp_path / 'mlflow.db'}"
    longer = replace(tracked, train=replace(tracked.train, num_steps=NUM_STEPS + 1))
    again = nursery.start(longer, environment={"MLFLOW_TRACKING_URI": database})
    assert again.wait() == (0,), again.output.read_text()
    from mlflow import MlflowClient

    run_id = life.directory.read_run()["mlflow_run_id"]
    points = MlflowClient(database).get_metric_history(run_id, "loss")
    assert sorted(point.step for point in points) == [*range(1, NUM_STEPS + 2)]
