"""Who hangs, what is written down, and what must never count as hanging."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.training.run_directory import RunDirectory
from pipelines.training.watchdog import HUNG_EXIT_CODE, PATIENCE, RankStacks, Watchdog, suspects

HERE = RankStacks(rank=0, phase="step", step=7, for_s=9.0, waits_for_others=True)


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    run = RunDirectory(tmp_path / "run")
    run.stop_path.parent.mkdir(parents=True)
    return run


@pytest.mark.parametrize(
    ("found", "accused"),
    [
        ([HERE, replace(HERE, rank=2)], (1,)),
        ([HERE, replace(HERE, rank=1, waits_for_others=False), replace(HERE, rank=2)], (1,)),
        ([HERE, replace(HERE, rank=1, phase="data", step=6, waits_for_others=False), replace(HERE, rank=2)], (1,)),
        ([replace(HERE, rank=rank) for rank in range(3)], ()),
        ([replace(HERE, rank=rank, waits_for_others=False) for rank in range(3)], ()),
    ],
    ids=["one is silent", "one waits for nobody", "one is behind", "all wait", "none waits"],
)
def test_suspects(found: list[RankStacks], accused: tuple[int, ...]) -> None:
    assert suspects(found, 3) == accused


def watch(directory: RunDirectory, timeout_s: float, ended: threading.Event, codes: list[int]) -> Watchdog:
    def end(code: int) -> None:
        codes.append(code)
        ended.set()

    return Watchdog(directory, attempt=1, rank=0, world_size=1, timeout_s=timeout_s, end=end)


def test_a_rank_that_does_nothing_writes_its_stacks_and_ends(directory: RunDirectory) -> None:
    ended, codes = threading.Event(), []
    watchdog = watch(directory, 0.2, ended, codes)
    with watchdog:
        watchdog.enter("step", 3)
        assert ended.wait(timeout=30)
        text = (directory.root / "stacks" / "attempt-0001-rank-0.txt").read_text()
    assert codes == [HUNG_EXIT_CODE]
    assert "step after step 3" in text and "test_watchdog.py" in text
    (hung,) = [event for event in directory.read_events() if event["event"] == "worker_hung"]
    assert (hung["suspects"], hung["phase"], hung["step"]) == ([0], "step", 3)


def test_a_rank_writes_its_stacks_when_another_asks(directory: RunDirectory) -> None:
    ended, codes = threading.Event(), []
    (directory.stop_path.parent / "hang-0001").touch()
    with watch(directory, 60.0, ended, codes) as watchdog:
        watchdog._tick_s = 0.01
        while not directory.read_events():
            pass
    assert directory.read_events()[0]["event"] == "stacks_written"


def test_signs_of_life_and_long_phases_are_no_hang(directory: RunDirectory) -> None:
    """Long phases get more of the same patience; what reports progress is never ended."""
    ended, codes = threading.Event(), []
    with watch(directory, 0.5, ended, codes) as watchdog, watchdog.phase("evaluation"):
        for _ in range(10):
            watchdog.still_alive()
            assert not ended.wait(timeout=0.15)
    assert not codes
    assert PATIENCE["first step"] > 1 and PATIENCE["save"] > 1 and PATIENCE["evaluation"] > 1


def test_zero_watches_nothing(directory: RunDirectory) -> None:
    ended, codes = threading.Event(), []
    with watch(directory, 0.0, ended, codes):
        assert not (directory.root / "stacks").exists()
    assert not codes


def test_an_undisturbed_rank_leaves_no_file(directory: RunDirectory) -> None:
    with watch(directory, 60.0, threading.Event(), []):
        pass
    assert not list((directory.root / "stacks").iterdir())
