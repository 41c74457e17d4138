"""The samples that `vamba data ls` found: a table for people, a JSON object a line for programs. Both are streamed."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING

from jobs.cli.output import human_bytes, human_seconds, print_table

if TYPE_CHECKING:
    from pipelines.datasets.listing import SampleFilter

_MOST_ROWS = 50
_HEADER = ("sample", "split", "media", "duration", "frames", "size", "tokens", "conversations", "bytes", "shard")


def print_samples(data: str, chosen: SampleFilter, limit: int | None, as_json: bool) -> None:
    """At most `limit` samples; the rest is counted in the table, and left out of the JSON."""
    from pipelines.datasets.listing import list_samples

    rows = list_samples(data, chosen)
    if as_json:
        try:
            for row in islice(rows, limit):
                print(json.dumps(asdict(row), ensure_ascii=False))
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has seen enough
        return
    shown = [
        (
            row.id,
            row.split,
            row.media,
            human_seconds(row.duration_ns / 1e9),
            row.num_frames,
            f"{row.width}x{row.height}",
            row.num_tokens,
            row.num_conversations,
            human_bytes(row.size_bytes),
            row.shard,
        )
        for row in islice(rows, limit or _MOST_ROWS)
    ]
    if not shown:
        print(f"No sample of {data} is like that." if not chosen.is_empty else f"{data} has no samples.")
        return
    print_table(_HEADER, shown)
    num_left = sum(1 for _ in rows)
    if num_left:
        print(f"… and {num_left:,} more samples; --limit shows more, --json all.")
