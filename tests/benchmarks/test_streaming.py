"""The claim that a streamed training pass needs the same memory at any length, measured: anonymous resident memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from benchmarks.streaming import MEASURED
from tests.architecture.sources import ROOT


def measured(way: str, num_tokens: int) -> dict[str, Any]:
    """In a process of its own, whose memory nothing else moves."""
    program = (
        "import json, torch; from benchmarks.streaming import SMALL, measure; torch.set_num_threads(1);"
        f"print(json.dumps(measure({way!r}, {num_tokens}, SMALL)))"
    )
    environment = {**os.environ, **MEASURED}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.slow
def test_sixteen_times_the_video_takes_the_same_memory() -> None:
    short, long = measured("disk", 4096), measured("disk", 65536)
    assert long["anonymous_mb"] < 1.1 * short["anonymous_mb"]
    kept = measured("layer", 16384)
    assert kept["anonymous_mb"] > 3 * long["anonymous_mb"]
