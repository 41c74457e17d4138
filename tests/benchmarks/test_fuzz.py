"""A small fuzz in this process: damaged files neither hang nor crash an ingest, nor change the whole ones beside them.

`python -m benchmarks.fuzz --files 2000` is the large one, by the command itself and Ray.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import fuzz
from benchmarks.damage import DAMAGES, SEEDS, damaged, make_seeds
from pipelines.ingest.config import IngestConfig, Watchdog
from pipelines.ingest.job import run_ingest
from pipelines.ingest.progress import Silent
from tests.pipelines.ingest.faults import OneProcess
from vamba.data.sampling import FrameSampling


def in_this_process(out: Path, sources: list[Path], num_cpus: int, limit_s: float) -> dict[str, Any]:
    config = IngestConfig(
        sources=tuple(map(str, sources)),
        out=str(out),
        sampling=FrameSampling(fps=5),
        watchdog=Watchdog(base_s=10),
        max_failure_fraction=1.0,
    )
    run_ingest(config, Silent())
    return {"exit_code": 0, "wall_s": 0.0, "cpu_s": 0.0, "last_words": ""}


def test_sixty_damaged_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = OneProcess(monkeypatch)
    monkeypatch.setattr(fuzz, "ingest", in_this_process)
    result = fuzz.run(tmp_path, num_files=60, seed=1, num_cpus=1)
    process.close()
    assert result["problems"] == []
    assert sum(result["outcomes"].values()) == 60 + len(SEEDS)
    assert result["by_damage"].pop("whole") == {"sample": len(SEEDS)}
    assert {kind: sum(outcomes.values()) for kind, outcomes in result["by_damage"].items()} == {
        damage.__name__.replace("_", "-"): 6 for damage in DAMAGES
    }
    assert result["outcomes"]["corrupt"] > 5


def test_a_lost_source_and_a_changed_sample_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = OneProcess(monkeypatch)
    whole = make_seeds(tmp_path / "whole")
    for out, sources in (("clean", whole[:3]), ("fuzzed", whole[:2])):
        in_this_process(tmp_path / out, sources, 1, 0)
    process.close()
    problems = fuzz.compare(tmp_path / "clean", tmp_path / "fuzzed", 3)
    assert len(problems) == 2 and "3 sources, but 2 samples" in problems[0] and whole[2].name in problems[1]


def test_damage_is_a_function_of_seed_and_number(tmp_path: Path) -> None:
    seeds = make_seeds(tmp_path)[:3]
    assert [damaged(number, 0, seeds) for number in range(20)] == [damaged(number, 0, seeds) for number in range(20)]
    assert damaged(0, 0, seeds) != damaged(0, 1, seeds)
