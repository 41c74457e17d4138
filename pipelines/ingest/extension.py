"""What an ingest has to do, given what its destination holds: all sources, the new ones, those that failed, or nothing.

A finished dataset records its inputs beside its manifest (path and digest of each). `find_work` compares them with the
sources of this run (comparison.py). A video is known by its path: one of the dataset is never ingested again, unless it
failed and is to be retried. The answer depends on the published version and the sources alone, and on nothing that an
interrupted run leaves behind, so that the same command finds the same work again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pipelines.ingest.comparison import Comparison, InputColumns, Some
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.store import SourceStore
from pipelines.manifest_io import read_failures
from pipelines.manifest_tables import StoredVersion, open_version, read_inputs_of

# Raised whenever a work area of an earlier program could not be continued: its plans, segments or records.
_WORK_VERSION = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What may happen to a finished dataset."""

    append: bool = False  # new sources are added
    retry_failures: bool = False  # videos that failed are tried again


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is to be ingested; the sources themselves are in the store."""

    base: StoredVersion | None  # the version that is extended; None: the dataset is still to come
    comparison: Comparison
    num_sources: int  # to be ingested
    num_inputs: int  # of the version that this makes
    notes: tuple[str, ...] = ()  # what the user should know

    @property
    def is_done(self) -> bool:
        """Whether there is nothing to do."""
        return self.base is not None and not self.num_sources

    def key(self, config: IngestConfig) -> str:
        """Names the work area: the same work under the same settings is the same work."""
        return work_key(config, self.comparison.identities(), self.base.digest if self.base is not None else None)


def work_key(config: IngestConfig, identities: Iterable[tuple[Any, ...]], base_digest: str | None) -> str:
    """The name of the work area of some sources; `identities` as the store gives them."""
    state = hashlib.sha256(json.dumps([_WORK_VERSION, config.work_digest, base_digest]).encode())
    for identity in identities:
        state.update(json.dumps(identity).encode())
    return "sha256:" + state.hexdigest()


def find_work(config: IngestConfig, sources: SourceStore, request: Request) -> Work:
    """Compares the sources with what the destination holds.

    Raises:
        ValueError: there is a finished dataset of other settings or inputs, which `request` does not allow to extend;
            or there is none to extend.
    """
    base = open_version(config.out)
    if base is None:
        if request.append or request.retry_failures:
            option = "--append" if request.append else "--retry-failures"
            raise ValueError(
                f"out is {config.out!r}, where no finished dataset is that {option} could extend; run the ingest "
                "without it first (an unfinished one is continued by the command that began it)"
            )
        comparison = Comparison(sources, (), ())
        comparison.add_all()
        return Work(base=None, comparison=comparison, num_sources=len(sources), num_inputs=len(sources))
    comparison = Comparison(sources, _inputs(config.out, base), _complete(base))
    _check(config, request, comparison, same_settings=base.header.config_digest == config.digest)
    notes = _choose(request, comparison)
    num_sources, num_inputs = comparison.num_todo(), comparison.num_inputs()
    return Work(base=base, comparison=comparison, num_sources=num_sources, num_inputs=num_inputs, notes=notes)


def is_current(work: Work, out: str) -> bool:
    """Whether the destination still holds what the work was found for."""
    now = open_version(out)
    return (now.digest if now is not None else None) == (work.base.digest if work.base is not None else None)


def _check(config: IngestConfig, request: Request, comparison: Comparison, *, same_settings: bool) -> None:
    new, repaired = comparison.new, comparison.repaired
    refused: list[tuple[str, Some]] = []
    if not request.append:
        refused += [("are new", new), ("have changed since", comparison.changed)]
        refused += [("are not named any more", comparison.missing)]
        if not request.retry_failures:
            refused += [("failed then and have changed", repaired)]
    differences = [f"{some.count} {what}, the first is {some.first}" for what, some in refused if some]
    kinds = ([] if same_settings else ["settings"]) + (["inputs"] if differences else [])
    if not kinds:
        return
    remedies = []
    if same_settings and new:
        remedies.append("add the new videos with --append")
    if same_settings and repaired and not request.retry_failures:
        remedies.append("try those that failed again with --retry-failures")
    remedies += ["choose another --out", "or remove that dataset first"]
    raise ValueError(
        f"out is {config.out!r}, where a finished dataset of other {' and '.join(kinds)} is"
        + (f" (videos: {'; '.join(differences)})" if differences else "")
        + f"; {', '.join(remedies)}"
    )


def _choose(request: Request, comparison: Comparison) -> tuple[str, ...]:
    """Marks what is to be done; returns what the user should know."""
    notes = []
    if request.append:
        comparison.add_new()
        same, changed = comparison.new_with_taken_id, comparison.changed
        if same:
            notes.append(
                f"{same.count} new videos would have the id of another one in the dataset and get a digest behind "
                f"it, the first is {same.first}; if the files were only moved, they are in the dataset already"
            )
        if changed:
            notes.append(
                f"{changed.count} videos of the dataset have another size or other conversations now and stay "
                f"as they were ingested, the first is {changed.first}"
            )
    if request.retry_failures:
        comparison.add_failed()
    return tuple(notes)


def _inputs(out: str, base: StoredVersion) -> Iterator[InputColumns]:
    recorded = read_inputs_of(out, base.version)
    if recorded is not None:
        yield from recorded
        return
    for batch in base.batches():
        for name, uri in zip(*(batch.column(key).to_pylist() for key in ("id", "source_uri")), strict=True):
            yield name, uri, ""
    for failure in read_failures(out):
        yield failure.id, failure.source_uri, ""


def _complete(base: StoredVersion) -> Iterator[str]:
    for batch in base.batches():
        yield from batch.column("source_uri").to_pylist()
