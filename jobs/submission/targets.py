"""From `--to` to the plan of what would be sent there."""

from __future__ import annotations

from jobs.submission.job import Job
from jobs.submission.plan import Options, Submission, require_no_credentials
from pipelines.storage import check_home


def plan_submission(job: Job, options: Options) -> Submission:
    """Complete, and nothing sent. Raises ValueError for what the user can correct."""
    require_no_credentials(job)
    submission = _planned(job, options)
    home = submission.environment.get("VAMBA_HOME")
    if home is not None:
        check_home(home)
        if not home.startswith(("/", "~")):
            raise ValueError(
                f"VAMBA_HOME is {home!r}, which lies elsewhere where the job runs, and is gone with it: name a folder "
                "on storage that every node mounts, by --env VAMBA_HOME=/PATH."
            )
    return submission


def _planned(job: Job, options: Options) -> Submission:
    if options.to == "kuberay":
        from jobs.submission.kuberay import plan_kuberay

        return plan_kuberay(job, options)
    if options.to == "sky":
        from jobs.submission.sky import plan_sky

        return plan_sky(job, options)
    from jobs.submission.jobs_api import plan_jobs_api

    return plan_jobs_api(job, options)
