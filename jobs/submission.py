"""Sending a job to a Ray cluster through the Jobs API: what is sent, sending it, following it to its exit code.

The entrypoint is the same command that runs locally, `python -m jobs …`, started in a copy of the source tree, with
`--address auto` so that it uses the cluster it runs on. Credentials are never sent: the cluster has its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

JOBS = ("ingest", "train", "evaluate", "promote")
_ON_RAY = ("ingest", "train", "evaluate")
_FORWARDED = ("VAMBA_HOME", "MLFLOW_TRACKING_URI", "VAMBA_FFMPEG", "RAY_AUTH_MODE")
_FIXED = {
    # Lets a stopped job write its checkpoint before it is killed.
    "RAY_JOB_STOP_WAIT_TIME_S": "60",
    "PYTHONUNBUFFERED": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}
# Patterns of .gitignore, as Ray reads them: without the leading slash, "data" would leave out vamba/data as well.
# "/.*" would match the tree itself, so hidden folders are named.
_LEFT_OUT_AT_TOP = (
    ".git",
    ".venv",
    ".vamba",
    ".ci",
    ".*_cache",
    ".hypothesis",
    "tests",
    "docs",
    "build",
    "*.egg-info",
    "demo",
    "data",
    "report.html",
)
_LEFT_OUT_ANYWHERE = ("__pycache__",)
_EXCLUDES = (*(f"/{pattern}" for pattern in _LEFT_OUT_AT_TOP), *_LEFT_OUT_ANYWHERE)
_NO_AGENT_YET = "No available agent"
_AGENT_PATIENCE_S = 20.0
_EXIT_CODE = re.compile(r"exit code (\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A job as it would be sent. excludes: patterns left out of the working directory, as .gitignore writes them."""

    address: str
    entrypoint: str
    working_dir: Path
    excludes: tuple[str, ...]
    num_files: int
    size_bytes: int
    environment: Mapping[str, str]

    def shown_environment(self) -> dict[str, str]:
        """The environment for printing, passwords in URIs hidden."""
        return {name: _without_password(value) for name, value in self.environment.items()}


def plan_submission(job: str, arguments: Sequence[str], *, working_dir: Path, address: str) -> Submission:
    """What would be sent. Raises ValueError for an unknown job or a directory without the source tree."""
    if job not in JOBS:
        raise ValueError(f"{job!r} can't be submitted: choose one of {', '.join(JOBS)}.")
    if not (working_dir / "jobs" / "__main__.py").is_file():
        raise ValueError(
            f"{working_dir} is not a source tree of this project (no jobs/__main__.py): give one by --working-dir."
        )
    if not address.startswith(("http://", "https://")):
        raise ValueError(f"--to {address!r} is not a dashboard URL; write http://HOST:8265.")
    words = ["python", "-m", "jobs", job, *arguments]
    if job in _ON_RAY and not any(word == "--address" or word.startswith("--address=") for word in arguments):
        words += ["--address", "auto"]
    files = _files(working_dir)
    forwarded = {name: os.environ[name] for name in _FORWARDED if name in os.environ}
    return Submission(
        address=address,
        entrypoint=shlex.join(words),
        working_dir=working_dir,
        excludes=_EXCLUDES,
        num_files=len(files),
        size_bytes=sum(path.stat().st_size for path in files),
        environment={"RAY_AUTH_MODE": "disabled", **_FIXED, **forwarded},
    )


def send(submission: Submission) -> str:
    """Submit and return the job's id. Raises ConnectionError when the cluster can't be reached or refuses."""
    # Set explicitly: Ray otherwise decides by whether a token file happens to lie in the home directory.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    # Ray prefers this variable to the address it is given.
    os.environ.pop("RAY_ADDRESS", None)
    # The patterns above say what is left out; Ray's own list would only add a warning.
    os.environ["RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES"] = ""
    from ray.job_submission import JobSubmissionClient

    # Ray tells file by file what it packs, through loggers that set their own levels.
    logging.disable(logging.WARNING)
    try:
        client = JobSubmissionClient(submission.address)
        return _submit_when_ready(client, submission)
    except (ConnectionError, RuntimeError) as error:
        raise ConnectionError(
            f"The cluster at {submission.address} can't take the job: {' '.join(str(error).split())[:300]} "
            "Check the address, and that RAY_AUTH_MODE (and the token) are what the cluster was started with."
        ) from error


def _submit_when_ready(client: Any, submission: Submission) -> str:
    """A cluster that has just come up has a dashboard before it has the agent that takes jobs: it is asked again."""
    deadline = time.monotonic() + _AGENT_PATIENCE_S
    while True:
        try:
            return str(
                client.submit_job(
                    entrypoint=submission.entrypoint,
                    runtime_env={
                        "working_dir": str(submission.working_dir),
                        "excludes": list(submission.excludes),
                        "env_vars": dict(submission.environment),
                    },
                )
            )
        except RuntimeError as error:
            if _NO_AGENT_YET not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(1.0)


def follow(submission: Submission, identity: str, show: Callable[..., None]) -> int:
    """Show the job's log until it ends; its exit code."""
    from ray.job_submission import JobStatus, JobSubmissionClient

    client = JobSubmissionClient(submission.address)

    async def tail() -> None:
        async for lines in client.tail_job_logs(identity):
            show(lines, end="", flush=True)

    asyncio.run(tail())
    info = client.get_job_info(identity)
    if info.status == JobStatus.SUCCEEDED:
        return 0
    if info.driver_exit_code:
        return int(info.driver_exit_code)
    found = _EXIT_CODE.search(info.message or "")
    return int(found[1]) if found else 1


def _files(root: Path) -> list[Path]:
    found: list[Path] = []
    for folder, names, files in os.walk(root):
        here = Path(folder)
        names[:] = [name for name in names if not _excluded(name, here == root)]
        found += [here / name for name in files if not _excluded(name, here == root)]
    return [path for path in found if path.is_file()]


def _excluded(name: str, top: bool) -> bool:
    patterns = (*_LEFT_OUT_ANYWHERE, *(_LEFT_OUT_AT_TOP if top else ()))
    return any(fnmatch(name, pattern) for pattern in patterns)


def _without_password(value: str) -> str:
    parts = urlsplit(value)
    if parts.password is None:
        return value
    host = f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)
    return urlunsplit(parts._replace(netloc=f"{parts.username}:***@{host}"))
