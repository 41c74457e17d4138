"""Through the Jobs API of a running Ray cluster: what is sent. `ray_cluster.py` sends it.

The entrypoint is the same command that runs locally, `python -m jobs …`, started in a copy of the source tree, with
`--address auto` so that it uses the cluster it runs on. The cluster has credentials of its own.
"""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urlsplit

from jobs.submission.job import Job
from jobs.submission.plan import Options, Submission, forwarded_variables
from jobs.submission.sent_files import place_in_tree, sent_files
from pipelines.ray_session import set_auth_mode

_FORWARDED = ("VAMBA_HOME", "MLFLOW_TRACKING_URI", "VAMBA_FFMPEG")
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
    return Submission(
        to=to,
        job=job,
        entrypoint=replace(job, words=job.with_files(placed)).entrypoint("python", "-m", "jobs"),
        needs=job.needs(has_gpus=False),
        resources={},
        environment={
            "RAY_AUTH_MODE": set_auth_mode(joins=True),
            **_FIXED,
            **forwarded_variables(*_FORWARDED),
            **options.environment,
        },
        secrets={"none": "the cluster's nodes have their own credentials"},
        image="the cluster's",
        sent=sent,
    )
