"""Jobs that the tests submit: one of each kind, with words that a user would write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jobs.submission.job import Job, read_job
from jobs.submission.plan import Options, Submission
from jobs.submission.targets import plan_submission
from tests.architecture.sources import ROOT

WORDS: dict[str, tuple[str, ...]] = {
    "ingest": ("s3://bucket/raw", "--out", "s3://bucket/data"),
    "train": ("tiny_pretrain", "--data", "s3://bucket/data", "--name", "run7"),
    "evaluate": ("run7", "--data", "s3://bucket/data"),
    "promote": ("run7", "--as", "vamba", "--to", "champion"),
}
PROFILES = ("dev", "prod", "spot")
CASES = [(verb, profile) for verb in WORDS for profile in PROFILES]
GPUS = ("instruct", "--data", "s3://bucket/data", "--name", "run7")


def a_job(verb: str = "train", words: Sequence[str] | None = None) -> Job:
    return read_job(verb, WORDS[verb] if words is None else words)


def plan(to: str, verb: str = "train", words: Sequence[str] | None = None, **options: Any) -> Submission:
    return plan_submission(a_job(verb, words), Options(to=to, **{"working_dir": ROOT, **options}))
