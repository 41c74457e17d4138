"""A training run on the cluster, and the faults that strike it one after the other.

Each fault waits until the run has trained new steps since the last one, strikes, and returns when the run goes on.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from typing import Any

import psutil

from pipelines.training.run_directory import RunDirectory
from pipelines.training.summary import read_attempts
from tests.cluster.accounting import Fault
from tests.cluster.client import PATIENCE_S, Client, Submitted
from tests.cluster.machines import Machines
from tests.services.bed import Bed

NOTICE_S, S3_AWAY_S, MLFLOW_AWAY_S, HEAD_AWAY_S = 15.0, 30.0, 60.0, 5.0
_STEPS_BETWEEN = 12
# A failure of a worker under the first ends Ray Train's part of the job: a notice must not count as one.
NO_BUDGET, BUDGET = ("--set", "workers.max_failures=0"), ("--set", "workers.max_failures=8")
# Otherwise a job that is submitted while the workers of the last one still hold machines would begin with one.
ELASTIC = ("--set", "workers.min_workers=1")


class DisturbedRun:
    """One run, through all jobs that it takes."""

    def __init__(self, machines: Machines, bed: Bed, client: Client, directory: RunDirectory, words: list[str]) -> None:
        self._machines, self._bed, self._client, self._words = machines, bed, client, words
        self.directory = directory
        self._job: Submitted | None = None

    def faults(self) -> Iterator[Fault]:
        """Strikes once for every item; after the last one the run is left to its end."""
        self._submit(*NO_BUDGET)
        yield self._spot_machine()
        yield self._s3()
        yield self._mlflow()
        yield self._driver()
        yield self._machine()
        yield self._head()
        yield self._shrink()
        yield self._grow()
        self.job.succeed()

    @property
    def job(self) -> Submitted:
        """The job that trains the run now."""
        assert self._job is not None
        return self._job

    def _submit(self, *words: str) -> None:
        self._job = self._client.submit("train", *self._words, *words)

    def _spot_machine(self) -> Fault:
        self._wait_for_steps(_STEPS_BETWEEN)
        machine, attempt = self._machines.of(read_attempts(self.directory)[-1].pids[1]), self._attempt()
        began = time.time()
        self._machines.announce(machine, NOTICE_S)
        self._machines.add()
        time.sleep(max(0.0, began + NOTICE_S - time.time()))
        self._machines.end(machine)
        over = time.time()
        self._wait_for_group(after=attempt)
        used = [event for event in self._events("notice") if "started again" in event["text"]]
        assert not used, f"a preemption notice has used the failure budget: {used}"
        how = f"Ray's preemption notice, {NOTICE_S:.0f} s before the machine goes; another comes"
        return Fault(
            name="spot machine reclaimed", how=how, budget="none is allowed", began=began, over=over, restarts=True
        )

    def _s3(self) -> Fault:
        return self._outage("S3 server stopped", self._bed.store.server, S3_AWAY_S, wait=True)

    def _mlflow(self) -> Fault:
        return self._outage("MLflow server stopped", self._bed.mlflow, MLFLOW_AWAY_S, wait=False)

    def _outage(self, name: str, server: Any, away_s: float, *, wait: bool) -> Fault:
        self._wait_for_steps(_STEPS_BETWEEN)
        began = time.time()
        server.stop()
        time.sleep(away_s)
        server.start()
        if wait:
            server.wait_until_ready()
        how = f"away for {away_s:.0f} s and the time it takes to start"
        return Fault(name=name, how=how, budget="none is allowed", began=began, over=time.time(), restarts=False)

    def _driver(self) -> Fault:
        self._wait_for_steps(_STEPS_BETWEEN)
        attempt, began = self._attempt(), time.time()
        os.kill(int(self._events("job_started")[-1]["pid"]), signal.SIGKILL)
        assert self.job.wait() != 0, "the client was not told that its job ended"
        self._submit(*BUDGET)
        self._wait_for_group(after=attempt)
        how = "SIGKILL; the same command is submitted again"
        return Fault(name="driver ended", how=how, budget="another job", began=began, over=began, restarts=True)

    def _machine(self) -> Fault:
        self._wait_for_steps(_STEPS_BETWEEN)
        machine, attempt = self._machines.of(read_attempts(self.directory)[-1].pids[1]), self._attempt()
        began = time.time()
        self._machines.end(machine)
        self._wait_for_group(after=attempt)
        how = "all its processes by SIGKILL; there is a spare machine"
        return Fault(
            name="machine ended without notice", how=how, budget="used", began=began, over=began, restarts=True
        )

    def _head(self) -> Fault:
        self._wait_for_steps(_STEPS_BETWEEN)
        attempt, began = read_attempts(self.directory)[-1], time.time()
        self._machines.end_head()
        assert self.job.wait() != 0, "the client was not told that its job ended"
        time.sleep(HEAD_AWAY_S)
        self._machines.start_head()
        over = time.time()
        self._wait_until_gone(attempt.pids)
        self._submit(*BUDGET, *ELASTIC)
        self._wait_for_group(after=attempt.number)
        how = f"all its processes by SIGKILL, {HEAD_AWAY_S:.0f} s later a new one; the same command is submitted again"
        return Fault(name="head restarted", how=how, budget="another job", began=began, over=over, restarts=True)

    def _shrink(self) -> Fault:
        self._wait_for_steps(_STEPS_BETWEEN)
        machine, attempt = self._machines.of(read_attempts(self.directory)[-1].pids[1]), self._attempt()
        began = time.time()
        self._machines.end(machine)
        self._wait_for_group(after=attempt, size=1)
        how = "all its processes by SIGKILL; nothing replaces it, one worker goes on"
        return Fault(
            name="machine ended without notice", how=how, budget="used", began=began, over=began, restarts=True
        )

    def _grow(self) -> Fault:
        self._wait_for_steps(_STEPS_BETWEEN)
        attempt, began = self._attempt(), time.time()
        self._machines.add()
        over = time.time()
        self._wait_for_group(after=attempt)
        how = "the run grows to two workers"
        return Fault(name="machine added", how=how, budget="not a failure", began=began, over=over, restarts=True)

    def _attempt(self) -> int:
        return read_attempts(self.directory)[-1].number

    def _events(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.directory.read_events() if event["event"] == kind]

    def _wait_for_group(self, *, after: int, size: int = 2) -> None:
        """Until all workers of a group behind that attempt have begun."""

        def is_there() -> bool:
            newest = read_attempts(self.directory)[-1]
            return newest.number > after and newest.world_size == size == len(newest.pids)

        self.job.wait_until(is_there, f"a group of {size} after attempt {after}")

    def _wait_until_gone(self, pids: Sequence[int]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while any(psutil.pid_exists(pid) for pid in pids):
            assert time.monotonic() < deadline, f"workers outlive their job: {pids}"
            time.sleep(0.1)

    def _wait_for_steps(self, count: int) -> None:
        """Until so many more steps have been trained that never were before."""
        goal = self._newest() + count
        self.job.wait_until(lambda: self._newest() >= goal, f"step {goal} (a faster machine wants more STEPS)")

    def _newest(self) -> int:
        return max((record["step"] for _, record in self.directory.read_metrics()), default=0)
