"""What is sent to a cluster, and a real submission to a real Ray through its Jobs API."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.submission import plan_submission

ROOT = Path(__file__).resolve().parents[2]


def test_the_whole_source_is_sent_and_what_lies_beside_it_is_not(tmp_path: Path) -> None:
    sent = ("jobs/__main__.py", "vamba/data/sample.py", "pipelines/storage.py", "mine.yaml")
    for name in (*sent, "data/video.mp4", "tests/t.py", ".git/HEAD", ".venv/big", "jobs/__pycache__/x.pyc"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("12345")
    submission = plan_submission("train", ["tiny"], working_dir=tmp_path, address="http://127.0.0.1:8265")
    assert (submission.num_files, submission.size_bytes) == (len(sent), 5 * len(sent))
    assert "/data" in submission.excludes and "data" not in submission.excludes


def test_a_named_address_is_kept() -> None:
    words = ["x", "--address", "ray://h:1"]
    submission = plan_submission("train", words, working_dir=ROOT, address="http://127.0.0.1:8265")
    assert submission.entrypoint == "python -m jobs train x --address ray://h:1"


def test_an_address_that_is_no_url_is_refused() -> None:
    with pytest.raises(ValueError, match="http://HOST:8265"):
        plan_submission("train", [], working_dir=ROOT, address="127.0.0.1")


@pytest.fixture
def dashboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A Ray on this machine whose `python` is this one."""
    import ray

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    ray.init(
        address="local", num_cpus=1, include_dashboard=True, dashboard_host="127.0.0.1", dashboard_port=port,
        log_to_driver=False, object_store_memory=100 * 1024**2,
    )  # fmt: skip
    yield f"http://127.0.0.1:{port}"
    ray.shutdown()


@pytest.mark.ray
@pytest.mark.slow
def test_a_submitted_job_shows_its_log_and_passes_its_exit_code_on(dashboard: str) -> None:
    words = ["submit", "evaluate", "--model", "nobody", "--data", "/nowhere", "--to", dashboard]
    done = subprocess.run(
        [sys.executable, "-m", "jobs", *words], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert "There is no model 'nobody'" in done.stdout, done.stderr
    assert done.returncode == 2
