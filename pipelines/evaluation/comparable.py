"""Whether the numbers of two evaluations may stand beside each other."""

from __future__ import annotations

from pipelines.evaluation.result import EvaluationResult


class IncomparableError(ValueError):
    """Two results that measure different things; the message says in what they differ."""


def differences(first: EvaluationResult, second: EvaluationResult) -> list[str]:
    """In what the two differ that makes their numbers incomparable: protocol, questions, frames and tokens."""
    found = []
    for name, values in {
        "protocol": (first.protocol, second.protocol),
        "benchmark": (first.dataset, second.dataset),
        "split": (first.split, second.split),
        "questions": (first.manifest_digest[:19], second.manifest_digest[:19]),
    }.items():
        if values[0] != values[1]:
            found.append(f"{name} {values[0]} and {values[1]}")
    known = first.settings and second.settings  # a dataset's were not recorded by older versions
    for name in sorted({*first.settings, *second.settings} - {"dtype"}) if known else ():
        mine, other = first.settings.get(name), second.settings.get(name)
        if mine != other:
            found.append(f"{name} {mine} and {other}")
    return found


def require_comparable(first: EvaluationResult, second: EvaluationResult) -> None:
    """Raise IncomparableError unless the two were asked the same questions in the same way."""
    found = differences(first, second)
    if first.control != second.control:
        found.insert(0, f"control {first.control or 'none'} and {second.control or 'none'}")
    if found:
        raise IncomparableError(
            f"The evaluations {first.name!r} and {second.name!r} can't be compared: {'; '.join(found)}. Evaluate one "
            "of the models again as the other was."
        )
