"""The files of one run: what it was asked to do, what it did, and what it made.

    {storage}/runs/{name}/
        config.json                 resolved configuration
        run.json                    digests of configuration and data, MLflow run id
        events.jsonl                attempts with their pids, checkpoints, refusals, the end; one JSON object a line
        metrics/attempt-0001.jsonl  one JSON object a step, flushed as the step ends
        metrics/machine.jsonl       the job's machine every few seconds: processors, memory, GPUs
        profiles/                   traces that `vamba runs profile` asked for
        checkpoints/step_00000040/  see docs/checkpoint-format.md
        model/                      the finished run in release layout
        errors/                     tracebacks of workers that failed, by attempt and rank
        stacks/                     what every thread was doing in a rank that hung, by attempt and rank
        control/                    requests to the running job (stop, profile), and why it can't go on (failed)
        job.lock, lock              held by the job and by its workers: see run_lock.py
        ray/                        scratch space of Ray Train, one folder for every start; never read again

Readers of the .jsonl files see whole lines, whatever wrote them was killed by: see json_lines.py.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipelines.layers import laid_over
from pipelines.redaction import redacted_text, redacted_values
from pipelines.training.config import TrainingConfig
from pipelines.training.json_lines import append_line, read_lines
from pipelines.training.line_follower import LineFollower

# A change of these leaves every remaining step what it was, or is the user's declared wish: more steps, or other rules
# for the guard, because a run that it has ended must be able to go on.
MAY_CHANGE = (
    "backends",
    "checkpoints",
    "data",
    "mirror",
    "parallel",
    "reader.cache_bytes",
    "reader.decode_workers",
    "reader.max_read_bytes",
    "reader.max_unreadable_samples",
    "reader.prefetch_bytes",
    "reader.prefetch_steps",
    "reader.read_workers",
    "reader.resize_on",
    "reader.retry_reads_for_s",
    "recipe",
    "storage",
    "tracking",
    "train.checkpoint_every_steps",
    "train.evaluate_every_steps",
    "train.guard",
    "train.num_epochs",
    "train.num_steps",
    "workers",
)


_OF_THE_ORIGINAL = ("mlflow_run_id", "mlflow_sent", "run_key", "mirror_id")
"""What a copy of a run's directory must not share with the run it was copied from."""


class DamagedFileError(ValueError):
    """A file of a run does not hold what was written to it."""


class RunMismatchError(ValueError):
    """A run of this name exists and was started with another configuration or other data."""


