"""Whose an evaluation's directory is: of one evaluation for good, and of one process at a time.

Two processes that answered the same questions would both write them down, and every number would count them twice. The
lock dies with the process that holds it, so a killed one blocks nobody.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.evaluation.plan_types import EvaluationPlan
from pipelines.evaluation.result import IDENTITY_NAME
from pipelines.file_lock import wait_for_lock
from pipelines.storage import open_storage

_LOCK = ".lock"
_PATIENCE_S = 2.0
"""Of a process that finds the evaluation held: one that only reads a finished result holds it for an instant."""


class EvaluationBusyError(RuntimeError):
    """Another process works at this evaluation."""

    exit_code = 1


@contextmanager
def claimed(plan: EvaluationPlan) -> Iterator[None]:
    """Hold the evaluation's directory, and make it this evaluation's own.

    Raises EvaluationBusyError, or ValueError where the directory is of another evaluation.
    """
    plan.directory.mkdir(parents=True, exist_ok=True)
    with (plan.directory / _LOCK).open("a") as file:
        if not wait_for_lock(file, _PATIENCE_S):
            raise EvaluationBusyError(
                f"Another process works at the evaluation {plan.name!r} in {plan.directory}: wait until it ends, and "
                "the same command gives its result; or give this one another --name."
            )
        _identify(plan)
        yield


def _identify(plan: EvaluationPlan) -> None:
    storage = open_storage(str(plan.directory))
    if not storage.exists(IDENTITY_NAME):
        storage.write_atomic(IDENTITY_NAME, json.dumps(plan.identity, indent=1).encode())
        return
    known = json.loads(storage.read_bytes(IDENTITY_NAME))
    changed = [key for key, value in plan.identity.items() if known.get(key) != value]
    if changed:
        raise ValueError(
            f"The evaluation {plan.name!r} in {plan.directory} is of something else: {', '.join(changed)} "
            "differ. Give this one another --name, or none."
        )
