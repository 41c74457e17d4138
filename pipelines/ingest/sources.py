"""Finds what to ingest: files, folders, globs, tars and listings, local or remote, become sources with conversations.

Data: the user's SOURCE arguments → entries, one at a time (walk.py, listings.py, webdatasets.py) → a store on disk that
gives them ids (store.py). An id comes from the path relative to the folder, glob, tar or listing that named it.
Nothing is opened here but listings and the headers of tars: whether a file is a video is the probe's business.
"""

from __future__ import annotations

import posixpath
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

import braceexpand

from pipelines.filesystems import check_no_credentials, is_local, local_path
from pipelines.ingest.kinds import (
    IMAGE_SUFFIXES,
    LISTING_SUFFIXES,
    PACKED_TAR_SUFFIXES,
    TAR_SUFFIX,
    VIDEO_SUFFIXES,
    is_pattern,
    media_of,
    suffix_of,
    without_query,
)
from pipelines.ingest.listings import absolute_listing, folder_of, listing_rows
from pipelines.ingest.naming import relative_to
from pipelines.ingest.store import Entry, SourceStore
from pipelines.ingest.types import IngestError, VideoSource
from pipelines.ingest.walk import FoundFile, matching, walk, what_is
from pipelines.ingest.webdatasets import tar_samples

_TARS_AHEAD = 4


@dataclass(slots=True, kw_only=True)
class SourceCounts:
    """What was found beside the sources, and what kinds these are of."""

    num_videos: int = 0
    num_images: int = 0
    num_unusable: int = 0  # sources that are failures before they are opened: several images in a row, a broken tar
    num_ignored_files: int = 0  # in folders, of other kinds
    num_ignored_samples: int = 0  # of tars, without video and image
    num_text_only_rows: int = 0  # of listings, without video and image
    num_unmatched: int = 0  # videos and images that --conversations names and no source has


class FoundSources:
    """All sources, in a store that is closed at the end of a `with` block."""

    def __init__(self, store: SourceStore, counts: SourceCounts) -> None:
        self.store = store
        self.counts = counts

    def __enter__(self) -> FoundSources:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.store.close()

    def __len__(self) -> int:
        return len(self.store)

    def videos(self) -> Iterator[VideoSource]:
        """The sources, ordered by id."""
        return (item.source for item in self.store.sources())

    @property
    def first_unmatched(self) -> str | None:
        """The first source that --conversations names and that is none."""
        return self.store.first_unmatched


def find_sources(
    sources: Iterable[str], conversations: str | None = None, told: Callable[[int], None] = lambda _: None
) -> FoundSources:
    """Resolves the user's SOURCE arguments. `told` hears now and then how many were found.

    Raises:
        ValueError: a source does not exist or holds nothing to ingest, a listing is malformed, or a video has two
            splits.
    """
    store, counts = SourceStore(), SourceCounts()
    try:
        for source in sources:
            store.add(_entries(source, counts), told)
            if not len(store):
                known = " ".join(sorted(VIDEO_SUFFIXES | IMAGE_SUFFIXES))
                raise ValueError(f"source {source!r} holds no video or image; known endings are {known}")
        if conversations is not None:
            store.add(_listing_entries(conversations, counts), told, only_known=True)
            counts.num_unmatched = store.value("SELECT count(*) FROM unmatched")
        store.seal()
        kinds = dict(store.db.execute("SELECT media, count(*) FROM source WHERE problem IS NULL GROUP BY media"))
        counts.num_videos, counts.num_images = kinds.get("video", 0), kinds.get("image", 0)
        counts.num_unusable = len(store) - sum(kinds.values())
    except BaseException:
        store.close()
        raise
    return FoundSources(store, counts)


def _entries(source: str, counts: SourceCounts) -> Iterator[Entry]:
    """What one SOURCE names."""
    check_no_credentials(source, "a source")
    tars: list[FoundFile] = []  # after the rest, some at a time
    for uri in _expanded(source):
        kind = what_is(uri)
        if kind == "folder":
            yield from _folder_entries(uri, counts)
            continue
        if kind is None and not is_pattern(uri):
            raise ValueError(f"source {source!r} does not exist (looked for {uri}); check the path, or quote a glob")
        alone = FoundFile(uri=uri, relative=posixpath.basename(without_query(uri)))
        for file in [alone] if kind == "file" else matching(uri):
            if suffix_of(file.uri) == TAR_SUFFIX:
                tars.append(file)
            elif suffix_of(file.uri) in LISTING_SUFFIXES:
                yield from _listing_entries(file.uri, counts)
            else:
                yield _file_entry(file)
    yield from _tar_entries(tars, counts)


