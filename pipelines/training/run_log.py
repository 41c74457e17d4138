"""What happened to a run, in plain lines: the events, a line of progress now and then, and what workers died of.

    events.jsonl ──────────────┐
    metrics/attempt-*.jsonl ───┼── log_entries ──> `vamba runs logs`, oldest first
    errors/attempt-0001-rank-0.txt   (named by the event "worker_failed")

A job's own notices ("MLflow can't be reached", "SIGTERM: …") are events too, so nothing of what a terminal showed is
lost with the terminal.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.redaction import redacted_text
from pipelines.training.rewind import describe_guard_event
from pipelines.training.run_directory import RunDirectory
from vamba.ops.backends import Backends, describe

_TAIL_LINES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """time: seconds since 1970. attempt: None for what the job did outside of one. text: one line or more."""

    time: float
    attempt: int | None
    text: str


def log_entries(directory: RunDirectory, *, progress_every_s: float = 10.0) -> list[LogEntry]:
    """The whole log, oldest first; every attempt's last step is in it."""
    entries = [*_event_entries(directory), *_progress_entries(directory, progress_every_s)]
    return sorted(entries, key=lambda entry: entry.time)


def kept_notice(directory: RunDirectory, notice: Callable[[str], None]) -> Callable[[str], None]:
    """`notice`, whose lines are kept in the run as well."""

    def keep(text: str) -> None:
        text = redacted_text(text)
        notice(text)
        try_event(directory, "notice", text=text)

    return keep


def try_event(directory: RunDirectory, event: str, **values: Any) -> None:
    """Append an event where losing it is better than ending the run: a full disk must not end what reports it."""
    try:
        directory.append_event(event, **values)
    except OSError as error:
        print(f"{event} {values} could not be recorded in {directory.events_path}: {error}", flush=True)


@contextmanager
def failures_recorded(directory: RunDirectory, attempt: int, rank: int) -> Iterator[None]:
    """Keep what ends the block with an exception, and let it pass."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # torch's CheckpointException is no Exception
        _record_failure(directory, attempt, rank, error)
        raise


def _record_failure(directory: RunDirectory, attempt: int, rank: int, error: BaseException) -> None:
    """Keep what a worker died of: its traceback as a file, its message as an event."""
    path = directory.root / "errors" / f"attempt-{attempt:04d}-rank-{rank}.txt"
    try:
        path.parent.mkdir(exist_ok=True)
        path.write_text(redacted_text("".join(traceback.format_exception(error))))
    except OSError:
        path = Path()
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"
    file = str(path.relative_to(directory.root)) if path.name else None
    try_event(directory, "worker_failed", attempt=attempt, rank=rank, reason=reason, traceback=file)


def describe_event(event: Mapping[str, Any]) -> str | None:
    """An event in words; None for those that only programs read."""
    describer = _DESCRIBED.get(event["event"], describe_guard_event)
    return describer(event)


def _attempt_started(event: Mapping[str, Any]) -> str | None:
    if event["rank"] != 0:
        return None
    step = event["resumed_from_step"]
    start = f"resumed from step {step}" if step else "from the start"
    backends = f"; {describe(Backends(**event['backends']))}" if "backends" in event else ""
    return f"attempt {event['attempt']}: {event['world_size']} workers, {start}{backends}"


def _config_changed(event: Mapping[str, Any]) -> str:
    return "changed: " + ", ".join(f"{key}: {old!r} -> {new!r}" for key, (old, new) in event["fields"].items())


def _preemption_announced(event: Mapping[str, Any]) -> str:
    ranks = ", ".join(map(str, event["ranks"])) or "unnamed"
    left = f"in {event['left_s']:.0f} s" if event["left_s"] is not None else "at a time not named"
    return f"the machines of ranks {ranks} will be taken {left}: saving now, and again before that"


def _worker_hung(event: Mapping[str, Any]) -> str:
    accused = ", ".join(map(str, event["suspects"])) or "unknown: all wait for each other"
    return (
        f"nothing happened in {event['phase']!r} after step {event['step']} for {event['for_s']:.0f} s; hanging rank: "
        f"{accused}; the group is ended. All threads: stacks/attempt-{event['attempt']:04d}-rank-*.txt"
    )


_DESCRIBED: dict[str, Callable[[Mapping[str, Any]], str | None]] = {
    "attempt_started": _attempt_started,
    "config_changed": _config_changed,
    "checkpoint_committed": lambda e: f"checkpoint of step {e['step']} written in {e['seconds']:.2f} s",
    "checkpoint_failed": lambda e: f"checkpoint of step {e['step']} could not be written: {e['reason']}",
    "checkpoint_quarantined": lambda e: f"checkpoint {e['checkpoint']} set aside as {e['moved_to']}: {e['reason']}",
    "evaluated": lambda e: f"step {e['step']}  evaluation loss {e['evaluation_loss']:.4f}",
    "finished": lambda e: f"finished at step {e['step']}",
    "job_ended": lambda e: f"job ended: {e['status']}",
    "job_started": lambda e: f"job started: process {e['pid']} on {e['host']}, {e['launcher']}",
    "notice": lambda e: str(e["text"]),
    "preemption_announced": _preemption_announced,
    "sample_unreadable": lambda e: f"sample {e['id']} left out of step {e['step']}: {e['reason']}",
    "stopped": lambda e: f"stopped at step {e['step']}, state saved",
    "stacks_written": lambda e: (
        f"rank {e['rank']} was in {e['phase']!r} after step {e['step']} for {e['for_s']:.0f} s"
        + (", waiting for the others" if e["waits_for_others"] else "")
    ),
    "worker_hung": _worker_hung,
    "worker_failed": lambda e: f"rank {e['rank']} failed: {e['reason']}",
}


def _event_entries(directory: RunDirectory) -> Iterator[LogEntry]:
    attempt: int | None = None
    for event in directory.read_events():
        attempt = event.get("attempt", attempt)
        text = describe_event(event)
        if text is not None:
            if event.get("traceback"):
                text += _tail(directory.root / event["traceback"])
            yield LogEntry(time=float(event["time"]), attempt=attempt, text=text)


def _tail(path: Path) -> str:
    if not path.is_file():
        return ""
    lines = path.read_text(errors="replace").rstrip().splitlines()
    return "".join(f"\n    {line}" for line in [f"{path}:", *lines[-_TAIL_LINES:]])


def _progress_entries(directory: RunDirectory, every_s: float) -> Iterator[LogEntry]:
    previous: tuple[int, Mapping[str, Any]] | None = None
    shown: float | None = None
    for attempt, record in directory.read_metrics():
        if previous is not None and attempt != previous[0]:
            yield from _lines(*previous)
            shown = None
        elif previous is not None and (shown is None or previous[1]["time"] >= shown + every_s):
            yield from _lines(*previous)
            shown = previous[1]["time"]
        previous = (attempt, record)
    if previous is not None:
        yield from _lines(*previous)


def _lines(attempt: int, record: Mapping[str, Any]) -> Iterable[LogEntry]:
    text = f"step {record['step']}  loss {record['loss']:.4f}"
    if "learning_rate" in record:
        text += f"  lr {record['learning_rate']:.2e}"
    return [LogEntry(time=float(record["time"]), attempt=attempt, text=text)]
