"""What a version is judged by: evaluations of exactly its files, those of the champion, and approvals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.evaluation.comparable import differences
from pipelines.evaluation.result import EvaluationResult, evaluations_directory, find_results, read_result
from pipelines.registry.approvals import approvers
from pipelines.registry.audit import Entry
from pipelines.registry.candidates import Candidate, registered_candidate
from pipelines.registry.config import GateConfig, PromotionConfig
from pipelines.registry.moves import holder_of

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """evaluations, champion_evaluations: newest first, whole ones before subsets. champion: None where there is none.
    approvers: who approved the version and did not register it."""

    evaluations: tuple[EvaluationResult, ...]
    champion: Candidate | None
    champion_evaluations: tuple[EvaluationResult, ...]
    approvers: tuple[str, ...]

    def benchmarks(self, config: GateConfig) -> tuple[str, ...]:
        """The data sets that the gate is about: that of the newest evaluation first, then those it names."""
        newest = next((result.dataset for result in self.evaluations if not result.control), "")
        named = [threshold.benchmark for threshold in config.thresholds]
        named += config.no_worse.benchmarks if config.no_worse else ()
        if named and all(named):
            return tuple(dict.fromkeys(named))
        return tuple(dict.fromkeys([newest, *(name for name in named if name)]))

    def main(self, benchmark: str) -> EvaluationResult | None:
        """The evaluation on a benchmark."""
        return next((item for item in self.evaluations if not item.control and item.dataset == benchmark), None)

    def control(self, benchmark: str) -> EvaluationResult | None:
        """The control that belongs to it; where none does, the newest one, which the gate will refuse."""
        controls = [item for item in self.evaluations if item.control]
        main = self.main(benchmark)
        same = [item for item in controls if main is not None and not differences(item, main)]
        return next(iter(same or controls), None)

    def counterpart(self, result: EvaluationResult) -> EvaluationResult | None:
        """The champion's evaluation on the same questions."""
        return next(
            (item for item in self.champion_evaluations if not item.control and not differences(item, result)),
            None,
        )


def gather(client: MlflowClient, config: PromotionConfig, candidate: Candidate, entries: Sequence[Entry]) -> Evidence:
    """All evidence about a version. Raises ValueError for a named evaluation that is none of this model."""
    evaluations = _named(config, candidate) if config.evaluations else _all_of(candidate)
    champion = None
    if config.gate.no_worse is not None:
        number = holder_of(client, candidate.name, config.gate.no_worse.than)
        champion = registered_candidate(client, candidate.name, number) if number else None
    return Evidence(
        evaluations=_usable(evaluations, config.gate),
        champion=champion,
        champion_evaluations=_usable(_all_of(champion), config.gate) if champion else (),
        approvers=approvers(entries, candidate),
    )


def _usable(evaluations: Sequence[EvaluationResult], gate: GateConfig) -> tuple[EvaluationResult, ...]:
    kept = [result for result in evaluations if not gate.protocol or result.protocol == gate.protocol]
    return tuple(sorted(kept, key=lambda result: result.subset))


def _all_of(candidate: Candidate) -> list[EvaluationResult]:
    return find_results(model_digest=candidate.tags.get("model_digest", ""))


def _named(config: PromotionConfig, candidate: Candidate) -> list[EvaluationResult]:
    digest = candidate.tags.get("model_digest", "")
    results = []
    for name in config.evaluations:
        path = evaluations_directory() / name
        if not path.is_dir():
            raise ValueError(f"There is no evaluation {name!r} in {evaluations_directory()}.")
        result = read_result(path)
        if result.model_digest != digest:
            raise ValueError(
                f"The evaluation {name!r} is of another model ({result.model}, {result.model_digest[:19]}…) than "
                f"{config.target} ({digest[:19]}…): evaluate the model that is to be promoted."
            )
        results.append(result)
    return sorted(results, key=lambda result: result.created_at, reverse=True)
