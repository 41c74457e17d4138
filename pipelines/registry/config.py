"""The configuration of a promotion: what a version must show before an alias moves to it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """One bound. metric: `overall`, `category/NAME` or `length/LABEL` of the evaluation. at_least: accuracy, 0 to 1.

    min_questions: answered questions that the metric must rest on.
    """

    metric: str
    at_least: float
    min_questions: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.at_least <= 1:
            raise ValueError(
                f"gate threshold for {self.metric!r}: at_least is {self.at_least}, but accuracy lies in 0 to 1."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class GateConfig:
    """All that is checked; everything must hold.

    thresholds: bounds on accuracy. min_coverage: answered questions divided by all questions of the split.
    require_control: an evaluation of the same model with `shuffle_videos` must exist. control_margin: how far above
        chance its accuracy may lie. max_unparsed: share of answers in which no letter was found.
    allow_subset: accept evaluations of a part of the questions. allow_dirty: accept a run from a changed working tree.
    required_lineage: tags that the version must carry.
    """

    thresholds: tuple[Threshold, ...] = ()
    min_coverage: float = 1.0
    require_control: bool = True
    control_margin: float = 0.15
    max_unparsed: float = 0.0
    allow_subset: bool = False
    allow_dirty: bool = True
    required_lineage: tuple[str, ...] = ("run", "manifest_digest", "config_digest", "model_digest")


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
        if not self.alias or self.alias == "latest" or self.alias.removeprefix("v").isdigit():
            raise ValueError(f"The alias {self.alias!r} can't be used: MLflow reserves `latest` and version numbers.")
