"""From what a user calls an evaluation to its result: a name, a directory, an evaluation.json, or a registered version.

A version names all evaluations of exactly its files, newest first, whole ones before subsets; of two such lists the
first pair that may be compared is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipelines.evaluation.comparable import IncomparableError, require_comparable
from pipelines.evaluation.result import RESULT_NAME, EvaluationResult, evaluations_directory, find_results, read_result


class EvaluationNotFoundError(ValueError):
    """The reference names no finished evaluation; the message says what was looked for."""


def find_pair(first: str, second: str) -> tuple[EvaluationResult, EvaluationResult]:
    """The evaluations that are to be compared. Raises EvaluationNotFoundError or IncomparableError."""
    ours, theirs = _candidates(first), _candidates(second)
    problem: IncomparableError | None = None
    for a in ours:
        for b in theirs:
            try:
                require_comparable(a, b)
                return a, b
            except IncomparableError as error:
                problem = problem or error
    assert problem is not None, "a reference without candidates raises"
    raise problem


def _candidates(reference: str) -> Sequence[EvaluationResult]:
    if reference.startswith("models:"):
        return _of_version(reference)
    directory = evaluations_directory() / reference
    path = next((path for path in (directory, Path(reference).expanduser()) if path.exists()), None)
    if path is None:
        raise EvaluationNotFoundError(
            f"There is no evaluation {reference!r}: not a name in {evaluations_directory()} ({_names()}), not a "
            f"directory or {RESULT_NAME}, and not models:/NAME/VERSION or models:/NAME@alias."
        )
    if path.is_dir() and not (path / RESULT_NAME).is_file():
        raise EvaluationNotFoundError(
            f"The evaluation {reference!r} has no {RESULT_NAME} yet: run the same `vamba evaluate` again to finish it."
        )
    return [read_result(path)]


def _of_version(reference: str) -> Sequence[EvaluationResult]:
    from pipelines.registry.models import resolve_model

    model = resolve_model(reference)
    found = [
        result for result in find_results(model_digest=model.lineage.get("model_digest", "")) if not result.control
    ]
    if not found:
        raise EvaluationNotFoundError(
            f"{reference} was not evaluated here: none in {evaluations_directory()} is of its files. "
            f"Run `vamba evaluate --model {reference} …` first."
        )
    return sorted(found, key=lambda result: result.subset)


def _names() -> str:
    names = sorted(path.parent.name for path in evaluations_directory().glob(f"*/{RESULT_NAME}"))
    return ", ".join(names[:10]) + (", …" if len(names) > 10 else "") or "there are none"
