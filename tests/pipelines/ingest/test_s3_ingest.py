"""`vamba ingest` to S3 by real processes: the bytes are those of a folder, and a second ingest is refused meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.datasets.verify import verify
from pipelines.ingest.lock import LOCK_NAME
from pipelines.storage import open_storage
from tests.pipelines.ingest.faults import OneProcess
from tests.pipelines.ingest.media import make_video
from tests.pipelines.ingest.test_faults import SHAPE, digests, ingest
from tests.pipelines.unruly_s3 import BUCKET, UnrulyS3, unruly  # noqa: F401 - a fixture

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ROOT = Path(__file__).parents[3]


def start(source: Path, out: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "jobs", "ingest", str(source), "--out", out, "--set", "num_cpus=1"]
    for name, value in SHAPE.items():
        command += ["--set", f"{name}={value}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdout=pipe, stderr=pipe)


def test_ingest_to_s3_is_that_to_a_folder_and_alone(
    unruly: UnrulyS3,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, seconds in (("a", 2), ("b", 12)):
        make_video(tmp_path / f"day1/{name}.mp4", seconds=seconds, size="64x48")
    (tmp_path / "day1/text.mp4").write_text("not a video")
    out = f"s3://{BUCKET}/deep/set"
    storage = open_storage(out)
    first = start(tmp_path / "day1", out)
    while not storage.exists(LOCK_NAME):
        assert first.poll() is None, first.communicate()
        time.sleep(0.05)
    second = start(tmp_path / "day1", out)
    _, said = second.communicate()
    assert second.returncode == 2 and f"process {first.pid} on {os.uname().nodename}, started 20" in said, said
    _, said = first.communicate()
    assert first.returncode == 0, said
    with monkeypatch.context() as patch:
        process = OneProcess(patch)
        ingest(str(tmp_path / "out"), tmp_path, "ingest")
        process.close()
    assert digests(storage) == digests(open_storage(tmp_path / "out"))
    assert verify(out, decode=True).clean
