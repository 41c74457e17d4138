"""A run's health as Prometheus metrics, through Ray: each node's Ray agent exports what its processes report.

    run directory (metrics, events, checkpoints) ── RunHealth, pure ──> values by name ── Ray ──> Prometheus

`METRICS` is the list of all there are, for dashboards and alert rules; Prometheus shows a name as `ray_` + name, with
the label `run`. Where Ray is not running, nothing happens.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.ray_gauges import Gauges, GaugeSpec
from pipelines.training.line_follower import LineFollower
from pipelines.training.run_directory import MetricsFollower, RunDirectory

REPORT_EVERY_S = 2.0


METRICS: tuple[GaugeSpec, ...] = (
    GaugeSpec(name="vamba_train_step", unit="steps", description="Optimizer steps done."),
    GaugeSpec(name="vamba_train_steps_planned", unit="steps", description="Optimizer steps of the whole run."),
    GaugeSpec(name="vamba_train_loss", unit="nats", description="Mean cross-entropy per loss token of the last step."),
    GaugeSpec(name="vamba_train_evaluation_loss", unit="nats", description="Loss on held-out data, when last taken."),
    GaugeSpec(name="vamba_train_grad_norm", unit="1", description="Gradient norm of the last step, before clipping."),
    GaugeSpec(name="vamba_train_learning_rate", unit="1", description="Learning rate of the last step."),
    GaugeSpec(name="vamba_train_step_seconds", unit="s", description="Duration of the last step."),
    GaugeSpec(name="vamba_train_text_tokens_per_second", unit="tokens/s", description="Text tokens of the last step."),
    GaugeSpec(name="vamba_train_video_tokens_per_second", unit="tokens/s", description="Video tokens, likewise."),
    GaugeSpec(name="vamba_train_data_wait_ratio", unit="1", description="Share of the last step spent on its batch."),
    GaugeSpec(name="vamba_train_mfu_ratio", unit="1", description="Model operations per second over the peak's."),
    GaugeSpec(name="vamba_train_memory_bytes", unit="bytes", description="Memory of the first worker."),
    GaugeSpec(name="vamba_train_attempts", unit="attempts", description="Starts of the worker group."),
    GaugeSpec(name="vamba_train_checkpoint_age_seconds", unit="s", description="Of work that a crash would cost."),
    GaugeSpec(name="vamba_train_checkpoint_step", unit="steps", description="Step of the newest whole checkpoint."),
    GaugeSpec(name="vamba_train_skipped_steps", unit="steps", description="Steps without an update, by a guard."),
    GaugeSpec(name="vamba_train_rewinds", unit="rewinds", description="Returns to an earlier checkpoint, by a guard."),
    GaugeSpec(name="vamba_train_replayed_steps", unit="steps", description="Steps trained again after a restart."),
    GaugeSpec(name="vamba_train_unreadable_samples", unit="samples", description="Samples left out as unreadable."),
    GaugeSpec(
        name="vamba_train_goodput_ratio", unit="1",
        description="Seconds in steps that count, each once, over the time since the run first started.",
    ),
    GaugeSpec(
        name="vamba_train_last_step_timestamp_seconds", unit="s",
        description="End of the last step, or a later start of the job or its workers (Unix).",
    ),
)  # fmt: skip


@dataclass(slots=True)
class RunHealth:
    """The metrics of a run so far, added up from its records and events in the order they were written.

    skipped: steps; rewinds: (at, to). A restart that repeats them does not count them again.
    """

    num_steps: int = 0
    last: dict[str, Any] = field(default_factory=dict)
    started: float = math.nan
    newest_start: float = math.nan
    launched: float = math.nan
    attempts: int = 0
    checkpoint_time: float = math.nan
    checkpoint_step: int = 0
    skipped: set[int] = field(default_factory=set)
    replayed: int = 0
    rewinds: set[tuple[int, int]] = field(default_factory=set)
    evaluation_loss: float = math.nan
    unreadable: set[str] = field(default_factory=set)
    _productive_s: dict[int, float] = field(default_factory=dict)
    _begun: dict[int, float] = field(default_factory=dict)

    def add_step(self, record: Mapping[str, Any]) -> None:
        """A line of the metrics file. A step that comes again counts as replayed, and once as productive."""
        step = int(record["step"])
        self.replayed += step in self._productive_s
        self._productive_s[step] = 0.0 if record.get("skipped") else sum(record["seconds"].values())
        if record.get("skipped"):
            self.skipped.add(step)
        else:
            self.skipped.discard(step)
        self.last = dict(record)

    def add_event(self, event: Mapping[str, Any]) -> None:
        """A line of events.jsonl."""
        kind, at = event["event"], float(event["time"])
        if kind == "attempt_started" and event["rank"] == 0:
            self.attempts += 1
            self.num_steps = int(event.get("num_steps", self.num_steps))
            self.started = at if math.isnan(self.started) else self.started
            self.newest_start = at
        elif kind in ("job_started", "ray_started"):
            self.launched = at
        elif kind == "checkpoint_begun":
            self._begun[int(event["step"])] = at
        elif kind == "checkpoint_committed":
            self.checkpoint_step = int(event["step"])
            self.checkpoint_time = self._begun.get(self.checkpoint_step, at)
        elif kind == "sample_unreadable":
            self.unreadable.add(event["id"])
        elif kind == "evaluated":
            self.evaluation_loss = float(event["evaluation_loss"])
        elif kind == "rewound":
            self.rewinds.add((int(event["at"]), int(event["to"])))

    def values(self, now: float) -> dict[str, float]:
        """Values by name of `METRICS`; what is not known yet is left out. now: seconds since 1970."""
        known: dict[str, float | None] = {
            "attempts": self.attempts, "steps_planned": self.num_steps or None, "skipped_steps": len(self.skipped),
            "replayed_steps": self.replayed, "rewinds": len(self.rewinds), "evaluation_loss": self.evaluation_loss,
            "unreadable_samples": len(self.unreadable),
            "checkpoint_age_seconds": now - self._safe_until(), "checkpoint_step": self.checkpoint_step,
            "goodput_ratio": sum(self._productive_s.values()) / max(now - self.started, 1e-9),
        }  # fmt: skip
        if self.last:
            last, step_s = self.last, sum(self.last["seconds"].values())
            rate = {f"{kind}_tokens_per_second": last[f"num_{kind}_tokens"] / step_s for kind in ("text", "video")}
            known |= rate if step_s else {}
            known |= {name: last.get(name) for name in ("step", "loss", "grad_norm", "learning_rate", "memory_bytes")}
            known |= {"mfu_ratio": last.get("mfu"), "step_seconds": step_s}
            # A run that was stopped for a night does not hang while it starts again.
            starts = (at for at in (self.newest_start, self.launched) if math.isfinite(at))
            known["last_step_timestamp_seconds"] = max([last["time"], *starts])
            known["data_wait_ratio"] = last["seconds"].get("data", 0.0) / step_s if step_s else None
        return {
            f"vamba_train_{name}": float(value)
            for name, value in known.items()
            if value is not None and math.isfinite(value)
        }

    def _safe_until(self) -> float:
        """When the newest whole checkpoint began; or a later start, before which time passed without work."""
        known = [at for at in (self.checkpoint_time, self.newest_start) if math.isfinite(at)]
        return max(known, default=math.nan)


class RayReporter:
    """Follows a run directory from the driver, and reports to Ray under the run's name."""

    def __init__(self, directory: RunDirectory) -> None:
        self._run, self._health = directory.name, RunHealth()
        self._steps, self._events = MetricsFollower(directory), LineFollower(directory.events_path)
        self._gauges = Gauges(METRICS, label="run")
        self._reported = -REPORT_EVERY_S

    def report(self, *, at_once: bool = False) -> None:
        """Set the gauges to what the run's files say, if Ray is running. at_once: though it was done a moment ago."""
        if not at_once and time.monotonic() - self._reported < REPORT_EVERY_S:
            return
        self._reported = time.monotonic()
        for event in self._events.read_new():
            self._health.add_event(event)
        for _, record in self._steps.read_new():
            self._health.add_step(record)
        self._gauges.set(self._health.values(time.time()), self._run)
