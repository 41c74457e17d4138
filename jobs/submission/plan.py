"""What would be sent, complete before anything is: one frozen plan for every target.

Options + Job ──> plan_submission ──┬─> jobs_api.send      http(s)://, ray://: the source tree goes along
                                    ├─> kuberay manifest   the image has the code
                                    └─> sky task           the source tree goes along
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.submission.job import Job
from jobs.submission.sent_files import SentFiles
from pipelines.capacity import Needs
from pipelines.redaction import is_secret_variable, redacted, redacted_text

PROFILES = ("dev", "prod", "spot")
_SECRET_NAME = re.compile(r"SECRET|PASSWORD|PASSWD|TOKEN(?!IZ)|CREDENTIAL|(^|_)KEY_ID$", re.IGNORECASE)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What `vamba submit` is told beside the job.

    to: http(s)://HOST:PORT, ray://HOST:PORT, "kuberay" or "sky". working_dir: the source tree. profile: "dev", "prod"
    or "spot". image, namespace, queue: instead of the profile's. nodes: of workers, instead of as many as the
    configuration needs. environment: variables for the job. secrets: names only, of Kubernetes secrets, or of variables
    that `sky` takes from the environment of whoever launches. accelerators: of a node, e.g. "H100:8" (sky). infra:
    where, e.g. "aws/us-west-2" (sky). capacity_check: refuse what the place can't hold.
    """

    to: str
    working_dir: Path
    profile: str = "prod"
    image: str | None = None
    namespace: str | None = None
    queue: str | None = None
    nodes: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    accelerators: str | None = None
    infra: str | None = None
    capacity_check: bool = True

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            raise ValueError(f"--profile {self.profile!r} is not known: choose one of {', '.join(PROFILES)}.")
        if self.nodes is not None and self.nodes < 1:
            raise ValueError(f"--nodes is {self.nodes}, but a job needs at least 1.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A job as it would be sent.

    name: of what is created there; "" where the cluster names it. resources: what is asked for, in words, by name.
    secrets: names only, with where each comes from. sent: None where the image has the code. documents: the manifests,
    () for the Jobs API.
    """

    to: str
    job: Job
    entrypoint: str
    name: str = ""
    namespace: str = ""
    needs: Needs | None = None
    resources: Mapping[str, str]
    environment: Mapping[str, str]
    secrets: Mapping[str, str]
    image: str
    sent: SentFiles | None = None
    documents: tuple[dict[str, Any], ...] = ()

    def shown_environment(self) -> dict[str, str]:
        """The environment for printing, credentials in URIs hidden."""
        return {name: redacted(value) for name, value in self.environment.items()}

    def shown_entrypoint(self) -> str:
        """The command line for printing, credentials in URIs hidden."""
        return re.sub(r"[a-z][a-z0-9+.-]*://[^\s'\"]+", lambda found: redacted(found[0]), self.entrypoint)


def given_variables(assignments: Sequence[str]) -> dict[str, str]:
    """From NAME=VALUE, or NAME for the value that it has here. Raises ValueError for what looks like a secret."""
    found: dict[str, str] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not _VARIABLE.fullmatch(name):
            raise ValueError(f"--env {name!r} is not the name of a variable: write NAME=VALUE, or NAME alone.")
        if not equals and name not in os.environ:
            raise ValueError(
                f"--env {name} names a variable that is not set here: set it, or write --env {name}=VALUE."
            )
        value = value if equals else os.environ[name]
        _require_no_secret(name, value)
        found[name] = value
    return found


def forwarded_variables(*names: str) -> dict[str, str]:
    """Those of the variables that are set here."""
    return {name: os.environ[name] for name in names if name in os.environ}


def holds_credentials(value: str) -> bool:
    """Whether it names an address with a user, a password or a signature, or the value of a secret variable."""
    return redacted_text(value) != value


def require_no_credentials(job: Job) -> None:
    """Raises ValueError where the job's words or files would carry a credential: the cluster keeps and shows them."""
    for word in job.words:
        if holds_credentials(word):
            raise ValueError(
                f"The words of the job hold a credential ({redacted_text(word)}), and whoever sees the job would see "
                f"it: leave it out there, or run `vamba {job.verb}` where the secret is known."
            )
    for path in job.files:
        if path.is_file() and holds_credentials(path.read_text(encoding="utf-8")):
            raise ValueError(f"{path} holds a credential, and whoever sees the job would see it: leave it out there.")


def _require_no_secret(name: str, value: str) -> None:
    """Whoever can look at a job reads its environment."""
    if _SECRET_NAME.search(name) or is_secret_variable(name):
        raise ValueError(
            f"{name} looks like a secret, and whoever sees the job would see its value: let the cluster have it as a "
            "secret, named with --secret (Kubernetes, SkyPilot) or set where its nodes start."
        )
    if holds_credentials(value):
        raise ValueError(
            f"{name} holds a credential ({redacted_text(value)}), and whoever sees the job would see it: leave it out "
            "there, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or what belongs to that service) on "
            "the cluster."
        )
