"""What a version must show before an alias moves to it.

    version, evaluations, champion, approvals ──judge──> GateReport

Every check is made and reported, whether an earlier one failed or not, so a refusal tells all of its reasons at once.
The gate reads only: moving the alias and recording the decision is `promote`'s part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pipelines.evaluation.comparable import differences
from pipelines.evaluation.result import EvaluationResult
from pipelines.evaluation.results import Tally
from pipelines.registry.candidates import Candidate
from pipelines.registry.checks import Check, GateReport
from pipelines.registry.config import GateConfig, Threshold
from pipelines.registry.evidence import Evidence
from pipelines.registry.gate_champion import champion_checks
from pipelines.registry.verification import verify

_CONTROL = "control: shuffled video"


def judge(candidate: Candidate, evidence: Evidence, config: GateConfig) -> GateReport:
    """Check a version against the gate."""
    checks: list[Check] = []
    used: list[EvaluationResult] = []
    names = evidence.benchmarks(config)
    # A control can be made of an ingested dataset alone; where there is one, it speaks for the benchmarks beside it.
    has_dataset = any(main is not None and not main.is_benchmark for main in map(evidence.main, names))
    for benchmark in names:
        main, control = evidence.main(benchmark), evidence.control(benchmark)
        thresholds = [item for item in config.thresholds if (item.benchmark or benchmark) == benchmark]
        found = list(_evaluation_checks(main, thresholds, config))
        if main is not None and main.is_benchmark:
            control = None
            found += [] if has_dataset else _no_control(main, config)
        else:
            found += _control_checks(main, control, config)
        # One benchmark needs no name in front of its checks.
        prefix = f"{benchmark}: " if len(names) > 1 else ""
        checks += [Check(name=prefix + c.name, passed=c.passed, found=c.found, required=c.required) for c in found]
        used += [result for result in (main, control) if result is not None]
    if config.no_worse is not None:
        checks += champion_checks(candidate, evidence, config.no_worse, config)
    checks += [*_lineage_checks(candidate.tags, config), *_approval_checks(candidate, evidence, config)]
    checks += verify(candidate)
    return GateReport(checks=tuple(checks), evaluations=tuple(dict.fromkeys(result.name for result in used)))


def _evaluation_checks(
    result: EvaluationResult | None, thresholds: Sequence[Threshold], config: GateConfig
) -> Iterator[Check]:
    if result is None or result.overall is None:
        wanted = f" by the protocol {config.protocol}" if config.protocol else ""
        yield Check(
            name="evaluation",
            passed=False,
            found=f"none of this model{wanted}",
            required="vamba evaluate --model … first",
        )
        return
    groups = result.groups()
    for threshold in thresholds:
        yield _threshold_check(threshold, groups)
    yield Check(
        name="coverage",
        passed=result.coverage >= config.min_coverage,
        found=f"{result.coverage:.1%} of {result.num_questions} questions",
        required=f"at least {config.min_coverage:.1%}",
    )
    if config.min_questions > 1:
        yield Check(
            name="questions",
            passed=result.overall.num_questions >= config.min_questions,
            found=f"{result.overall.num_questions} answered",
            required=f"at least {config.min_questions}",
        )
    unparsed = result.overall.num_unparsed / result.overall.num_questions
    yield Check(
        name="unparsed answers",
        passed=unparsed <= config.max_unparsed,
        found=f"{result.overall.num_unparsed} ({unparsed:.1%})",
        required=f"at most {config.max_unparsed:.1%}",
    )
    found = "a subset" if result.subset else "every question"
    yield Check(name="whole split", passed=not result.subset, found=found, required="every question of the split")


def _threshold_check(threshold: Threshold, groups: Mapping[str, Tally]) -> Check:
    numbers = groups.get(threshold.metric)
    required = f"at least {threshold.at_least:.1%} on {threshold.min_questions} or more questions"
    if numbers is None:
        known = ", ".join(groups)
        return Check(name=threshold.metric, passed=False, found=f"not measured (there is {known})", required=required)
    return Check(
        name=threshold.metric,
        passed=numbers.accuracy >= threshold.at_least and numbers.num_questions >= threshold.min_questions,
        found=f"{numbers.accuracy:.1%} on {numbers.num_questions} questions",
        required=required,
    )


def _no_control(main: EvaluationResult, config: GateConfig) -> Iterator[Check]:
    if config.require_control:
        yield Check(
            name=_CONTROL,
            passed=False,
            found=f"none: {main.dataset} is a benchmark, and a control asks about an ingested dataset",
            required="an ingested dataset in the gate as well, with its control, or gate.require_control=false",
        )


def _control_checks(
    main: EvaluationResult | None, control: EvaluationResult | None, config: GateConfig
) -> Iterator[Check]:
    if not config.require_control:
        return
    name = _CONTROL
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


def _approval_checks(candidate: Candidate, evidence: Evidence, config: GateConfig) -> Iterator[Check]:
    if not config.min_approvals:
        return
    registrar = candidate.tags.get("registered_by", "")
    names = ", ".join(evidence.approvers) or "nobody"
    besides = f" other than {registrar}, who registered it" if registrar else ""
    yield Check(
        name="approvals",
        passed=len(evidence.approvers) >= config.min_approvals,
        found=f"{len(evidence.approvers)} ({names})",
        required=f"at least {config.min_approvals} by people{besides}: vamba approve {candidate.label} --by …",
    )
