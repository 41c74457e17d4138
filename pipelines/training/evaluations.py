"""Evaluations while training: which packs they read, and what they found.

    validation split ──> plan with a seed of its own ── the first max_packs packs ──> reader ──> vamba.train.evaluation
                                                                                                        │
    events.jsonl: `evaluated` (step, evaluation_loss) <──────────────────────────────────────────────────┘

The packs are the same at every evaluation, for every number of workers and every run over the dataset with the same
budgets. Results stand in the run's events and nowhere else; the checkpoint store asks for them to keep the best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from pipelines.training.config import TrainingConfig
from pipelines.training.ranks import from_first
from pipelines.training.run_directory import RunDirectory
from vamba.data.manifest import SampleRow
from vamba.data.plan import DataPlan
from vamba.data.reader_config import ReaderConfig, plan_items
from vamba.data.sample_table import SampleTable

if TYPE_CHECKING:
    from vamba.data.encode import Encoder
    from vamba.data.fetch import ReadRange, UnreadableSampleError
    from vamba.train.evaluation import Requests
    from vamba.train.state import TrainState

PLAN_SEED = 0
MAX_PREFETCH_STEPS = 2  # beside the training reader, which holds its own


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationData:
    """The part of the validation split that is read. num_rounds: steps of the plan that hold it."""

    rows: SampleTable
    plan: DataPlan
    num_rounds: int


def plan_evaluation(rows: Sequence[SampleRow], config: TrainingConfig) -> EvaluationData | None:
    """What evaluations of a run read of the validation split `rows`; None if it makes none.

    Raises:
        ValueError: the split is empty, or has a sample that no pack can hold.
    """
    every = config.train.evaluate_every_steps
    if not every:
        return None
    if not rows:
        raise ValueError(
            f"train.evaluate_every_steps is {every}, but {config.data} has no sample in its validation split. Ingest "
            "with split.validation_fraction above 0, or set train.evaluate_every_steps=0."
        )
    table = SampleTable(rows)
    plan = DataPlan(plan_items(table, config.reader), config.plan, seed=PLAN_SEED)
    num_rounds, num_packs = 0, 0
    for step in plan.steps(0):
        num_packs += len(step.packs)
        if num_rounds and num_packs > config.train.evaluation.max_packs:
            break
        num_rounds += 1
    return EvaluationData(rows=table, plan=plan, num_rounds=num_rounds)


class Evaluator:
    """Evaluations of one rank."""

    def __init__(
        self,
        data: EvaluationData,
        directory: RunDirectory,
        *,
        read_range: ReadRange,
        encode: Encoder,
        reader: ReaderConfig,
        rank: int,
        world_size: int,
        context: int = 1,
    ) -> None:
        """context: ranks that share a pack."""
        self._data, self._directory = data, directory
        self._read_range, self._encode = read_range, encode
        prefetch_steps = min(reader.prefetch_steps, MAX_PREFETCH_STEPS)
        self._reader = replace(reader, cache_bytes=0, prefetch_steps=prefetch_steps)
        self._rank, self._share = rank, (rank // context, world_size // context)
        self._done = set(from_first(list(read_evaluations(directory)) if rank == 0 else []))

    def evaluate(self, state: TrainState, requests: Requests) -> bool:
        """Evaluate and record, unless this step has been; False when asked to stop before the end. Collective."""
        from vamba.data.reader import PackReader
        from vamba.train.evaluation import evaluate

        if state.step in self._done:
            return True
        share, num_shares = self._share
        reader = PackReader(
            self._data.plan, self._data.rows, self._read_range, self._encode,
            state=self._data.plan.start(), rank=share, world_size=num_shares, config=self._reader,
            on_unreadable=self._note_unreadable,
        )  # fmt: skip
        with reader:
            rounds = (inputs for inputs, _ in islice(reader, self._data.num_rounds))
            result = evaluate(state, rounds, requests)
        if result is None:
            return False
        self._done.add(result.step)
        if self._rank == 0:
            self._directory.append_event(
                "evaluated", step=result.step, evaluation_loss=result.loss, num_loss_tokens=result.num_loss_tokens,
                num_samples=result.num_samples, seconds=round(result.seconds, 4),
            )  # fmt: skip
        return True

    def _note_unreadable(self, error: UnreadableSampleError, step: int) -> None:
        # Not `sample_unreadable`: those count against the samples that training may miss.
        self._directory.append_event(
            "evaluation_sample_unreadable", id=error.row.id, shard=error.row.shard, rank=self._rank, reason=error.reason
        )


def read_evaluations(directory: RunDirectory) -> dict[int, float]:
    """Evaluation losses of a run by step, oldest first; NaN where no token was labelled."""
    evaluated = (event for event in directory.read_events() if event["event"] == "evaluated")
    return {int(event["step"]): float(event["evaluation_loss"]) for event in evaluated}
