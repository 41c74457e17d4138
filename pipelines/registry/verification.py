"""Is a version still what was registered? Every file by its SHA-256, and a clean process that loads it and generates.

A model in an object store is read there, byte by byte; a local copy of it that differs is fetched again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from pipelines.registry.candidates import Candidate
from pipelines.registry.checks import Check
from pipelines.registry.lineage import FILES_TAG
from pipelines.registry.model_files import differing_files, hash_model_files
from pipelines.registry.transfer import fetch_model, hash_stored_model
from pipelines.storage import open_storage

FILES_CHECK = "checkpoint files"
_LOAD_TIMEOUT_S = 600


def verify(candidate: Candidate) -> Iterator[Check]:
    """The two checks of what a version is made of."""
    wrong = _wrong_files(candidate)
    count = len(json.loads(candidate.tags.get(FILES_TAG, "{}")))
    yield Check(
        name=FILES_CHECK,
        passed=not wrong,
        found="; ".join(wrong[:5]) or f"{count} files as registered",
        required="every SHA-256 as registered",
    )
    problem = "not tried: files differ" if wrong else load_problem(candidate.directory)
    yield Check(
        name="loads and generates",
        passed=not problem,
        found=problem or "yes, in a process of its own",
        required="loads and writes a token",
    )


def load_problem(directory: Path) -> str:
    """The last line of what went wrong when the model was loaded in a clean process; empty when it works."""
    command = [sys.executable, "-m", "pipelines.registry.load_check", str(directory)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LOAD_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"did not load within {_LOAD_TIMEOUT_S} s"
    if done.returncode == 0:
        return ""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"the loading process ended with {done.returncode}"


def _wrong_files(candidate: Candidate) -> list[str]:
    """One sentence for every file that is not as registered."""
    expected = json.loads(candidate.tags.get(FILES_TAG, "{}"))
    if not expected:
        return ["the version names no files"]
    wrong = _differs(candidate.directory, expected)
    if not candidate.is_remote:
        return wrong
    storage = open_storage(candidate.source)
    stored = fetch_model(storage, candidate.directory) if wrong else hash_stored_model(storage)
    return differing_files(expected, stored.sha256)


def _differs(directory: Path, expected: dict[str, str]) -> list[str]:
    return differing_files(expected, hash_model_files(directory).sha256 if directory.is_dir() else {})
