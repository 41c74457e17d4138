"""What a version must show before an alias moves to it: a list of checks, each with what was found and what was
required.

Every check is made and reported, whether an earlier one failed or not, so a refusal tells all of its reasons at once.
The gate
reads only: moving the alias and recording the decision is `promote`'s part.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.evaluation.comparable import differences
from pipelines.evaluation.result import EvaluationResult
from pipelines.registry.config import GateConfig, Threshold
from pipelines.registry.lineage import FILES_TAG
from pipelines.registry.model_files import differing_files, hash_model_files

_LOAD_TIMEOUT_S = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One requirement. found and required are for people."""

    name: str
    passed: bool
    found: str
    required: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GateReport:
    """All checks. evaluations: the evidence, by name."""

    checks: tuple[Check, ...]
    evaluations: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.passed)


def judge(
    directory: Path, tags: Mapping[str, str], evaluations: Sequence[EvaluationResult], config: GateConfig
) -> GateReport:
    """Check a model directory with its tags against the gate, on the newest evaluation and the newest control of it."""
    main = next((result for result in evaluations if not result.control), None)
    control = next((result for result in evaluations if result.control), None)
    checks = [
        *_evaluation_checks(main, config),
        *_control_checks(main, control, config),
        *_lineage_checks(tags, config),
        *_file_checks(directory, tags),
    ]
    used = tuple(result.name for result in (main, control) if result is not None)
    return GateReport(checks=tuple(checks), evaluations=used)


def _evaluation_checks(result: EvaluationResult | None, config: GateConfig) -> Iterator[Check]:
    if result is None or result.overall is None:
        yield Check(
            name="evaluation", passed=False, found="none of this model", required="vamba evaluate --model … first"
        )
        return
    groups = result.groups()
    for threshold in config.thresholds:
        yield _threshold_check(threshold, groups)
    yield Check(
        name="coverage",
        passed=result.coverage >= config.min_coverage,
        found=f"{result.coverage:.1%} of {result.num_questions} questions",
        required=f"at least {config.min_coverage:.1%}",
    )
    unparsed = result.overall.num_unparsed / result.overall.num_questions
    yield Check(
        name="unparsed answers",
        passed=unparsed <= config.max_unparsed,
        found=f"{result.overall.num_unparsed} ({unparsed:.1%})",
        required=f"at most {config.max_unparsed:.1%}",
    )
    if not config.allow_subset:
        found = "a subset" if result.subset else "every question"
        yield Check(name="whole split", passed=not result.subset, found=found, required="every question of the split")


def _threshold_check(threshold: Threshold, groups: Mapping[str, object]) -> Check:
    numbers = groups.get(threshold.metric)
    required = f"at least {threshold.at_least:.1%} on {threshold.min_questions} or more questions"
    if numbers is None:
        known = ", ".join(groups)
        return Check(name=threshold.metric, passed=False, found=f"not measured (there is {known})", required=required)
    accuracy, count = numbers.accuracy, numbers.num_questions  # type: ignore[attr-defined]
    return Check(
        name=threshold.metric,
        passed=accuracy >= threshold.at_least and count >= threshold.min_questions,
        found=f"{accuracy:.1%} on {count} questions",
        required=required,
    )


def _control_checks(
    main: EvaluationResult | None, control: EvaluationResult | None, config: GateConfig
) -> Iterator[Check]:
    if not config.require_control:
        return
    name = "control: shuffled video"
    if control is None or control.overall is None:
        yield Check(
            name=name, passed=False, found="none of this model", required="vamba evaluate --control shuffled-video"
        )
        return
    if main is not None and (differing := differences(main, control)):
        yield Check(name=name, passed=False, found="; ".join(differing), required="the same questions and protocol")
        return
    chance = control.chance or 0.0
    ceiling = chance + config.control_margin
    yield Check(
        name=name,
        passed=control.chance is not None and control.overall.accuracy <= ceiling,
        found=f"{control.overall.accuracy:.1%} on {control.overall.num_questions} questions",
        required=f"at most {ceiling:.1%} (chance {chance:.1%} and a margin of {config.control_margin:.1%})",
    )


def _lineage_checks(tags: Mapping[str, str], config: GateConfig) -> Iterator[Check]:
    missing = [name for name in config.required_lineage if not tags.get(name)]
    yield Check(
        name="lineage",
        passed=not missing,
        found=f"missing: {', '.join(missing)}" if missing else "complete",
        required=", ".join(config.required_lineage),
    )
    if not config.allow_dirty:
        dirty = tags.get("git_dirty", "unknown")
        yield Check(name="git tree", passed=dirty == "false", found=f"dirty: {dirty}", required="a clean commit")


def _file_checks(directory: Path, tags: Mapping[str, str]) -> Iterator[Check]:
    expected = json.loads(tags.get(FILES_TAG, "{}"))
    found = hash_model_files(directory) if directory.is_dir() else None
    wrong = differing_files(expected, found.sha256 if found else {})
    yield Check(
        name="checkpoint files",
        passed=bool(expected) and not wrong,
        found="; ".join(wrong[:5]) or f"{len(expected)} files as registered",
        required="every SHA-256 as registered",
    )
    problem = "not tried: files differ" if wrong else _load_problem(directory)
    yield Check(
        name="loads and generates",
        passed=not problem,
        found=problem or "yes, in a process of its own",
        required="loads and writes a token",
    )


def _load_problem(directory: Path) -> str:
    """The last line of what went wrong when the model was loaded in a clean process; empty when it works."""
    command = [sys.executable, "-m", "pipelines.registry.load_check", str(directory)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LOAD_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"did not load within {_LOAD_TIMEOUT_S} s"
    if done.returncode == 0:
        return ""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"the loading process ended with {done.returncode}"
