"""Videos that a dataset holds more than once: the same file, or the same pictures in another file.

manifest ── source digests ──> exact groups; one sample of each digest ── a few frames, in processes ──> fingerprints
── near_pairs ──> near groups. Groups are reported and nothing is deleted: whether a copy should go, and which, depends
on its conversations. A group that reaches over splits is marked, since it lets training see what evaluation asks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipelines.datasets.fingerprint import NUM_FRAMES, Fingerprint, fingerprint
from pipelines.datasets.frame_access import UNREADABLE, FrameAccess
from pipelines.datasets.near_pairs import LEAST_COMMON_FRAMES, distance_bits, near_groups
from pipelines.datasets.pool import in_processes
from pipelines.manifest_io import read_manifest
from pipelines.storage import open_storage
from vamba.data.manifest import SampleRow

Progress = Callable[[int, int], None]
"""(videos looked at, videos in all)."""
_ROWS_PER_TASK = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate:
    """A member of a group. distance_bits: mean differing bits of 64 to the group's first member; 0 for equal files."""

    id: str
    split: str
    duration_ns: int
    source_uri: str
    distance_bits: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicateGroup:
    """Samples of one video, in the order of the manifest."""

    crosses_splits: bool
    samples: tuple[Duplicate, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread:
    """A sample whose frames could not be read."""

    id: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NearDuplicates:
    """Of one sample per source digest. num_plain: videos with too little texture to compare."""

    groups: tuple[DuplicateGroup, ...]
    num_compared: int
    num_plain: int
    num_crowded: int  # keys that so many videos share that not all pairs of them were compared
    unread: tuple[Unread, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicates:
    """near: None where it was not asked for."""

    uri: str
    digest: str  # of the manifest
    num_samples: int
    exact: tuple[DuplicateGroup, ...]
    near: NearDuplicates | None


def find_duplicates(
    data: str, *, near: bool = False, num_processes: int = 1, progress: Progress | None = None
) -> Duplicates:
    """Exact duplicates from the manifest alone; with `near`, frames of every different video are read and compared.

    Raises:
        FileNotFoundError: there is no finished dataset.
    """
    manifest = read_manifest(data)
    by_digest: dict[str, list[SampleRow]] = {}
    for row in manifest.samples:
        by_digest.setdefault(row.source_digest, []).append(row)
    exact = tuple(_group(rows, [0.0] * len(rows)) for rows in by_digest.values() if len(rows) > 1)
    firsts = [rows[0] for rows in by_digest.values()]
    return Duplicates(
        uri=open_storage(data).uri,
        digest=manifest.digest,
        num_samples=len(manifest.samples),
        exact=exact,
        near=_near(data, firsts, num_processes, progress) if near else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    data: str
    rows: tuple[SampleRow, ...]


def _near(data: str, rows: Sequence[SampleRow], num_processes: int, progress: Progress | None) -> NearDuplicates:
    starts = range(0, len(rows), _ROWS_PER_TASK)
    tasks = [_Task(data=data, rows=tuple(rows[start : start + _ROWS_PER_TASK])) for start in starts]
    found: dict[str, Fingerprint | Unread] = {}
    for results in in_processes(_fingerprints, tasks, num_processes):
        found.update(results)
        if progress is not None:
            progress(len(found), len(rows))
    read, prints, unread = [], [], []
    for row in rows:
        result = found[row.id]
        if isinstance(result, Unread):
            unread.append(result)
        else:
            read.append(row)
            prints.append(result)
    nearness = near_groups(prints)
    groups = [
        _group([read[index] for index in group], [distance_bits(prints[group[0]], prints[index]) for index in group])
        for group in nearness.groups
    ]
    return NearDuplicates(
        groups=tuple(groups),
        num_compared=len(prints),
        num_plain=sum(item.num_textured < LEAST_COMMON_FRAMES for item in prints),
        num_crowded=nearness.num_crowded,
        unread=tuple(unread),
    )


def _fingerprints(task: _Task) -> list[tuple[str, Fingerprint | Unread]]:
    access = FrameAccess(open_storage(task.data))
    results: list[tuple[str, Fingerprint | Unread]] = []
    for row in task.rows:
        # The middles of equal spans: title cards and black ends are the least telling frames.
        indices = [(2 * number + 1) * row.num_frames // (2 * NUM_FRAMES) for number in range(NUM_FRAMES)]
        different = sorted(set(indices))
        try:
            _, frames = access.read_frames(row, different)
            by_index = dict(zip(different, fingerprint(frames).hashes, strict=True))
            results.append((row.id, Fingerprint(hashes=tuple(by_index[index] for index in indices))))
        except UNREADABLE as error:
            results.append((row.id, Unread(id=row.id, message=f"{type(error).__name__}: {error}")))
    return results


def _group(rows: Sequence[SampleRow], distances: Sequence[float]) -> DuplicateGroup:
    return DuplicateGroup(
        crosses_splits=len({row.split for row in rows}) > 1,
        samples=tuple(
            Duplicate(
                id=row.id,
                split=row.split,
                duration_ns=row.duration_ns,
                source_uri=row.source_uri,
                distance_bits=round(distance, 2),
            )
            for row, distance in zip(rows, distances, strict=True)
        ),
    )
