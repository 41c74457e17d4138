"""A busy S3: half of all requests are refused, the data's and the mirror's, and then the machine is lost as well."""

from __future__ import annotations

import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.storage import open_storage
from pipelines.training.config import TrainingConfig
from pipelines.training.run_directory import RunDirectory
from pipelines.training.summary import read_attempts
from tests.faults.lives import Nursery, assert_as_undisturbed, closed_gate
from tests.pipelines.unruly_s3 import BUCKET, UnrulyS3, error, unruly  # noqa: F401
from tests.s3_server import S3_ENVIRONMENT

pytestmark = [pytest.mark.faults, pytest.mark.timeout(150)]

LOST_BEFORE = 8


def test_half_of_all_requests_fail(
    nursery: Nursery,
    config: TrainingConfig,
    undisturbed: RunDirectory,
    scratch: Path,
    unruly: UnrulyS3,  # noqa: F811
) -> None:
    """S3 refuses half of all requests, and the machine is lost: the same run goes on elsewhere from its mirror."""
    data = open_storage(f"s3://{BUCKET}/data")
    for file in sorted(path for path in (scratch / "data").rglob("*") if path.is_file()):
        data.write_atomic(str(file.relative_to(scratch / "data")), file.read_bytes())
    requests = iter(range(10**9))
    unruly.rule = lambda request: error(503, "SlowDown") if next(requests) % 2 else None
    environment = {**S3_ENVIRONMENT, "AWS_ENDPOINT_URL": unruly.endpoint}
    remote = replace(config, data=f"s3://{BUCKET}/data", mirror=f"s3://{BUCKET}/runs")

    gate = closed_gate(scratch, config)
    fault = {"no_data": {"step": LOST_BEFORE, "path": str(gate)}}
    life = nursery.start(remote, fault=fault, environment=environment)
    life.wait_until(lambda directory: was_sent(unruly, 6))
    life.kill(signal.SIGKILL)
    life.wait()
    shutil.rmtree(life.directory.root)

    again = nursery.start(remote, environment=environment)
    assert again.wait() == (0,), again.output.read_text()
    assert read_attempts(again.directory)[-1].resumed_from_step == 6
    assert_as_undisturbed(again.directory, undisturbed)


def was_sent(server: UnrulyS3, step: int) -> bool:
    """Whether the mirror went on to other files after a checkpoint's last."""
    places = [i for i, asked in enumerate(server.requests) if asked.endswith(f"step_{step:08d}/meta.json")]
    return bool(places) and len(server.requests) > places[-1] + 1