class RunDirectory:
    """Paths and records of one run. Cheap to build; creates nothing until asked."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config_path = root / "config.json"
        self.run_path = root / "run.json"
        self.events_path = root / "events.jsonl"
        self.metrics = root / "metrics"
        self.checkpoints = root / "checkpoints"
        self.model = root / "model"
        self.stop_path = root / "control" / "stop"
        self.failure_path = root / "control" / "failed"
        self.profile_path = root / "control" / "profile"
        self.profiles = root / "profiles"
        self.machine_path = self.metrics / "machine.jsonl"

    @property
    def name(self) -> str:
        return self.root.name

    def open(self, config: TrainingConfig, *, data_digest: str, model: Mapping[str, Any] | None = None) -> None:
        """Create the run, or check that `config` continues it. model: what must stay as it is about the model.

        Raises RunMismatchError naming every differing field that must not differ (`MAY_CHANGE` lists what may), and
        DamagedFileError.
        """
        for directory in (self.metrics, self.checkpoints, self.stop_path.parent):
            directory.mkdir(parents=True, exist_ok=True)
        resolved, record = dataclasses.asdict(config), self.read_run()
        before = _with_defaults(self.read_config()) if self.config_path.exists() else None
        self._refuse_changes(before, resolved, data_digest, model)
        changed = {} if before is None else differences(before, resolved)
        if changed:
            self.append_event("config_changed", fields=changed)
        if self._is_copy(record):
            self.update_run(**dict.fromkeys(_OF_THE_ORIGINAL))
        text = _json_text(resolved)
        # Of the file that is there, and of the one that takes its place: a kill comes before or after.
        contents = [*([] if before is None else [self.config_path.read_bytes()]), text.encode()]
        self.update_run(
            name=self.name, config_digest=config_digest(resolved), data_digest=data_digest,
            config_sha256=[hashlib.sha256(content).hexdigest() for content in contents],
        )  # fmt: skip
        _replace(self.config_path, text)
        if model is not None:
            self.update_run(model=dict(model))

    def clear_requests(self) -> None:
        """Forget what an earlier job was asked, and what it ended with."""
        if self.stop_path.parent.is_dir():
            for path in self.stop_path.parent.iterdir():
                path.unlink(missing_ok=True)

    def _refuse_changes(
        self,
        before: Mapping[str, Any] | None,
        after: Mapping[str, Any],
        data_digest: str,
        model: Mapping[str, Any] | None,
    ) -> None:
        """before: None where config.json is gone, of which run.json still has the digest."""
        changes = {} if before is None else differences(before, after)
        # The name is the directory's, which may have been renamed or copied.
        fixed = {key: pair for key, pair in changes.items() if not _may_change(key) and key != "name"}
        lines = [f"  {key}: {old!r} -> {new!r}" for key, (old, new) in fixed.items()]
        digests = self.read_run().get("config_digest"), config_digest(after)
        if before is None and digests[0] not in (None, digests[1]):
            lines.append(f"  config.json is gone; digest of the settings: {digests[0]} -> {digests[1]}")
        known = self.read_run().get("data_digest", data_digest)
        if known != data_digest:
            lines.append(f"  data digest: {known} -> {data_digest} (the dataset at {after['data']} is another one)")
        if model is not None:
            known_model = self.read_run().get("model", model)
            differing = differences(known_model, model).items()
            lines += [f"  model {key}: {old!r} -> {new!r}" for key, (old, new) in differing]
        if lines:
            raise RunMismatchError(
                f"Run {self.name!r} was started differently and cannot be continued like this:\n"
                + "\n".join(lines)
                + "\nUse the earlier values, or give the new run another --name. May change on resume: "
                + f"{', '.join(MAY_CHANGE)}."
            )

    def _is_copy(self, record: Mapping[str, Any]) -> bool:
        """Whether the directory was copied from a run that is still beside it, by its record; a renamed one is none."""
        known = record.get("name", self.name)
        return known != self.name and RunDirectory(self.root.parent / known).run_path.is_file()

    def read_run(self) -> dict[str, Any]:
        """Raises DamagedFileError."""
        try:
            return read_json(self.run_path) if self.run_path.exists() else {}
        except DamagedFileError as error:
            raise DamagedFileError(
                f"{error} Restore it from a copy; a mirror has one. Without one, move it away and run the "
                "`vamba train` command of the start again: it goes on from the newest checkpoint, as another run "
                "in MLflow."
            ) from error

    def read_config(self) -> dict[str, Any]:
        """The configuration that the run wrote. Raises DamagedFileError, also for one that was edited since."""
        known = self.read_run().get("config_sha256")
        try:
            config = read_json(self.config_path)
            if known and hashlib.sha256(self.config_path.read_bytes()).hexdigest() not in known:
                raise DamagedFileError(f"{self.config_path} is not what the run wrote: it was edited, or is damaged.")
        except DamagedFileError as error:
            raise DamagedFileError(
                f"{error} Restore it from a copy. Without one, move it away and run the `vamba train` command of the "
                "start again, whose settings are checked by their digest. Settings are changed by --set."
            ) from error
        return config

    def update_run(self, **values: Any) -> None:
        """Merge values into run.json; the job and its first worker may do so at the same moment."""
        with (self.root / "run.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            write_json(self.run_path, {**self.read_run(), **values})

    def require_same(self, key: str, digest: str, what: str, rank: int) -> None:
        """Record the digest of what the run was started with, on rank 0, or check that it is that.

        Raises RunMismatchError.
        """
        known = self.read_run().get(key, digest)
        if known != digest:
            raise RunMismatchError(
                f"Run {self.name!r} was started with another version of {what}: {known} -> {digest}. Restore that, or "
                "give the new run another --name."
            )
        if rank == 0:
            self.update_run(**{key: digest})

    def append_event(self, event: str, **values: Any) -> None:
        append_line(self.events_path, {"event": event, "time": round(time.time(), 3), **redacted_values(values)})

    def read_events(self) -> list[dict[str, Any]]:
        return list(read_lines(self.events_path))

    def write_failure(self, reason: str) -> None:
        """Note what no restart of the workers will change."""
        self.failure_path.write_text(redacted_text(reason))

    def read_failure(self) -> str | None:
        return self.failure_path.read_text() if self.failure_path.exists() else None

    def finished_step(self) -> int | None:
        """The step the run finished at, None while it has not. It may have been prolonged since."""
        finished = [event for event in self.read_events() if event["event"] == "finished"]
        return int(finished[-1]["step"]) if finished else None

    def new_attempt(self) -> int:
        """Claim the next attempt number by creating its metrics file."""
        attempt = 1 + max((int(path.stem.removeprefix("attempt-")) for path in self.attempts()), default=0)
        self.metrics_path(attempt).touch(exist_ok=False)
        return attempt

    def metrics_path(self, attempt: int) -> Path:
        return self.metrics / f"attempt-{attempt:04d}.jsonl"

    def read_metrics(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Every recorded step as (attempt, record), in the order it was trained; replayed steps appear again."""
        for path in self.attempts():
            attempt = int(path.stem.removeprefix("attempt-"))
            for record in read_lines(path):
                yield attempt, record

    def attempts(self) -> list[Path]:
        """Metrics files, oldest first."""
        return sorted(self.metrics.glob("attempt-*.jsonl"))


