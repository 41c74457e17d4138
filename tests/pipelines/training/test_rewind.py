"""A run with every kind of trouble, in one process: what it skips, what it goes back to, and that kills change nothing.

The plan has twelve steps. Step 2 has no finite loss; step 7 is a spike; steps 9 and 10 have no finite loss, one more
than the guard allows. Checkpoints are due after 4, 8 and 12.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.training.checkpoint_files import checkpoint_path, quarantined, set_pin
from pipelines.training.checkpoints import CheckpointStore
from pipelines.training.retention import Retention
from pipelines.training.rewind import Rewinder, describe_guard_event
from tests.vamba.train.test_step import Classifier, FakeBatch
from vamba.data.plan import DataPlan, PlanConfig, PlanItem, PlanState
from vamba.data.reader import MicroBatch, StepInput
from vamba.train.config import GuardConfig, OptimizerConfig, TrainConfig
from vamba.train.guard import GuardError
from vamba.train.loop import fit
from vamba.train.state import TrainState
from vamba.train.step import StepResult, train_step

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")

NUM_STEPS = 12
TROUBLE = {2: math.nan, 7: 1e4, 9: math.nan, 10: math.inf}
UNTRAINED = {2, 5, 6, 7, 9, 10}
GUARD = GuardConfig(max_non_finite=1, non_finite_window_steps=3, window_steps=8, min_observations=3)
PLAN = DataPlan(
    [PlanItem(id=f"s{i:02d}", media="video", cost_tokens=1) for i in range(4 * NUM_STEPS)],
    PlanConfig(tokens_per_pack=2, packs_per_step=2),
    seed=0,
)


class KilledError(Exception):
    """Stands for SIGKILL."""


class Troubled(Classifier):
    """A model whose loss is multiplied by what the batch says."""

    def loss(self, batch: Any) -> tuple[torch.Tensor, int]:
        loss_sum, count = super().loss(batch)
        return loss_sum * batch.factor, count


def new_state(guard: GuardConfig = GUARD) -> TrainState:
    config = TrainConfig(checkpoint_every_steps=4, optimizer=OptimizerConfig(learning_rate=0.05), guard=guard)
    return TrainState(Troubled(), config, num_steps=NUM_STEPS, reader_state=PLAN.start())


def batches(state: PlanState, trouble: dict[int, float]) -> Iterator[tuple[StepInput, PlanState]]:
    while True:
        micro = []
        for pack in PLAN.step_at(state).packs:
            batch: Any = FakeBatch(100 * state.epoch + pack.index, 6)
            batch.factor = trouble.get(state.step + 1, 1.0)
            micro.append(MicroBatch(batch=batch, pack_index=pack.index, counts=True))
        names = tuple(PLAN.items.id(item) for pack in PLAN.step_at(state).packs for item in pack.items)
        inputs = StepInput(micro_batches=tuple(micro), sample_ids=names, epoch=state.epoch, media="video")
        state = PLAN.advance(state)
        yield inputs, state


class World:
    """The disk of a run, and attempts at it that can be killed at any of the moments that they count."""

    def __init__(self, root: Path, *, trouble: dict[int, float] | None = None, guard: GuardConfig = GUARD) -> None:
        self.directory = root
        root.mkdir(exist_ok=True)
        self.trouble = TROUBLE if trouble is None else trouble
        self.guard = guard
        self.events: list[dict[str, Any]] = []
        self.results: list[StepResult] = []
        self.num_moments = 0

    def attempt(self, *, kill_at: int = 0, lose_unwaited: bool = False, stop_at: int = 0) -> TrainState:
        """Train from the newest checkpoint on. kill_at, stop_at: number of the moment, or of the step; 0 for neither.

        lose_unwaited: a checkpoint that nobody has waited for dies with the process.
        """
        state = new_state(self.guard)
        run = KillableRun(self, state, kill_at=kill_at, stop_at=stop_at)
        run.store.restore(state)
        try:
            fit(state, batches(state.reader_state, self.trouble), run)
        except KilledError:
            run.store._writer.settle()
            if lose_unwaited and run.unwaited is not None:
                shutil.rmtree(checkpoint_path(self.directory, run.unwaited), ignore_errors=True)
        self.num_moments = run.num_moments
        return state

    def names(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir())


class KillableRun:
    def __init__(self, world: World, state: TrainState, *, kill_at: int, stop_at: int) -> None:
        self.world, self.state, self.kill_at, self.stop_at = world, state, kill_at, stop_at
        self.num_moments = 0
        self.unwaited: int | None = None
        self.store = CheckpointStore(world.directory, retention=Retention(keep_last=2), notify=self._note)
        for name in ("save", "wait", "rewind", "set_aside_discarded"):
            setattr(self.store, name, self._between(getattr(self.store, name), name))
        self.rewinder = Rewinder(self.store, PLAN, rebuild=lambda: new_state(world.guard), notify=self._note)

    def _note(self, event: str, **values: Any) -> None:
        if not event.startswith("checkpoint"):
            self.world.events.append({"event": event, **values})
            self._moment()

    def _moment(self) -> None:
        self.num_moments += 1
        if self.num_moments == self.kill_at:
            raise KilledError

    def _between(self, method: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            self._moment()
            result = method(*arguments, **named)
            self.unwaited = self.state.step if name == "save" else None if name == "wait" else self.unwaited
            self._moment()
            return result

        return call

    def save_requested(self) -> bool:
        return False

    def stop_requested(self) -> bool:
        self._moment()
        return self.state.step + 1 == self.stop_at

    def report(self, result: StepResult) -> None:
        self.world.results.append(result)
        self._moment()

    def save(self, state: TrainState, *, durable: bool) -> None:
        self.store.save(state, {})
        if durable:
            self.store.wait()

    def rewind(self, state: TrainState) -> None:
        self.rewinder.rewind(state, partial(self.save, durable=True))

    def evaluate(self, state: TrainState) -> bool:
        return True


def equal(one: TrainState, other: TrainState) -> bool:
    others = other.tensors()
    return all(tensor.equal(others[name]) for name, tensor in one.tensors().items())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, TrainState]:
    world = World(tmp_path_factory.mktemp("undisturbed"))
    return world, world.attempt()


def test_it_ends_as_a_run_that_never_saw_those_packs(undisturbed: tuple[World, TrainState]) -> None:
    reference = new_state(GuardConfig(enabled=False))
    for inputs, after in batches(PLAN.start(), {}):
        if after.step not in UNTRAINED:
            train_step(reference, inputs)
        reference.advance(after)
        if after.step == NUM_STEPS:
            break
    assert equal(undisturbed[1], reference)


def test_no_step_number_is_trained_twice_and_all_is_named(undisturbed: tuple[World, TrainState]) -> None:
    world, state = undisturbed
    assert [result.step for result in world.results] == list(range(1, NUM_STEPS + 1))
    skipped = {result.step: result.skipped for result in world.results if result.skipped}
    assert skipped == {2: "non_finite", 7: "spike", 9: "non_finite", 10: "non_finite"}
    first, second = [event for event in world.events if event["event"] == "rewound"]
    names = {result.step: list(result.sample_ids) for result in world.results}
    assert (first["at"], first["to"], first["samples"]) == (7, 4, {step: names[step] for step in (5, 6, 7)})
    assert (second["at"], second["to"], second["samples"]) == (10, 8, {step: names[step] for step in (9, 10)})
    assert [(rewind.at, rewind.to) for rewind in state.guard.rewinds] == [(7, 4), (10, 8)]
    assert state.guard.non_finite == [2]


def test_the_learning_rate_follows_the_step(undisturbed: tuple[World, TrainState]) -> None:
    world, state = undisturbed
    expected = [state.config.optimizer.rate(step, NUM_STEPS) for step in range(NUM_STEPS)]
    assert [result.learning_rate for result in world.results] == expected


@pytest.mark.parametrize("lose_unwaited", [False, True])
def test_a_kill_at_any_moment_changes_nothing(
    undisturbed: tuple[World, TrainState], tmp_path: Path, lose_unwaited: bool
) -> None:
    world, state = undisturbed
    results = {result.step: replace(result, seconds={}) for result in world.results}
    assert world.num_moments >= 50
    # Every second and every third moment, to save time; all fifty, both ways, were tried when this was written.
    for moment in range(1, world.num_moments + 1, 3 if lose_unwaited else 2):
        killed = World(tmp_path / str(moment))
        killed.attempt(kill_at=moment, lose_unwaited=lose_unwaited)
        resumed = killed.attempt()
        assert equal(resumed, state), moment
        assert resumed.guard.to_dict() == state.guard.to_dict(), moment
        for result in killed.results:
            assert repr(replace(result, seconds={})) == repr(results[result.step]), moment
        lasting = {name for name in world.names() if ".quarantined" not in name}
        assert lasting <= set(killed.names()), moment
        assert not list(killed.directory.glob("*.tmp")), moment


@pytest.mark.parametrize("step", range(1, NUM_STEPS))
def test_a_stop_at_any_step_changes_nothing(undisturbed: tuple[World, TrainState], tmp_path: Path, step: int) -> None:
    """A checkpoint saved for a stop (at 6, say) is nearer than 4, and is not what the guard goes back to."""
    stopped = World(tmp_path / "stopped")
    assert stopped.attempt(stop_at=step).step == step
    resumed = stopped.attempt()
    assert equal(resumed, undisturbed[1])
    assert resumed.guard.to_dict() == undisturbed[1].guard.to_dict()


def test_what_a_rewind_leaves_behind_is_set_aside_except_what_is_pinned(tmp_path: Path) -> None:
    world = World(tmp_path / "run")
    world.attempt(stop_at=5)
    set_pin(checkpoint_path(world.directory, 5), "to look at")
    world.attempt(stop_at=6)
    world.attempt(stop_at=8)
    assert [path.name for path in quarantined(world.directory)] == ["step_00000006.quarantined-1"]
    assert checkpoint_path(world.directory, 5).exists()


def test_trouble_before_the_first_checkpoint_goes_back_to_the_start(tmp_path: Path) -> None:
    burst = {2: math.nan, 3: math.nan}
    world = World(tmp_path / "run", trouble=burst)
    state = world.attempt()
    reference = new_state(GuardConfig(enabled=False))
    for inputs, after in batches(PLAN.start(), {}):
        if after.step > 3:
            train_step(reference, inputs)
        reference.advance(after)
        if after.step == NUM_STEPS:
            break
    assert equal(state, reference)
    rewound = next(event for event in world.events if event["event"] == "rewound")
    assert (rewound["at"], rewound["to"], list(rewound["samples"])) == (3, 0, [1, 2, 3])


def test_a_damaged_rewind_point_is_set_aside_and_the_one_before_used(tmp_path: Path) -> None:
    world = World(tmp_path / "run", trouble={11: 1e4})
    world.attempt(stop_at=10)
    shard = next(checkpoint_path(world.directory, 8).glob("*.distcp"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    state = world.attempt()
    assert [(rewind.at, rewind.to) for rewind in state.guard.rewinds] == [(11, 4)]
    assert [path.name for path in quarantined(world.directory)] == [
        "step_00000008.quarantined-1", "step_00000010.quarantined-1"
    ]  # fmt: skip


def test_a_spent_budget_ends_the_run_and_a_larger_one_continues_it(tmp_path: Path) -> None:
    world = World(tmp_path / "run", guard=replace(GUARD, max_rewinds=1))
    with pytest.raises(GuardError, match=r"9, 10 .*max_rewinds is 1.*at step 7 to step 4"):
        world.attempt()
    world.guard = replace(GUARD, max_rewinds=2)
    assert world.attempt().step == NUM_STEPS


def test_events_read_as_sentences(undisturbed: tuple[World, TrainState]) -> None:
    lines = [describe_guard_event(event) for event in undisturbed[0].events]
    assert "went back to step 4" in str(lines[0]) and "steps 5 to 7 and their 12 samples are not trained" in str(
        lines[0]
    )
    skipped = {"event": "step_skipped", "step": 2, "reason": "non_finite", "loss": math.nan, "grad_norm": 1.0}
    assert "step 2 changes nothing: its loss nan" in str(describe_guard_event({**skipped, "sample_ids": ["s01"]}))
    assert describe_guard_event({"event": "finished"}) is None
