"""Through the Jobs API of a running Ray cluster: what is sent. `ray_cluster.py` sends it.

The entrypoint is the same command that runs locally, `python -m jobs …`, started in a copy of the source tree, with
`--address auto` so that it uses the cluster it runs on. The cluster has credentials of its own.
"""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urlsplit

from jobs.submission.job import Job
from jobs.submission.plan import Options, Submission, forwarded_variables, holds_credentials
from jobs.submission.sent_files import place_in_tree, sent_files
from pipelines.ray_session import set_auth_mode
from pipelines.redaction import redacted, user_end

_TRACKING = "MLFLOW_TRACKING_URI"
_FORWARDED = ("VAMBA_HOME", _TRACKING, "VAMBA_FFMPEG")
_FIXED = {
    # Lets a stopped job write its checkpoint before it is killed.
    "RAY_JOB_STOP_WAIT_TIME_S": "60",
    "PYTHONUNBUFFERED": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}
_DASHBOARD_PORT = 8265


def dashboard_of(to: str) -> str:
    """The dashboard's URL, which takes jobs. Of `ray://HOST:PORT`, where Ray's clients connect, it is on the same head,
    at its usual port. Raises ValueError for what is no address."""
    parts = urlsplit(to)
    if parts.scheme in ("http", "https") and parts.hostname:
        return to.rstrip("/")
    if parts.scheme == "ray" and parts.hostname:
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return f"http://{host}:{_DASHBOARD_PORT}"
    raise ValueError(
        f"--to {to!r} is no place to send a job to: write http://HOST:8265 (a Ray cluster's dashboard), "
        "ray://HOST:10001, kuberay or sky. An option --to of the job's own stands after `--`."
    )


def plan_jobs_api(job: Job, options: Options) -> Submission:
    """Raises ValueError for options of other targets, and for files that would not be there."""
    for name, value in (("image", options.image), ("namespace", options.namespace), ("queue", options.queue),
                        ("nodes", options.nodes), ("accelerators", options.accelerators), ("infra", options.infra),
                        ("secret", options.secrets)):  # fmt: skip
        if value:
            raise ValueError(
                f"--{name} is for kuberay or sky; the cluster at {options.to} is what it is: leave it out."
            )
    to = dashboard_of(options.to)
    sent = sent_files(options.working_dir)
    placed = {path: place_in_tree(path, sent) for path in job.files}
    forwarded = forwarded_variables(*(name for name in _FORWARDED if name not in options.environment))
    stays = _leave_password_here(forwarded)
    return Submission(
        to=to,
        job=job,
        entrypoint=replace(job, words=job.with_files(placed)).entrypoint("python", "-m", "jobs"),
        needs=job.needs(has_gpus=False),
        resources={},
        environment={
            "RAY_AUTH_MODE": set_auth_mode(joins=True),
            **_FIXED,
            **forwarded,
            **options.environment,
        },
        secrets=stays or {"none": "the cluster's nodes have their own credentials"},
        image="the cluster's",
        sent=sent,
    )


def _leave_password_here(forwarded: dict[str, str]) -> dict[str, str]:
    """Takes user and password out of the tracking server's address; what became of them, by name.

    Raises ValueError for a database, which is entered by nothing else.
    """
    uri = forwarded.get(_TRACKING, "")
    if not holds_credentials(uri):
        return {}
    scheme, _, rest = uri.partition("://")
    if scheme not in ("http", "https"):
        raise ValueError(
            f"{_TRACKING} ({redacted(uri)}) holds the password of a database, and whoever sees the job would see it: "
            "unset it here, and set it where the cluster's nodes start."
        )
    forwarded[_TRACKING] = f"{scheme}://{rest[user_end(rest) :]}"
    return {
        f"in {_TRACKING}": "not sent: the cluster's nodes need MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    }