def _expanded(source: str) -> list[str]:
    """A SOURCE as absolute paths or URIs, its braces expanded; a local file of that very name is no pattern."""
    uri = str(local_path(source)) if is_local(source) else source
    if "{" not in uri or (is_local(uri) and what_is(uri) is not None):
        return [uri]
    try:
        return list(braceexpand.braceexpand(uri))
    except ValueError as error:
        raise ValueError(f"source {source!r} has a brace without its counterpart; write {{000..099}}") from error


def _folder_entries(folder: str, counts: SourceCounts) -> Iterator[Entry]:
    for file in walk(folder):
        if media_of(file.uri) is None:
            counts.num_ignored_files += 1
        else:
            yield _file_entry(file)


def _file_entry(file: FoundFile) -> Entry:
    """A file as a source; one whose ending says nothing was named by its user, and is tried as a video."""
    if file.uri.lower().endswith(PACKED_TAR_SUFFIXES):
        raise ValueError(
            f"source {file.uri!r} is a compressed tar, whose members cannot be read by themselves; unpack it"
        )
    return Entry(
        uri=file.uri,
        relative=file.relative,
        media=media_of(file.uri) or "video",
        size_bytes=file.size_bytes,
        mtime_ns=file.mtime_ns,
    )


def _listing_entries(listing: str, counts: SourceCounts) -> Iterator[Entry]:
    check_no_credentials(listing, "a listing")
    folder = folder_of(absolute_listing(listing))
    for row in listing_rows(listing):
        if row.uri is None:
            counts.num_text_only_rows += 1
            continue
        relative = relative_to(row.uri, folder)
        yield Entry(
            uri=row.uri,
            relative=relative if row.problem is None else relative.replace("#", "/"),  # LISTING#ROW, which is no file
            media=row.media,
            split=row.split,
            conversation=row.conversation,
            problem=row.problem,
        )


def _tar_entries(tars: Iterable[FoundFile], counts: SourceCounts) -> Iterator[Entry]:
    """The samples of tars, in order; some tars are read ahead, since each answer of a remote one is waited for."""
    for entries, num_ignored in _read_tars(tars):
        counts.num_ignored_samples += num_ignored
        yield from entries


def _read_tars(tars: Iterable[FoundFile]) -> Iterator[tuple[list[Entry], int]]:
    with ThreadPoolExecutor(_TARS_AHEAD) as pool:
        ahead: deque[Future[tuple[list[Entry], int]]] = deque()
        for tar in tars:
            ahead.append(pool.submit(_read_tar, tar.uri, tar.relative))
            if len(ahead) > _TARS_AHEAD:
                yield ahead.popleft().result()
        yield from (future.result() for future in ahead)


def _read_tar(tar: str, relative: str) -> tuple[list[Entry], int]:
    """The entries of a tar and the number of samples without media; what cannot be read is an entry with a problem."""
    entries: list[Entry] = []
    num_ignored = 0
    stem = relative.removesuffix(relative[-len(TAR_SUFFIX) :])
    try:
        for sample in tar_samples(tar):
            if sample is None:
                num_ignored += 1
                continue
            entries.append(
                Entry(
                    uri=f"{tar}#{sample.member.replace('#', '%23')}",  # the last # is the one before the member
                    relative=f"{stem}/{sample.member}",
                    media=sample.media,
                    size_bytes=sample.size_bytes,
                    mtime_ns=sample.mtime_ns,
                    offset_bytes=sample.offset_bytes,
                    split=sample.split,
                    conversation=sample.conversation,
                    problem=sample.problem,
                )
            )
    except (IngestError, OSError) as error:
        entries.append(Entry(uri=tar, relative=relative, media="video", problem=_problem(tar, error)))
    return entries, num_ignored


def _problem(tar: str, error: IngestError | OSError) -> IngestError:
    if isinstance(error, IngestError):
        return error
    if isinstance(error, FileNotFoundError):
        return IngestError("not_found", f"there is no file at {tar}")
    return IngestError("io_error", f"{tar} cannot be read: {error}")
