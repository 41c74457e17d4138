"""From `--to` to the plan of what would be sent there."""

from __future__ import annotations

from jobs.submission.job import Job
from jobs.submission.plan import Options, Submission, require_no_credentials


def plan_submission(job: Job, options: Options) -> Submission:
    """Complete, and nothing sent. Raises ValueError for what the user can correct."""
    require_no_credentials(job)
    if options.to == "kuberay":
        from jobs.submission.kuberay import plan_kuberay

        return plan_kuberay(job, options)
    if options.to == "sky":
        from jobs.submission.sky import plan_sky

        return plan_sky(job, options)
    from jobs.submission.jobs_api import plan_jobs_api

    return plan_jobs_api(job, options)
