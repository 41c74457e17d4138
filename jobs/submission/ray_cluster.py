"""A running Ray cluster, through its dashboard's HTTP API: its nodes, and the jobs that were sent to it."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from jobs.submission.jobs_api import dashboard_of
from jobs.submission.place import STOPPED, Note
from jobs.submission.plan import Submission
from jobs.submission.sent_files import EXCLUDES
from pipelines.capacity import grows, node_of, require_room
from pipelines.ray_session import set_auth_mode

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

_NO_AGENT_YET = "No available agent"
_AGENT_PATIENCE_S = 60.0
_ANSWER_PATIENCE_S = 60.0
# A machine that is gone takes the log along before the cluster knows that the job is.
_STATE_PATIENCE_S, _STATE_POLL_S = 10.0, 0.5
_EXIT_CODE = re.compile(r"exit code (\d+)")


class RayCluster:
    """A cluster whose dashboard, or whose port for clients, is at `to`."""

    def __init__(self, to: str) -> None:
        self._to = to
        self._url = dashboard_of(to)

    @property
    def words(self) -> str:
        return f"--to {self._url}"

    def send(self, submission: Submission, *, check: bool, note: Note) -> str:
        with self._client() as client:
            for name, source in submission.secrets.items():
                if name != "none":
                    note(f"secret {name}: {source}")
            if check:
                self._check(client, submission, note)
            return _submit_when_ready(client, submission)

    def follow(self, identity: str, show: Callable[..., None]) -> int:
        broke = ""
        with self._client() as client:

            async def tail() -> None:
                async for lines in client.tail_job_logs(identity):
                    show(lines, end="", flush=True)

            client.get_job_info(identity)  # tells an unknown job better than its log does
            try:
                asyncio.run(tail())
            except BrokenPipeError:
                raise  # the reader of our output left
            except Exception as error:  # aiohttp has some of its own
                broke = f" ({' '.join(str(error).split())[:200]})"
            deadline = time.monotonic() + _STATE_PATIENCE_S
            while not (info := client.get_job_info(identity)).status.is_terminal() and time.monotonic() < deadline:
                time.sleep(_STATE_POLL_S)
        if not info.status.is_terminal():
            raise ConnectionError(
                f"The log of {identity} broke off{broke}, and the job goes on ({info.status.value}). "
                f"Come back with `vamba jobs logs {identity} {self.words}`."
            )
        return _exit_code(info)

    def status(self, identity: str) -> Mapping[str, str]:
        with self._client() as client:
            info = client.get_job_info(identity)
        found = {"job": identity, "state": str(info.status.value), "entrypoint": info.entrypoint}
        for name, moment in (("started", info.start_time), ("ended", info.end_time)):
            if moment:
                found[name] = datetime.fromtimestamp(moment / 1000, UTC).isoformat(timespec="seconds")
        if info.status.is_terminal():
            found["exit code"] = str(_exit_code(info))
        return found | ({"message": " ".join(info.message.split())} if info.message else {})

    def stop(self, identity: str) -> str:
        with self._client() as client:
            was_running = client.stop_job(identity)
        if not was_running:
            return f"{identity} has ended already."
        return f"{identity} was asked to save and end; it has 60 s for that. The same command continues it."

    def _check(self, client: Any, submission: Submission, note: Note) -> None:
        """A cluster that grows is not refused: nobody tells how far. The job looks again where it runs."""
        found = [entry["raylet"] for entry in _data(client, "/nodes?view=summary")["summary"]]
        found = [entry for entry in found if entry["state"] == "ALIVE"]
        nodes = [node_of(entry["resourcesTotal"]) for entry in found]
        needs = submission.job.needs(has_gpus=any(node.gpus for node in nodes))
        if needs is None:
            return
        status = _data(client, "/api/cluster_status").get("clusterStatus")
        try:
            require_room(needs, nodes, where=f"the cluster at {self._url}")
        except ValueError as error:
            if not grows(status, [entry["labels"] for entry in found]):
                raise ValueError(f"{error} To send it all the same: --no-capacity-check.") from None
            note(f"{error} It has an autoscaler, so the job is sent and waits for nodes.")

    @contextmanager
    def _client(self) -> Iterator[JobSubmissionClient]:
        """A connection. What is refused within the block becomes a ConnectionError that says what to do."""
        mode = set_auth_mode(joins=True)
        # Ray prefers this variable to the address it is given.
        os.environ.pop("RAY_ADDRESS", None)
        # The patterns of `sent_files` say what is left out; Ray's own list would only add a warning.
        os.environ["RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES"] = ""
        # A .gitignore would keep back what `sent_files` lists.
        os.environ["RAY_RUNTIME_ENV_IGNORE_GITIGNORE"] = "1"
        from ray.exceptions import RayError
        from ray.job_submission import JobSubmissionClient as WaitingClient

        class JobSubmissionClient(WaitingClient):
            """Ray's own waits for ever where a tunnel leads nowhere."""

            def _do_request(self, *arguments: Any, **named: Any) -> Any:
                return super()._do_request(*arguments, **{"timeout": _ANSWER_PATIENCE_S, **named})

        # Ray tells file by file what it packs, through loggers that set their own levels.
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield JobSubmissionClient(self._url)
        except BrokenPipeError:
            raise
        except (OSError, RuntimeError, RayError) as error:
            if "does not exist" in str(error):
                raise ValueError(
                    f"The cluster at {self._url} knows no job of that name: see {self._url}/#/jobs."
                ) from error
            derived = f" (from {self._to}; if its dashboard is elsewhere, name that)" if "ray://" in self._to else ""
            raise ConnectionError(
                f"The cluster at {self._url}{derived} refuses: {' '.join(str(error).split())[:300]} Check the address, "
                f"and that RAY_AUTH_MODE, which is {mode} here, and the token are what the cluster was started with."
            ) from error
        finally:
            logging.disable(before)


def _data(client: Any, path: str) -> Any:
    """What the dashboard answers. The client adds the token; it has no public method for what is not about jobs."""
    response = client._do_request("GET", path)
    response.raise_for_status()
    return response.json()["data"]


def _submit_when_ready(client: Any, submission: Submission) -> str:
    """A cluster that has just come up has a dashboard before it has the agent that takes jobs: it is asked again."""
    assert submission.sent is not None
    deadline = time.monotonic() + _AGENT_PATIENCE_S
    while True:
        try:
            return str(
                client.submit_job(
                    entrypoint=submission.entrypoint,
                    runtime_env={
                        "working_dir": str(submission.sent.root),
                        "excludes": list(EXCLUDES),
                        "env_vars": dict(submission.environment),
                    },
                    metadata={"vamba_job": submission.job.verb, "vamba_name": submission.job.name},
                )
            )
        except RuntimeError as error:
            if _NO_AGENT_YET not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(1.0)


def _exit_code(info: JobDetails) -> int:
    """Of a job that has ended."""
    from ray.job_submission import JobStatus

    if info.status == JobStatus.SUCCEEDED:
        return 0
    if info.status == JobStatus.STOPPED:
        return STOPPED
    if info.driver_exit_code:
        return int(info.driver_exit_code)
    found = _EXIT_CODE.search(info.message or "")
    return int(found[1]) if found else 1
