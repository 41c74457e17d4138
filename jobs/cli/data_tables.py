"""What the verbs of `vamba data` found, as JSON values and as tables for people. Long lists end with a count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jobs.cli.output import human_bytes, human_seconds, print_pairs, print_table

if TYPE_CHECKING:
    from pipelines.datasets.duplicates import DuplicateGroup, Duplicates
    from pipelines.datasets.statistics import Numbers, Statistics
    from pipelines.datasets.verify import Verification
    from vamba.data.manifest import Manifest

_MOST_ROWS = 50
_EDGES = {0: "least", 50: "median", 100: "most"}
_TABLED = ("uri", "splits", "percentiles", "processing", "failures_by_class", "failures", "hours")


def described(uri: str, manifest: Manifest, num_failures: int) -> dict[str, Any]:
    """A dataset in a few values, and its splits."""
    rows = manifest.samples
    splits = {}
    for split in sorted({row.split for row in rows}):
        chosen = manifest.select(split)
        splits[split] = {
            "num_samples": len(chosen),
            "num_conversations": sum(row.num_conversations for row in chosen),
            "num_frames": sum(row.num_frames for row in chosen),
            "duration": human_seconds(sum(row.duration_ns for row in chosen) / 1e9),
            "longest": human_seconds(max(row.duration_ns for row in chosen) / 1e9),
        }
    sizes = Counter(f"{row.width}x{row.height}" for row in rows)
    return {
        "uri": uri,
        "digest": manifest.digest,
        "version": manifest.version,
        "num_samples": len(rows),
        "num_shards": len(manifest.shards),
        "duration": human_seconds(sum(row.duration_ns for row in rows) / 1e9),
        "size": human_bytes(sum(shard.size_bytes for shard in manifest.shards)),
        "frame_sizes": ", ".join(f"{size} ({count})" for size, count in sizes.most_common(4)),
        "num_failures": num_failures,
        "splits": splits,
    }


def statistics_json(uri: str, found: Statistics, processing: dict[str, Any]) -> dict[str, Any]:
    """`described`, and what `statistics` adds to it."""
    base = described(uri, found.manifest, len(found.failures))
    splits = {split: {**base["splits"][split], **_numbers_json(found.splits[split])} for split in found.splits}
    return {
        **base,
        **_numbers_json(found.total),
        "splits": splits,
        "processing": processing,
        "failures_by_class": found.failures_by_class,
        "failures": found.failures,
    }


def print_statistics(uri: str, found: Statistics, values: dict[str, Any]) -> None:
    """The tables of `vamba data stats`."""
    print_pairs(f"Dataset {uri}", {key: value for key, value in values.items() if key not in _TABLED})
    rows = [
        (
            split,
            numbers["num_samples"],
            numbers["num_conversations"],
            numbers["num_frames"],
            numbers["num_video_tokens"],
            numbers["duration"],
            numbers["longest"],
        )
        for split, numbers in values["splits"].items()
    ]
    print_table(("split", "samples", "conversations", "frames", "video tokens", "video", "longest"), rows)
    total = found.total
    spreads = {"duration": total.duration_s, "frames": total.frames, "video tokens": total.video_tokens}
    names = [_EDGES.get(percent, f"{percent} %") for percent in found.total.frames.percentiles]
    table = []
    for name, spread in spreads.items():
        show = human_seconds if name == "duration" else lambda value: f"{value:,.0f}"
        if spread.percentiles:
            table.append((name, *(show(value) for value in spread.percentiles.values()), show(spread.mean)))
    if table:
        print_table(("of a sample", *names, "mean"), table)
    if found.unfit:
        print(f"The model does not take the frames of {found.total.num_unfit} samples, the first is {found.unfit}\n")
    if found.failures:
        print_table(("class", "failed"), list(found.failures_by_class.items()))
        header = ("failed", "stage", "class", "reason")
        _print_some(header, [(row.source_uri, row.stage, row.error_class, row.message) for row in found.failures])


def print_verification(found: Verification) -> None:
    """What is wrong, or that nothing is."""
    checked = (
        f"{_count(found.num_samples, 'sample')} with {_count(found.num_frames, 'frame')} in "
        f"{_count(found.num_shards, 'shard')}, "
        f"{human_bytes(found.size_bytes)} read"
    )
    if found.clean:
        frames = "every frame decoded" if found.decoded else "frames not decoded (--decode does)"
        print(f"{found.uri} is complete: {checked}; {frames}.")
        return
    rows = [(item.shard, item.sample, item.rule, item.message) for item in found.findings]
    _print_some(("shard", "sample", "rule", "what is wrong"), rows)
    print(
        f"{found.uri} has {_count(len(found.findings), 'finding')}: {checked}. docs/data.md says what each rule means."
    )


def print_duplicates(found: Duplicates) -> None:
    """The groups, exact ones first."""
    print(f"{_count(len(found.exact), 'group')} of equal files among {_count(found.num_samples, 'sample')}.")
    _print_groups(found.exact)
    near = found.near
    if near is None:
        print("--near also compares the pictures of different files.")
        return
    print(f"{_count(len(near.groups), 'group')} of near duplicates among {near.num_compared:,} different videos.")
    _print_groups(near.groups)
    if near.num_plain:
        print(f"{near.num_plain} videos have too little texture to compare.")
    if near.num_crowded:
        print(f"{near.num_crowded} keys are shared by so many videos that not all pairs of them were compared.")
    if near.unread:
        _print_some(("not read", "reason"), [(item.id, item.message) for item in near.unread])


def _print_groups(groups: Sequence[DuplicateGroup]) -> None:
    rows = [
        (
            number if index == 0 else "",
            item.id,
            f"{item.split} (!)" if group.crosses_splits else item.split,
            human_seconds(item.duration_ns / 1e9),
            item.distance_bits,
            item.source_uri,
        )
        for number, group in enumerate(groups, start=1)
        for index, item in enumerate(group.samples)
    ]
    if not rows:
        return
    _print_some(("group", "sample", "split", "duration", "bits apart", "source"), rows)
    crossing = sum(group.crosses_splits for group in groups)
    if crossing:
        print(f"(!) {_count(crossing, 'group')} in several splits: what is trained on is also measured.")


def _print_some(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    print_table(header, rows[:_MOST_ROWS])
    if len(rows) > _MOST_ROWS:
        print(f"… and {len(rows) - _MOST_ROWS} more rows; --json lists all.")


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def _numbers_json(numbers: Numbers) -> dict[str, Any]:
    return {
        "hours": round(numbers.duration_s.total / 3600, 4),
        "num_conversations": numbers.num_conversations,
        "num_frames": int(numbers.frames.total),
        "num_video_tokens": int(numbers.video_tokens.total),
        "num_unfit": numbers.num_unfit,
        "percentiles": {
            "duration_s": numbers.duration_s.percentiles,
            "num_frames": numbers.frames.percentiles,
            "num_video_tokens": numbers.video_tokens.percentiles,
        },
    }
