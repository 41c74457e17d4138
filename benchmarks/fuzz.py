"""Ingests damaged videos beside whole ones, and checks that nothing hangs, crashes, is lost or is changed by them.

    python -m benchmarks.fuzz --files 2000 --seed 0 [--out results.json]

Whole and damaged videos (damage.py) are ingested into one dataset by `vamba ingest`, the whole ones alone into another:
the command ended in time with 0 or 3; every source is a sample or a failure, not both; the samples of the whole videos
are byte-identical in both datasets; `vamba data verify --decode` finds nothing, so every sample decodes. Prints a JSON
document and ends with 1 if one of these does not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from benchmarks.damage import damaged, make_seeds
from pipelines.datasets.verify import verify
from pipelines.manifest_io import read_failures, read_manifest
from pipelines.storage import open_storage

ROOT = Path(__file__).resolve().parents[1]
_LOOK_S = 0.25
LIMIT_S_PER_FILE = 30.0  # of the whole command, for each file that may run into a time limit
SETTINGS = ("watchdog.base_s=10", "watchdog.per_cost=10", "max_failure_fraction=1.0", "sampling.fps=5")


def run(work: Path, num_files: int, seed: int, num_cpus: int) -> dict[str, Any]:
    """Makes the files, ingests them twice and compares; returns what came of it."""
    whole, bad = work / "whole", work / "damaged"
    seeds = make_seeds(whole)
    bad.mkdir()
    for number in range(num_files):
        name, data = damaged(number, seed, seeds)
        (bad / name).write_bytes(data)
    clean = ingest(work / "clean", [whole], num_cpus, LIMIT_S_PER_FILE * len(seeds))
    fuzzed = ingest(work / "fuzzed", [whole, bad], num_cpus, LIMIT_S_PER_FILE * num_files)
    problems = [f"the ingest of whole files ended with {clean['exit_code']}"] if clean["exit_code"] else []
    if fuzzed["exit_code"] not in (0, 3):
        problems.append(f"the ingest ended with {fuzzed['exit_code']}: {fuzzed['last_words']}")
    else:
        problems += compare(work / "clean", work / "fuzzed", num_files + len(seeds))
    return {
        "machine": f"{platform.machine()}, {num_cpus} of {os.cpu_count()} cores, Python {platform.python_version()}",
        "files": num_files,
        "whole_files": len(seeds),
        "seed": seed,
        "exit_code": fuzzed["exit_code"],
        "wall_s": fuzzed["wall_s"],
        "cpu_s": fuzzed["cpu_s"],
        **(outcomes(work / "fuzzed") if fuzzed["exit_code"] in (0, 3) else {}),
        "problems": problems,
    }


def ingest(out: Path, sources: list[Path], num_cpus: int, limit_s: float) -> dict[str, Any]:
    """Runs the command as a user does; one that hangs is ended. CPU is that of the processes that a look saw."""
    command = [sys.executable, "-m", "jobs", "ingest", *map(str, sources), "--out", str(out)]
    for setting in (*SETTINGS, f"num_cpus={num_cpus}"):
        command += ["--set", setting]
    started_s, cpu_s = time.monotonic(), 0.0
    with tempfile.TemporaryFile("w+") as words:
        process = psutil.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=words)
        seen: dict[psutil.Process, float] = {}
        while process.poll() is None and time.monotonic() - started_s < 60 + limit_s:
            seen.update(cpu_of_tree(process))
            time.sleep(_LOOK_S)
        exit_code, cpu_s = process.poll(), sum(seen.values())
        if exit_code is None:
            end(process)
        words.seek(0)
        last_words = words.read()[-500:]
    wall_s = round(time.monotonic() - started_s, 1)
    return {"exit_code": exit_code, "wall_s": wall_s, "cpu_s": round(cpu_s, 1), "last_words": last_words}


def cpu_of_tree(root: psutil.Process) -> dict[psutil.Process, float]:
    """CPU seconds of a process and its descendants until now."""
    used = {}
    for process in [root, *root.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            used[process] = times.user + times.system
    return used


def end(root: psutil.Process) -> None:
    """Ends a process that hangs, with its descendants."""
    for process in [*root.children(recursive=True), root]:
        with contextlib.suppress(psutil.Error):
            process.kill()
    root.wait()


def compare(clean: Path, fuzzed: Path, num_sources: int) -> list[str]:
    """What does not hold."""
    problems = []
    manifest, failures = read_manifest(fuzzed), read_failures(fuzzed)
    samples, failed = {row.source_uri for row in manifest.samples}, {row.source_uri for row in failures}
    if samples & failed:
        problems.append(f"{len(samples & failed)} are sample and failure, e.g. {min(samples & failed)}")
    if len(samples | failed) != num_sources or len(failures) != len(failed):
        problems.append(f"{num_sources} sources, but {len(samples)} samples and {len(failures)} failures")
    before, after = sample_bytes(clean), sample_bytes(fuzzed)
    changed = [name for name, data in before.items() if after.get(name) != data]
    if changed:
        problems.append(f"samples of whole files are lost or changed: {', '.join(changed)}")
    findings = verify(str(fuzzed), decode=True).findings
    problems += [f"verify: {finding.shard} {finding.sample} {finding.message}" for finding in findings[:10]]
    return problems


def sample_bytes(data: Path) -> dict[str, bytes]:
    """Each sample of a dataset, as it stands in its shard."""
    storage = open_storage(data)
    return {
        row.source_uri: storage.read_range(f"shards/{row.shard}", row.offset_bytes, row.size_bytes)
        for row in read_manifest(data).samples
    }


def outcomes(data: Path) -> dict[str, Any]:
    """How many of each kind of damage gave a sample, or a failure of which class."""
    table: dict[str, Counter[str]] = {}
    rows = [(row.source_uri, "sample") for row in read_manifest(data).samples]
    for uri, outcome in rows + [(row.source_uri, row.error_class) for row in read_failures(data)]:
        _, kind, *rest = Path(uri).name.split(".")
        table.setdefault(kind if rest else "whole", Counter())[outcome] += 1
    total = sum(table.values(), Counter())
    return {
        "outcomes": dict(sorted(total.items())),
        "by_damage": {k: dict(sorted(v.items())) for k, v in table.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cpus", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--keep", type=Path, help="folder for videos and datasets, to look at them afterwards")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        result = run(arguments.keep or Path(temporary), arguments.files, arguments.seed, arguments.cpus)
    document = json.dumps({"command": f"python -m benchmarks.fuzz {' '.join(sys.argv[1:])}", **result}, indent=1)
    print(document)
    if arguments.out is not None:
        arguments.out.write_text(document + "\n")
    sys.exit(1 if result["problems"] else 0)


if __name__ == "__main__":
    main()
