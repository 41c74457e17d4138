"""How fast a listing of a million videos is read and compared, and how much memory that takes.

    python -m benchmarks.listing [--rows 1000000] [--form jsonl] [--save FILE]

Makes a listing of LLaVA's form, a video and a question of 300 characters a row, and reads it into the store twice as
`vamba ingest` does: for a first ingest, with the key of its work area and its list of inputs, and to append to a
dataset that holds every other video of it. The videos do not exist, so looking for each costs what it costs. Each case
runs in a process of its own; memory is the peak above that of its imports. Prints JSON.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FORMS = ("jsonl", "json", "csv", "parquet")
ROWS_IN_GROUP = 10_000
CASES = ("first", "append")


def rows(num_rows: int) -> Iterator[dict[str, Any]]:
    """Rows of a listing."""
    for number in range(num_rows):
        turns = [
            {"from": "human", "value": "<video>\n" + "What is on screen? " * 15},
            {"from": "gpt", "value": "A cat."},
        ]
        path = f"part-{number % 1000:03d}/clip {number * 7919 % num_rows:08d}.mp4"
        yield {"id": str(number), "video": path, "data_source": "made", "conversations": turns}


def write_listing(path: Path, num_rows: int) -> None:
    """Writes a listing in the form of its ending."""
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        items = list(rows(1))
        with pq.ParquetWriter(path, pa.Table.from_pylist(items).schema) as writer:
            chunk: list[dict[str, Any]] = []
            for row in rows(num_rows):
                chunk.append(row)
                if len(chunk) == ROWS_IN_GROUP:
                    writer.write_table(pa.Table.from_pylist(chunk, schema=writer.schema))
                    chunk = []
            writer.write_table(pa.Table.from_pylist(chunk, schema=writer.schema))
        return
    with open(path, "w", newline="") as file:
        if path.suffix == ".csv":
            table = csv.writer(file)
            table.writerow(["id", "video", "data_source", "conversations"])
            table.writerows([*list(row.values())[:3], json.dumps(row["conversations"])] for row in rows(num_rows))
        elif path.suffix == ".json":
            file.write("[")
            for number, row in enumerate(rows(num_rows)):
                file.write((",\n" if number else "") + json.dumps(row))
            file.write("]")
        else:
            file.writelines(json.dumps(row) + "\n" for row in rows(num_rows))


def write_dataset(out: Path, listing: Path) -> None:
    """A finished dataset of every other video of the listing, one of ten failed; its shards are left out."""
    from pipelines import manifest_tables as tables
    from pipelines.ingest.config import IngestConfig
    from pipelines.ingest.sources import find_sources
    from pipelines.manifest_io import FAILURE_SCHEMA, SAMPLE_SCHEMA
    from vamba.data.manifest import Manifest, ShardRow

    out.mkdir()
    with find_sources([str(listing)]) as found:
        known = (row for number, row in enumerate(_input_rows(found.store)) if number % 2 == 0)
        tables.write_inputs(out, 1, known)
    shard = ShardRow(name="shard-000000.tar", size_bytes=10**12, sha256="0" * 64, num_samples=0)
    batches = []
    for number, (name, uri, digest) in enumerate(tables.read_inputs_of(out, 1) or ()):
        if number % 10:
            sample = {"id": name, "shard": shard.name, "offset_bytes": number, "size_bytes": 1, "split": "train"}
            sample |= {"media": "video", "duration_ns": 10**9, "num_frames": 1, "width": 1, "height": 1}
            batches.append(sample | {"num_conversations": 1, "source_uri": uri, "source_digest": digest})
    samples = tables.table_of(SAMPLE_SCHEMA, batches)
    config = IngestConfig(sources=(str(listing),), out=str(out))
    header = Manifest(config_digest=config.digest, shards=(shard,), samples=())
    tables.write_failure_table(out, tables.table_of(FAILURE_SCHEMA, ()))
    tables.write_manifest_table(out, header, tables.check_samples(header, samples), samples)


def _input_rows(store: Any) -> Iterator[tuple[str, str, str]]:
    yield from store.db.execute("SELECT id, uri, digest FROM source ORDER BY uri")


def measure(case: str, listing: Path, out: Path) -> dict[str, Any]:
    """One case, in this process."""
    from pipelines.ingest import job  # all that the driver loads
    from pipelines.ingest.batches import take_batch
    from pipelines.ingest.config import IngestConfig
    from pipelines.ingest.extension import Request, find_work
    from pipelines.manifest_tables import digest_of_inputs

    before_kib = _status_kib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins again: the imports had one of their own
    config = IngestConfig(sources=(str(listing),), out=str(out))
    times = [time.process_time()]
    with job.find_sources(config.sources) as found:
        times.append(time.process_time())
        work = find_work(config, found.store, Request(append=case == "append"))
        times.append(time.process_time())
        work.key(config)
        digest_of_inputs(work.comparison.inputs())
        times.append(time.process_time())
        after, num_batches = "", 0
        while work.comparison.goes_on(after):
            after = take_batch(work.comparison.todo(after), config.batch_videos, config.batch_bytes)[-1].source.id
            num_batches += 1
        times.append(time.process_time())
        num_sources = work.num_sources
        num_rows = len(found)
    peak_kib = _status_kib("VmHWM")
    seconds = dict(zip(("list", "compare", "key and inputs", "batches"), map(_between, times, times[1:]), strict=True))
    return {
        "case": case,
        "form": listing.suffix[1:],
        "rows": num_rows,
        "to do": num_sources,
        "batches": num_batches,
        "rows per CPU second, listing": round(num_rows / seconds["list"]),
        "rows per CPU second, all": round(num_rows / sum(seconds.values())),
        "CPU seconds": seconds,
        "peak MB above imports": round((peak_kib - before_kib) / 1024),
    }


def _status_kib(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


def _between(start_s: float, end_s: float) -> float:
    return round(end_s - start_s, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--form", choices=FORMS, action="append", help="of the listing; jsonl if none is given")
    parser.add_argument("--save", type=Path)
    parser.add_argument("--case", nargs=3, metavar=("CASE", "LISTING", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        case, listing, out = arguments.case
        print(json.dumps(measure(case, Path(listing), Path(out))))
        return
    results = []
    with tempfile.TemporaryDirectory() as directory:
        for form in arguments.form or ["jsonl"]:
            listing = Path(directory, f"listing.{form}")
            write_listing(listing, arguments.rows)
            for case in CASES:
                out = Path(directory, f"{form}-{case}")
                if case == "append":
                    write_dataset(out, listing)
                command = [sys.executable, "-m", "benchmarks.listing", "--case", case, str(listing), str(out)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                results.append(json.loads(done.stdout))
                print(json.dumps(results[-1]), flush=True)
            listing.unlink()
    if arguments.save:
        document = {"python": platform.python_version(), "machine": platform.machine(), "results": results}
        arguments.save.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
