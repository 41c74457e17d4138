"""`vamba train` killed and started again, for benchmarks/training.py: what the run's own events and records tell."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

from jobs.demo.processes import kill_job, start
from pipelines.training.run_directory import RunDirectory

NUM_STEPS, KILL_AFTER = 240, 130  # an epoch is some thirty steps; checkpoints are at every 40th


def restart_and_wait(recipe: str, data: Path, home: Path, runs: int) -> dict[str, Any]:
    """{"data_wait": shares, "restart_s": medians by part of `runs` restarts}."""
    breakdowns, waits = [], []
    for number in range(runs):
        name = f"bench-{number}"
        words = ("train", recipe, "--data", str(data), "--name", name, "--set", f"train.num_steps={NUM_STEPS}")
        environment = {"VAMBA_HOME": str(home), "MLFLOW_TRACKING_URI": ""}
        directory = RunDirectory(home / "runs" / name)
        job = start(words, environment)
        while _last_step(directory) < KILL_AFTER:
            if job.poll() is not None:
                raise SystemExit("`vamba train` ended before it could be killed.")
            time.sleep(0.05)
        kill_job(job)
        if start(words, environment).wait():
            raise SystemExit("`vamba train` did not continue.")
        waits.append(_waits(directory))
        breakdowns.append(_breakdown(directory))
    return {
        "data_wait": {key: statistics.median(wait[key] for wait in waits) for key in waits[0]},
        "restart_s": {key: round(statistics.median(b[key] for b in breakdowns), 2) for key in breakdowns[0]},
    }


def _last_step(directory: RunDirectory) -> int:
    return max((record["step"] for _, record in directory.read_metrics()), default=0)


def _waits(directory: RunDirectory) -> dict[str, float]:
    """Of the first attempt, without its first step: that one waits for everything to begin."""
    records = [record for attempt, record in directory.read_metrics() if attempt == 1][1:]
    first = [record for record in records if record["epoch"] == 0]
    later = [record for record in records if record["epoch"] > 0]
    return {
        "first_epoch_steps": len(first), "first_epoch_share": _share(first),
        "later_steps": len(later), "later_share": _share(later),
        "step_ms": round(1e3 * statistics.mean(sum(record["seconds"].values()) for record in later), 1),
    }  # fmt: skip


def _share(records: list[dict[str, Any]]) -> float:
    waited = sum(record["seconds"]["data"] for record in records)
    return round(waited / sum(sum(record["seconds"].values()) for record in records), 4)


def _breakdown(directory: RunDirectory) -> dict[str, float]:
    """Seconds from the start of the second job's process to its first step, by part."""
    events = directory.read_events()
    job = [event for event in events if event["event"] == "job_started"][-1]
    ray = [event for event in events if event["event"] == "ray_started"][-1]
    attempt = [event for event in events if event["event"] == "attempt_started" and event["rank"] == 0][-1]
    reached = attempt["reached"]
    first = next(record for number, record in directory.read_metrics() if number == attempt["attempt"])
    batch_s, step_s = first["seconds"]["data"], sum(first["seconds"].values())
    return {
        "process_imports_and_plan": job["time"] - job["process_started"],
        "ray_and_torch": ray["time"] - job["time"],
        "workers": reached["entered"] - ray["time"],
        "data_open": reached["data_open"] - reached["entered"],
        "build": reached["built"] - reached["data_open"],
        "restore": attempt["time"] - reached["built"],
        "reader": first["time"] - step_s - attempt["time"],
        "first_batch": batch_s,
        "first_step": step_s - batch_s,
        "total": first["time"] - job["process_started"],
    }
