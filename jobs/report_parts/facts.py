"""What a report tells, read from the files that the jobs left behind: runs, dataset, evaluations, promotion decision.

Nothing here draws. A run's curve holds, for every step, the loss that counts (of the last attempt that trained it),
and apart from it the points of interrupted attempts that were trained again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.evaluation.result import EvaluationResult
    from vamba.data.manifest import Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """An attempt that continued. from_step: last step kept; reached_step: where the attempt before it had been."""

    attempt: int
    from_step: int
    reached_step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """A run's curve and its history. losses, replayed: (step, loss). max_difference: largest |Δ loss| of the replayed.

    num_tokens: text and video, of every step once. wall_s: from the first recorded step to the last.
    """

    name: str
    directory: Path
    recipe: str
    losses: tuple[tuple[int, float], ...]
    replayed: tuple[tuple[int, float], ...]
    resumes: tuple[Resume, ...]
    max_difference: float
    num_tokens: int
    wall_s: float
    lineage: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFacts:
    """A dataset's totals."""

    uri: str
    digest: str
    num_samples: int
    num_shards: int
    num_frames: int
    num_conversations: int
    duration_s: float
    longest_s: float
    size_bytes: int
    failures: tuple[Failure, ...]


def run_facts(reference: str) -> RunFacts:
    """Read a run by name or directory. Raises ValueError when there is none."""
    from pipelines.registry.models import find_run, run_lineage
    from pipelines.training.run_directory import RunDirectory, read_json

    path = find_run(reference)
    if path is None:
        raise ValueError(f"There is no run {reference!r}. `vamba runs` lists them.")
    directory = RunDirectory(path)
    kept: dict[int, float] = {}
    replayed: list[tuple[int, float]] = []
    reached: dict[int, int] = {}
    difference, num_tokens, times = 0.0, 0, []
    for attempt, record in directory.read_metrics():
        step, loss = int(record["step"]), float(record["loss"])
        if step in kept:
            replayed.append((step, kept[step]))
            difference = max(difference, abs(loss - kept[step]))
        else:
            num_tokens += record.get("num_text_tokens", 0) + record.get("num_video_tokens", 0)
        kept[step] = loss
        reached[attempt] = step
        times.append(float(record["time"]))
    config = read_json(directory.config_path) if directory.config_path.exists() else {}
    return RunFacts(
        name=path.name,
        directory=path,
        recipe=config.get("recipe", ""),
        losses=tuple(sorted(kept.items())),
        replayed=tuple(replayed),
        resumes=tuple(_resumes(directory.read_events(), reached)),
        max_difference=difference,
        num_tokens=num_tokens,
        wall_s=max(times) - min(times) if times else 0.0,
        lineage=run_lineage(path),
    )


def _resumes(events: Sequence[Mapping[str, Any]], reached: Mapping[int, int]) -> list[Resume]:
    found: dict[int, Resume] = {}
    for event in events:
        if event["event"] != "attempt_started" or event["attempt"] in found or event["attempt"] <= 1:
            continue
        before = [step for attempt, step in reached.items() if attempt < event["attempt"]]
        found[event["attempt"]] = Resume(
            attempt=event["attempt"],
            from_step=int(event["resumed_from_step"]),
            reached_step=max(before, default=0),
        )
    return list(found.values())


def data_facts(uri: str) -> DataFacts:
    """Read a dataset's manifest and failures."""
    from pipelines.manifest_io import read_failures, read_manifest

    manifest = read_manifest(uri)
    try:
        failures = read_failures(uri)
    except FileNotFoundError:
        failures = ()
    rows = manifest.samples
    return DataFacts(
        uri=uri,
        digest=manifest.digest,
        num_samples=len(rows),
        num_shards=len(manifest.shards),
        num_frames=sum(row.num_frames for row in rows),
        num_conversations=sum(row.num_conversations for row in rows),
        duration_s=sum(row.duration_ns for row in rows) / 1e9,
        longest_s=max((row.duration_ns for row in rows), default=0) / 1e9,
        size_bytes=sum(shard.size_bytes for shard in manifest.shards),
        failures=failures,
    )


def evaluation_facts(references: Sequence[str]) -> tuple[EvaluationResult | None, EvaluationResult | None]:
    """(evaluation, control) among results named by evaluation name or path; the newest of each kind."""
    from pipelines.evaluation.result import evaluations_directory, read_result

    results = []
    for reference in references:
        path = Path(reference) if Path(reference).exists() else evaluations_directory() / reference
        if not path.exists():
            raise ValueError(
                f"There is no evaluation {reference!r}: neither a path nor a name in {evaluations_directory()}."
            )
        results.append(read_result(path))
    results.sort(key=lambda result: result.created_at, reverse=True)
    main = next((result for result in results if not result.control), None)
    return main, next((result for result in results if result.control), None)


def promotion_facts(reference: str) -> dict[str, Any]:
    """The last promotion decision about `models:/NAME@alias` or `models:/NAME/VERSION`, empty when there is none."""
    from pipelines.registry.audit import open_audit_log
    from pipelines.registry.history import last_decision
    from pipelines.registry.models import parse_version

    parsed = parse_version(reference if reference.startswith("models:") else f"models:/{reference}")
    if parsed is None:
        return {}
    name, version, alias = parsed
    log = open_audit_log()
    digest = last_decision(log.entries(), name, version=version, alias=alias)
    return log.kept(digest) if digest else {}
