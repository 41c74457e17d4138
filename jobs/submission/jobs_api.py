"""Through the Jobs API of a running Ray cluster: what is sent. `ray_cluster.py` sends it.

The entrypoint is the same command that runs locally, `python -m jobs …`, started in a copy of the source tree, with
`--address auto` so that it uses the cluster it runs on. The cluster has credentials of its own.
"""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urlsplit, urlunsplit

from jobs.submission.job import Job
from jobs.submission.plan import Options, Submission, forwarded_variables, holds_credentials
from jobs.submission.sent_files import SentFiles, place_in_tree, sent_files
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
# What Ray takes as one message, packed.
_MAX_BYTES = 512 * 2**20


def dashboard_of(to: str) -> str:
    """The dashboard's URL, which takes jobs. Of `ray://HOST:PORT`, where Ray's clients connect, it is on the same head,
    at its usual port. Raises ValueError for what is no address."""
    try:
        parts = urlsplit(to.strip())
        parts.port  # noqa: B018 - ValueError for what is no port
    except ValueError as error:
        raise ValueError(
            f"--to {redacted(to)!r} is no address: {error}. Write http://HOST:8265, with a port from 1 to 65535 and "
            "brackets around an IPv6 address."
        ) from None
    if parts.scheme in ("http", "https") and parts.hostname:
        # Copied from a browser it ends in #/overview, where nothing takes jobs.
        return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))
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
    _require_packable(sent)
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


def _require_packable(sent: SentFiles) -> None:
    """Raises ValueError for a tree that Ray would pack otherwise than it is listed, or not take."""
    for name in sent.sizes:
        if name.rpartition("/")[2] == ".rayignore":
            raise ValueError(
                f"{sent.root / name} would keep files back that are listed as sent: remove it, and take what should "
                "not be sent out of the tree (or to the top folder data/)."
            )
    if sent.size_bytes > _MAX_BYTES:
        largest = sorted(sent.by_top().items(), key=lambda item: -item[1][1])[:3]
        what = ", ".join(f"{name} {size / 2**20:.0f} MiB" for name, (_, size) in largest)
        raise ValueError(
            f"{sent.root} holds {sent.size_bytes / 2**20:.0f} MiB to send, and Ray takes {_MAX_BYTES // 2**20} MiB: "
            "move what is not source out of it, or to its top folder data/, which is not sent. "
            f"The largest: {what}."
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
