"""One ingest at a time: the second is refused with the name of the first; a dead holder is no holder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.ingest.config import IngestConfig
from pipelines.ingest.job import run_ingest
from pipelines.ingest.lock import LOCK_NAME, DestinationBusy, destination_lock
from pipelines.ingest.progress import Silent
from pipelines.storage import open_storage


def test_second_ingest_is_refused_with_the_name_of_the_first(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x")
    out = tmp_path / "out"
    holder = (
        "import sys; from pipelines.storage import open_storage; from pipelines.ingest.lock import destination_lock\n"
        f"with destination_lock(open_storage({str(out)!r})): print('held', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]
    )
    try:
        assert child.stdout is not None and child.stdout.readline() == b"held\n"
        with pytest.raises(DestinationBusy, match=f"process {child.pid} on "):
            run_ingest(IngestConfig(sources=(str(tmp_path / "a.mp4"),), out=str(out)), Silent())
    finally:
        child.kill()
        child.communicate()
    with destination_lock(open_storage(out)):  # killed, it left its lock behind
        assert json.loads((out / LOCK_NAME).read_bytes())["pid"] != child.pid
    assert not (out / LOCK_NAME).exists()


def test_a_silent_holder_on_another_machine_is_taken_over(tmp_path: Path) -> None:
    other = {"token": "t", "host": "elsewhere", "boot": "b", "pid": 1, "pid_start": 1, "started": "then", "heard_s": 0}
    (tmp_path / LOCK_NAME).write_text(json.dumps(other))
    with destination_lock(open_storage(tmp_path)):
        pass
    (tmp_path / LOCK_NAME).write_text(json.dumps({**other, "heard_s": 9e12}))
    with pytest.raises(DestinationBusy, match="elsewhere"), destination_lock(open_storage(tmp_path)):
        pass
