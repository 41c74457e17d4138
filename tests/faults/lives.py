"""Starts, ends and compares runs for the fault tests."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from pipelines.training.config import TrainingConfig
from pipelines.training.run_directory import RunDirectory, run_directory

ROOT = Path(__file__).resolve().parents[2]
_PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One start of a run's processes."""

    nursery: Nursery
    directory: RunDirectory
    pids: tuple[int, ...]
    output: Path

    def wait(self) -> tuple[int, ...]:
        """Exit codes by rank; negative numbers are signals."""
        return self.nursery.wait(self.pids)

    def kill(self, signum: int, rank: int = 0) -> None:
        os.kill(self.pids[rank], signum)

    def wait_until(self, reached: Callable[[RunDirectory], bool]) -> None:
        """Until the run has come so far. Raises AssertionError with what the processes printed when it does not."""
        deadline = time.monotonic() + _PATIENCE_S
        while not reached(self.directory):
            assert time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.01)


class Nursery:
    """See nursery.py."""

    def __init__(self, scratch: Path) -> None:
        self._scratch, self._num_lives = scratch, 0
        self._alive: set[int] = set()
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.nursery"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT,
        )  # fmt: skip
        self._answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for pid in self._alive:
            os.kill(pid, signal.SIGKILL)
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def start(
        self,
        config: TrainingConfig,
        *,
        ranks: int = 1,
        fault: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Life:
        self._num_lives += 1
        output = self._scratch / f"life-{self._num_lives:03d}.txt"
        order = {"start": asdict(config), "ranks": ranks, "fault": dict(fault or {}), "output": str(output)}
        order["environment"] = dict(environment or {})
        pids = self.ask(order)["pids"]
        self._alive.update(pids)
        directory = run_directory(config.storage, config.name)
        return Life(nursery=self, directory=directory, pids=tuple(pids), output=output)

    def finish(self, config: TrainingConfig, *, ranks: int = 1) -> RunDirectory:
        """Train to the end, undisturbed."""
        life = self.start(config, ranks=ranks)
        assert life.wait() == (0,) * ranks, life.output.read_text()
        return life.directory

    def wait(self, pids: Sequence[int]) -> tuple[int, ...]:
        statuses = tuple(self.ask({"wait": pids})["statuses"])
        self._alive.difference_update(pids)
        return statuses

    def ask(self, order: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


def closed_gate(scratch: Path, config: TrainingConfig) -> Path:
    """A file that keeps data from the run for as long as it exists (`no_data`)."""
    gate = scratch / f"{config.name}.gate"
    gate.touch()
    return gate


def step_reached(step: int) -> Callable[[RunDirectory], bool]:
    return lambda directory: any(record["step"] >= step for _, record in directory.read_metrics())


def events_of(directory: RunDirectory, kind: str) -> list[dict[str, Any]]:
    return [event for event in directory.read_events() if event["event"] == kind]


def assert_as_undisturbed(directory: RunDirectory, undisturbed: RunDirectory) -> None:
    """Every step was trained, on the samples it should be, with the loss it should have, each time it was trained; and
    the model is the same to the last bit."""
    expected = {record["step"]: record for _, record in undisturbed.read_metrics()}
    seen = set()
    for attempt, record in directory.read_metrics():
        step = record["step"]
        losses = record["loss"], expected[step]["loss"]
        assert losses[0] == losses[1] or all(map(math.isnan, losses)), f"step {step} of attempt {attempt}: {losses}"
        assert record["sample_ids"] == expected[step]["sample_ids"], f"step {step} of attempt {attempt}"
        seen.add(step)
    assert seen == {*expected}, f"steps without a record: {sorted({*expected} - seen)}"
    models = [path.joinpath("model.safetensors").read_bytes() for path in (directory.model, undisturbed.model)]
    assert models[0] == models[1], "the model is another one"
    assert not list(directory.checkpoints.glob("*.tmp")), "a torn checkpoint was left"
