"""The configuration of a promotion: what a version must show before an alias moves to it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """One bound. metric: `overall`, `category/NAME` or `length/LABEL` of the evaluation. at_least: accuracy, 0 to 1.

    min_questions: answered questions that the metric must rest on. benchmark: the data set or benchmark that it is
    about; "" is that of the newest evaluation.
    """

    metric: str
    at_least: float
    min_questions: int = 1
    benchmark: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.at_least <= 1:
            raise ValueError(
                f"gate threshold for {self.metric!r}: at_least is {self.at_least}, but accuracy lies in 0 to 1."
            )
        if self.min_questions < 1:
            raise ValueError(
                f"gate threshold for {self.metric!r}: min_questions is {self.min_questions}, but an accuracy needs one."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class NoWorse:
    """The version must not be worse than the holder of `than` by more than max_drop, with confidence.

    Judged on the questions that both were asked (same data, same protocol), overall and in each category: the lower end
    of the interval of the difference, drawn by video, must be at -max_drop or above.

    confidence: that the true drop is not larger, of each group by itself. categories: only these; empty takes all.
    min_questions, min_videos: that a group must rest on. benchmarks: of which data sets or benchmarks; empty takes
    that of the newest evaluation.
    """

    max_drop: float = 0.02
    confidence: float = 0.95
    than: str = "champion"
    categories: tuple[str, ...] = ()
    min_questions: int = 1
    min_videos: int = 2
    benchmarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop <= 1:
            raise ValueError(f"gate.no_worse.max_drop is {self.max_drop}, but it is a share of the questions: 0 to 1.")
        if not 0.5 < self.confidence < 1:
            raise ValueError(f"gate.no_worse.confidence is {self.confidence}; it must be above 0.5 and below 1.")
        if self.min_videos < 2 or self.min_questions < 1:
            raise ValueError(
                f"gate.no_worse: min_videos is {self.min_videos} and min_questions {self.min_questions}; an interval "
                "needs at least two videos and a question."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class GateConfig:
    """All that is checked; everything must hold.

    protocol: evaluations of other protocols count for nothing; "" takes any. thresholds: bounds on accuracy.
    min_questions: answered questions of each evaluation used. min_coverage: answered questions divided by all questions
    of the split. require_control: an evaluation of the same model with `shuffle_videos` must exist. control_margin: how
    far above chance its accuracy may lie. max_unparsed: share of answers in which no letter was found. no_worse: than
    the present champion; None leaves the comparison out. allow_dirty: accept a run from a changed working tree.
    required_lineage: tags that the version must carry. min_approvals: by as many people, none of them who registered
    it.
    """

    protocol: str = ""
    thresholds: tuple[Threshold, ...] = ()
    min_questions: int = 1
    min_coverage: float = 1.0
    require_control: bool = True
    control_margin: float = 0.15
    max_unparsed: float = 0.0
    no_worse: NoWorse | None = None
    allow_dirty: bool = True
    required_lineage: tuple[str, ...] = ("run", "manifest_digest", "config_digest", "model_digest")
    min_approvals: int = 0

    def __post_init__(self) -> None:
        for name in ("min_coverage", "max_unparsed"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"gate.{name} is {getattr(self, name)}, but it is a share: 0 to 1.")
        for name in ("min_questions", "min_approvals"):
            if getattr(self, name) < 0:
                raise ValueError(f"gate.{name} is {getattr(self, name)}; use 0 (none asked for) or more.")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionConfig:
    """One promotion. target: NAME/VERSION, models:/NAME/VERSION, or a run, which is registered first as `register_as`.

    alias: the alias to move. evaluations: names of evaluations to judge by; empty takes the newest of exactly this
    model.
    """

    target: str
    alias: str = "champion"
    register_as: str = ""
    evaluations: tuple[str, ...] = ()
    gate: GateConfig = field(default_factory=GateConfig)

    def __post_init__(self) -> None:
        check_alias(self.alias)


def check_alias(alias: str) -> None:
    """ValueError for what MLflow keeps for itself, or does not take."""
    if not re.fullmatch(r"[\w\-]{1,255}", alias):
        raise ValueError(f"The alias {alias!r} can't be used: write it with letters, digits, '-' and '_'.")
    if alias.lower() == "latest" or re.fullmatch(r"[vV]?\d+", alias):
        raise ValueError(f"The alias {alias!r} can't be used: MLflow reserves `latest` and version numbers.")
