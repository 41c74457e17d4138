"""What an ingest has to do, given what its destination holds: all sources, the new ones, those that failed, or nothing.

A finished dataset records its inputs beside its manifest (path and digest of each). `find_work` compares them with the
sources of this run. A video is known by its path: one of the dataset is never ingested again, unless it failed and is
to be retried. The answer depends on the published version and the sources alone, and on nothing that an interrupted
run leaves behind, so that the same command finds the same work again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from pipelines.ingest.config import IngestConfig
from pipelines.ingest.rows import source_row
from pipelines.ingest.sources import with_free_ids
from pipelines.ingest.types import VideoSource
from pipelines.manifest_io import has_manifest, read_failures, read_inputs, read_manifest
from vamba.data.manifest import InputRow, Manifest, digest_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What may happen to a finished dataset."""

    append: bool = False  # new sources are added
    retry_failures: bool = False  # videos that failed are tried again


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is to be ingested."""

    base: Manifest | None  # the version that is extended; None: the dataset is still to come
    sources: tuple[VideoSource, ...]  # ordered by id; ids are those of the dataset
    inputs: tuple[InputRow, ...]  # of the version that this makes, ordered by path
    notes: tuple[str, ...] = ()  # what the user should know

    @property
    def is_done(self) -> bool:
        """Whether there is nothing to do."""
        return self.base is not None and not self.sources

    def key(self, config: IngestConfig) -> str:
        """Names the work area: the same work under the same settings is the same work."""
        parts = [config.work_digest, [source_row(source) for source in self.sources]]
        return digest_of(parts if self.base is None else [*parts, self.base.digest])


def inputs_digest(inputs: Iterable[InputRow]) -> str:
    """Digest of a list of inputs. Ids are left out: they depend on the order in which the videos came."""
    return digest_of(sorted([row.uri, row.digest] for row in inputs))


def find_work(config: IngestConfig, sources: Sequence[VideoSource], request: Request) -> Work:
    """Compares the sources with what the destination holds.

    Raises:
        ValueError: there is a finished dataset of other settings or inputs, which `request` does not allow to extend;
            or there is none to extend.
    """
    if not has_manifest(config.out):
        if request.append or request.retry_failures:
            option = "--append" if request.append else "--retry-failures"
            raise ValueError(
                f"out is {config.out!r}, where no finished dataset is that {option} could extend; run the ingest "
                "without it first (an unfinished one is continued by the command that began it)"
            )
        inputs = sorted((_input_row(source) for source in sources), key=lambda row: row.uri)
        return Work(base=None, sources=tuple(sources), inputs=tuple(inputs))
    base = read_manifest(config.out)
    comparison = _compare(config, base, sources)
    comparison.check(config, request)
    return comparison.work(base, request)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Comparison:
    """The sources of this run beside the inputs of the dataset."""

    known: dict[str, InputRow]  # inputs of the dataset, by path
    same_settings: bool
    new: tuple[VideoSource, ...]
    failed: tuple[VideoSource, ...]  # in the dataset's inputs, but not among its samples
    repaired: tuple[str, ...]  # paths of failed videos that are not what they were
    changed: tuple[str, ...]  # paths of samples whose size, split or conversations are not what they were
    missing: tuple[str, ...]  # paths of inputs that are not among the sources

    def check(self, config: IngestConfig, request: Request) -> None:
        allowed: list[tuple[str, tuple[str, ...]]] = []
        if not request.append:
            allowed += [("are new", tuple(source.uri for source in self.new))]
            allowed += [("have changed since", self.changed), ("are not named any more", self.missing)]
            if not request.retry_failures:
                allowed += [("failed then and have changed", self.repaired)]
        differences = [f"{len(paths)} {what}, the first is {paths[0]}" for what, paths in allowed if paths]
        kinds = ([] if self.same_settings else ["settings"]) + (["inputs"] if differences else [])
        if not kinds:
            return
        remedies = []
        if self.same_settings and self.new:
            remedies.append("add the new videos with --append")
        if self.same_settings and self.repaired and not request.retry_failures:
            remedies.append("try those that failed again with --retry-failures")
        remedies += ["choose another --out", "or remove that dataset first"]
        raise ValueError(
            f"out is {config.out!r}, where a finished dataset of other {' and '.join(kinds)} is"
            + (f" (videos: {'; '.join(differences)})" if differences else "")
            + f"; {', '.join(remedies)}"
        )

    def work(self, base: Manifest, request: Request) -> Work:
        sources: list[VideoSource] = []
        notes = []
        if request.append:
            taken = {row.id for row in self.known.values()}
            sources += with_free_ids(self.new, taken)
            same = [source.uri for source in self.new if source.id in taken]
            if same:
                notes.append(
                    f"{len(same)} new videos would have the id of another one in the dataset and get a digest behind "
                    f"it, the first is {same[0]}; if the files were only moved, they are in the dataset already"
                )
            if self.changed:
                notes.append(
                    f"{len(self.changed)} videos of the dataset have another size or other conversations now and stay "
                    f"as they were ingested, the first is {self.changed[0]}"
                )
        if request.retry_failures:
            sources += [replace(source, id=self.known[source.uri].id) for source in self.failed]
        inputs = self.known | {source.uri: _input_row(source) for source in sources}
        return Work(
            base=base,
            sources=tuple(sorted(sources, key=lambda source: source.id)),
            inputs=tuple(inputs[uri] for uri in sorted(inputs)),
            notes=tuple(notes),
        )


def _compare(config: IngestConfig, base: Manifest, sources: Sequence[VideoSource]) -> _Comparison:
    known = {row.uri: row for row in _inputs(config.out, base)}
    complete = {row.source_uri for row in base.samples}
    given = {source.uri for source in sources}
    old = [source for source in sources if source.uri in known]
    # An empty digest is of a dataset from before inputs were recorded: there the path alone counts.
    different = [source.uri for source in old if known[source.uri].digest not in ("", input_digest(source))]
    return _Comparison(
        known=known,
        same_settings=base.config_digest == config.digest,
        new=tuple(source for source in sources if source.uri not in known),
        failed=tuple(source for source in old if source.uri not in complete),
        repaired=tuple(uri for uri in different if uri not in complete),
        changed=tuple(uri for uri in different if uri in complete),
        missing=tuple(sorted(uri for uri in known if uri not in given)),
    )


def _inputs(out: str, base: Manifest) -> Iterable[InputRow]:
    inputs = read_inputs(out, base.version)
    if inputs is not None:
        return inputs
    samples = [InputRow(id=row.id, uri=row.source_uri, digest="") for row in base.samples]
    return samples + [InputRow(id=row.id, uri=row.source_uri, digest="") for row in read_failures(out)]


def input_digest(source: VideoSource) -> str:
    """Digest of what is known of a source before it is opened: path, size, split, conversations."""
    row = source_row(source)
    for key in ("id", "mtime_ns", "media", "offset_bytes"):
        del row[key]
    return digest_of(row)


def _input_row(source: VideoSource) -> InputRow:
    return InputRow(id=source.id, uri=source.uri, digest=input_digest(source))