class MetricsFollower:
    """Reads the metrics files as they grow, each line once."""

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory
        self._files: dict[Path, LineFollower] = {}

    def read_new(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """(attempt, record) of the steps recorded since the last call, in the order they were trained."""
        for path in self._directory.attempts():
            for record in self._files.setdefault(path, LineFollower(path)).read_new():
                yield int(path.stem.removeprefix("attempt-")), record


def run_directory(storage: str | None, name: str) -> RunDirectory:
    """The directory of run `name` below `storage` (None: VAMBA_HOME). Raises ValueError for object stores."""
    from pipelines.storage import vamba_home

    root = storage or str(vamba_home())
    if "://" in root:
        raise ValueError(
            f"storage = {root!r}: runs are kept on a file system that all workers see. Use a path; "
            "datasets may be on S3."
        )
    return RunDirectory(Path(root).expanduser().resolve() / "runs" / name)


def config_digest(resolved: Mapping[str, Any]) -> str:
    """Digest of all that decides what a run computes: equal digests, equal losses."""
    decisive = {key: value for key, value in flatten(resolved) if not _may_change(key) and key != "name"}
    return "sha256:" + hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace `path` so that a reader, or a crash, sees the old or the new content, never part of one."""
    _replace(path, _json_text(value))


def _json_text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, sort_keys=True)


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _with_defaults(before: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as this version would have resolved it: fields that it is too old to have take their defaults."""
    return laid_over(dataclasses.asdict(TrainingConfig(name="run", data="")), before)


def read_json(path: Path) -> dict[str, Any]:
    """Raises DamagedFileError where there is something else than a JSON object."""
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise DamagedFileError(f"{path} is damaged: it holds no JSON object ({error}).") from error


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf; tuples as lists, as they read back from JSON."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, list(value) if isinstance(value, tuple) else value


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    old, new = dict(flatten(before)), dict(flatten(after))
    return {key: (old.get(key), new.get(key)) for key in sorted({*old, *new}) if old.get(key) != new.get(key)}


def _may_change(key: str) -> bool:
    return any(key == name or key.startswith(name + ".") for name in MAY_CHANGE)
