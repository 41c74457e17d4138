"""What a run measured of itself, step by step, and what happened to it: read from its files for the report.

Of a step that was trained twice, the last time counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Points = Sequence[tuple[int, float]]
"""(step, value)"""

_MOST_EVENTS = 60
_TOLD = {
    "step_skipped": "step changed nothing",
    "rewound": "went back",
    "checkpoint_quarantined": "checkpoint set aside",
    "checkpoint_failed": "checkpoint not written",
    "sample_unreadable": "sample not read",
    "config_changed": "configuration changed",
    "stopped": "stopped on request",
    "profiled": "profiled",
    "finished": "finished",
}
"""Events of interest to whoever judges a run, and what a report calls them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One small chart: lines by name. is_share: of values that are parts of a whole."""

    title: str
    unit: str
    lines: Mapping[str, Points]
    is_share: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRow:
    """An attempt as a table row. started: UTC. last_step: None where it recorded none."""

    number: int
    from_step: int
    last_step: int | None
    workers: int
    host: str
    started: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunHistory:
    """events: (when, what, about), oldest first. checkpoint_steps: of those begun. held_s: that one held a step."""

    name: str
    panels: tuple[Panel, ...]
    attempts: tuple[AttemptRow, ...]
    events: tuple[tuple[str, str, str], ...]
    num_events_left_out: int
    checkpoint_steps: tuple[int, ...]
    held_s: float


def run_history(directory: Path) -> RunHistory:
    """Read a run's history; panels that older runs did not measure are left out."""
    from pipelines.training.run_directory import RunDirectory

    run = RunDirectory(directory)
    records: dict[int, dict[str, Any]] = {}
    reached: dict[int, int] = {}
    for attempt, record in run.read_metrics():
        records[int(record["step"])] = record
        reached[attempt] = int(record["step"])
    events = run.read_events()
    told = [event for event in events if event["event"] in _TOLD]
    begun = [event for event in events if event["event"] == "checkpoint_begun"]
    evaluated = {int(e["step"]): float(e["evaluation_loss"]) for e in events if e["event"] == "evaluated"}
    return RunHistory(
        name=run.name,
        panels=tuple(_panels([records[step] for step in sorted(records)], sorted(evaluated.items()))),
        attempts=tuple(_attempts(events, reached)),
        events=tuple((_clock(event["time"]), _TOLD[event["event"]], _about(event)) for event in told[-_MOST_EVENTS:]),
        num_events_left_out=max(0, len(told) - _MOST_EVENTS),
        checkpoint_steps=tuple(int(event["step"]) for event in begun),
        held_s=sum(event.get("held_s", 0.0) for event in begun) / max(1, len(begun)),
    )


def _panels(records: Sequence[Mapping[str, Any]], evaluated: Points) -> list[Panel]:
    timed = [record for record in records if sum(record.get("seconds", {}).values()) > 0]
    seconds = {record["step"]: sum(record["seconds"].values()) for record in timed}
    panels = [
        Panel(
            title="Tokens per second",
            unit="tokens/s",
            lines={
                kind: [(r["step"], r[f"num_{kind}_tokens"] / seconds[r["step"]]) for r in timed]
                for kind in ("text", "video")
            },
        ),
        Panel(
            title="Waiting for data",
            unit="% of step",
            lines={"": [(r["step"], 100 * r["seconds"].get("data", 0.0) / seconds[r["step"]]) for r in timed]},
            is_share=True,
        ),
        Panel(title="Gradient norm by group", unit="", lines=_named(records, "grad_norms")),
        Panel(title="Weight of self-attention (alpha) by layer", unit="", lines=_alphas(records)),
        Panel(title="Memory of the first worker", unit="GiB", lines={"": _field(records, "memory_bytes", 1024.0**-3)}),
        Panel(title="Model utilisation (MFU)", unit="%", lines={"": _field(records, "mfu", 100.0)}),
        Panel(title="Evaluation loss", unit="nats", lines={"": evaluated}),
    ]
    return [panel for panel in panels if any(panel.lines.values())]


def _named(records: Sequence[Mapping[str, Any]], field: str) -> dict[str, Points]:
    names = dict.fromkeys(name for record in records for name in record.get(field, {}))
    return {
        name.replace("_", " "): [(r["step"], r[field][name]) for r in records if name in r.get(field, {})]
        for name in names
    }


def _alphas(records: Sequence[Mapping[str, Any]]) -> dict[str, Points]:
    num_layers = max((len(record.get("alphas", ())) for record in records), default=0)
    return {
        f"layer {layer}": [(r["step"], r["alphas"][layer]) for r in records if layer < len(r.get("alphas", ()))]
        for layer in range(num_layers)
    }


def _field(records: Sequence[Mapping[str, Any]], field: str, factor: float) -> Points:
    return [(r["step"], r[field] * factor) for r in records if r.get(field) is not None]


def _attempts(events: Sequence[Mapping[str, Any]], reached: Mapping[int, int]) -> list[AttemptRow]:
    return [
        AttemptRow(
            number=event["attempt"],
            from_step=int(event["resumed_from_step"]),
            last_step=reached.get(event["attempt"]),
            workers=int(event["world_size"]),
            host=str(event.get("host", "")),
            started=_clock(event["time"]),
        )
        for event in events
        if event["event"] == "attempt_started" and event["rank"] == 0
    ]


def _about(event: Mapping[str, Any]) -> str:
    """All that an event says, short."""
    words = [
        f"{key} {_short(value)}" for key, value in event.items() if key not in ("event", "time", "attempt", "rank")
    ]
    return ", ".join(words)


def _short(value: Any) -> str:
    if isinstance(value, dict | list | tuple) and len(value) > 4:
        return f"({len(value)})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)[:160]


def _clock(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S")
