"""`vamba data`: what datasets hold, from their manifests."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.cli.options import AsJson
from jobs.cli.output import human_bytes, human_seconds, print_json, print_pairs, print_table


def ls(
    folder: Annotated[Path, typer.Argument(help="Folder to look below.")] = Path(),
    json: AsJson = False,
) -> None:
    """List the datasets in a folder.

    \b
    Example:
      vamba data ls data/
    """
    from pipelines.manifest_io import MANIFEST_NAME

    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder.")
    found = []
    for pattern in (MANIFEST_NAME, f"*/{MANIFEST_NAME}", f"*/*/{MANIFEST_NAME}", f"*/*/*/{MANIFEST_NAME}"):
        found += [_describe(str(path.parent)) for path in sorted(folder.glob(pattern))]
    if json:
        print_json(found)
    elif not found:
        print(f"No dataset in {folder.resolve()}, three levels deep. `vamba ingest SOURCE… --out URI` makes one.")
    else:
        rows = [
            (item["uri"], item["num_samples"], item["duration"], item["num_failures"], item["size"]) for item in found
        ]
        print_table(("dataset", "samples", "video", "failed", "size"), rows)


def stats(data: Annotated[str, typer.Argument(help="URI of a dataset.")], json: AsJson = False) -> None:
    """Describe one dataset.

    \b
    Example:
      vamba data stats data/demo
    """
    from pipelines.manifest_io import read_failures

    described = _describe(data)
    try:
        failures = read_failures(data)
    except FileNotFoundError:
        failures = ()
    if json:
        print_json({**described, "failures": failures})
        return
    print_pairs(f"Dataset {data}", {key: value for key, value in described.items() if key not in ("uri", "splits")})
    rows = [(split, *numbers.values()) for split, numbers in described["splits"].items()]
    print_table(("split", "samples", "conversations", "frames", "video", "longest"), rows)
    if failures:
        print_table(
            ("failed", "stage", "class", "reason"),
            [(row.source_uri, row.stage, row.error_class, row.message) for row in failures],
        )


def _describe(data: str) -> dict[str, Any]:
    from pipelines.manifest_io import read_failures, read_manifest

    manifest = read_manifest(data)
    try:
        num_failures = len(read_failures(data))
    except FileNotFoundError:
        num_failures = 0
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
        "uri": data,
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
