"""One process: the step against torch's own tools, and the loop around it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import nn

from vamba.data.plan import PlanState
from vamba.data.reader import MicroBatch, StepInput
from vamba.train.config import GuardConfig, OptimizerConfig, TrainConfig
from vamba.train.guard import Guard
from vamba.train.loop import fit
from vamba.train.state import TrainState
from vamba.train.step import NonFiniteError, StepResult, train_step


class FakeBatch:
    """Stands for a Batch: features, classes, and the counts that the step reports."""

    processing = None  # its features are what the model takes

    def __init__(self, seed: int, num_rows: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(num_rows, 5, generator=generator)
        self.y = torch.randint(0, 3, (num_rows,), generator=generator)
        self.num_text_tokens, self.num_video_tokens = num_rows, 2 * num_rows


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hidden, self.norm, self.out = nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 3)
        self.alpha = nn.Parameter(torch.tensor(0.999))

    def loss(self, batch: FakeBatch) -> tuple[torch.Tensor, int]:
        logits = self.out(self.norm(self.hidden(batch.x))) * (1 + self.alpha)
        return nn.functional.cross_entropy(logits, batch.y, reduction="sum"), len(batch.y)

    @torch.no_grad()
    def constrain_(self) -> None:
        self.alpha.clamp_(0, 1)


START = PlanState(step=0, epoch=0, epoch_step=0, seed=0, fingerprint="f")


def inputs_of(*sizes: int, seed: int = 0, counts: bool = True) -> StepInput:
    micro = tuple(
        MicroBatch(batch=FakeBatch(seed + i, size), pack_index=i, counts=counts or i == 0)  # type: ignore[arg-type]
        for i, size in enumerate(sizes)
    )
    return StepInput(micro_batches=micro, sample_ids=("a", "b"), epoch=0, media="video")


def state_of(model: Classifier, *, num_steps: int = 10, every: int = 3, **optimizer: float) -> TrainState:
    config = TrainConfig(checkpoint_every_steps=every, optimizer=OptimizerConfig(**optimizer))  # type: ignore[arg-type]
    return TrainState(model, config, num_steps=num_steps, reader_state=START)


def test_step_equals_torch_adamw_on_the_mean_loss() -> None:
    settings = {"learning_rate": 0.01, "warmup_ratio": 0.0, "weight_decay": 0.1, "clip_norm": 0.05}
    model, reference = Classifier(), Classifier()
    state = state_of(model, **settings)
    matrices = [reference.hidden.weight, reference.out.weight]
    rest = [p for p in reference.parameters() if not any(p is m for m in matrices)]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    for step in range(5):
        inputs = inputs_of(4, 7, seed=10 * step)
        result = train_step(state, inputs)
        state.advance(replace(state.reader_state, step=step + 1))
        batches = [FakeBatch(10 * step, 4), FakeBatch(10 * step + 1, 7)]
        losses = [reference.loss(batch)[0] for batch in batches]
        optimizer.zero_grad()
        loss = torch.stack(losses).sum() / 11
        loss.backward()
        norm = nn.utils.clip_grad_norm_(reference.parameters(), 0.05)
        for group in optimizer.param_groups:
            group["lr"] = state.config.optimizer.rate(step, 10)
        optimizer.step()
        reference.constrain_()
        assert result.loss == pytest.approx(loss.item(), rel=1e-6)
        assert result.grad_norm == pytest.approx(norm.item(), rel=1e-5)
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_accumulation_does_not_change_the_step() -> None:
    one, many = Classifier(), Classifier()
    whole = inputs_of(4, 7, 2)
    joined = FakeBatch(0, 0)
    parts = [micro.batch for micro in whole.micro_batches]
    joined.x = torch.cat([part.x for part in parts])  # type: ignore[attr-defined]
    joined.y = torch.cat([part.y for part in parts])  # type: ignore[attr-defined]
    single = replace(whole, micro_batches=(MicroBatch(batch=joined, pack_index=0, counts=True),))  # type: ignore[arg-type]
    a = train_step(state_of(one, learning_rate=0.01), single)
    b = train_step(state_of(many, learning_rate=0.01), whole)
    assert a.loss == pytest.approx(b.loss, rel=1e-6)
    for left, right in zip(one.parameters(), many.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-7)


def test_a_pack_that_does_not_count_changes_nothing() -> None:
    alone, padded = Classifier(), Classifier()
    a = train_step(state_of(alone, learning_rate=0.01), inputs_of(4))
    b = train_step(state_of(padded, learning_rate=0.01), inputs_of(4, 4, counts=False))
    assert (a.loss, a.num_loss_tokens, a.num_video_tokens) == (b.loss, b.num_loss_tokens, b.num_video_tokens)
    for left, right in zip(alone.parameters(), padded.parameters(), strict=True):
        assert left.equal(right)


def test_unreadable_samples_are_in_the_result() -> None:
    inputs = replace(inputs_of(4), unreadable=("b",))
    result = train_step(state_of(Classifier(), learning_rate=0.01), inputs)
    assert (result.sample_ids, result.unreadable) == (("a", "b"), ("b",))


def test_a_step_without_a_readable_sample_changes_nothing() -> None:
    model = Classifier()
    before = [p.clone() for p in model.parameters()]
    nothing = replace(inputs_of(4), unreadable=("a", "b"))
    micro = (replace(nothing.micro_batches[0], counts=False),)
    result = train_step(state_of(model, learning_rate=0.1, weight_decay=0.1), replace(nothing, micro_batches=micro))
    assert (result.loss, result.num_loss_tokens, result.unreadable) == (0.0, 0, ("a", "b"))
    assert all(p.equal(q) for p, q in zip(model.parameters(), before, strict=True))


def test_frozen_parameters_have_no_state_and_do_not_move() -> None:
    model = Classifier()
    model.hidden.requires_grad_(False)
    before = model.hidden.weight.clone()
    state = state_of(model, learning_rate=0.1)
    train_step(state, inputs_of(4))
    assert model.hidden.weight.equal(before)
    assert not any("hidden" in name for name in state.optimizer.state_tensors())


def test_constraint_holds_after_the_step() -> None:
    model = Classifier()
    state = state_of(model, learning_rate=0.5, warmup_ratio=0.0)
    for _ in range(3):
        train_step(state, inputs_of(8))
    assert 0.0 <= model.alpha.item() <= 1.0


def poisoned(inputs: StepInput) -> StepInput:
    inputs.micro_batches[0].batch.x[0, 0] = float("nan")  # type: ignore[attr-defined]
    return inputs


def test_a_non_finite_loss_changes_neither_parameters_nor_optimizer() -> None:
    disturbed, calm = state_of(Classifier(), learning_rate=0.1), state_of(Classifier(), learning_rate=0.1)
    result = train_step(disturbed, poisoned(inputs_of(4)))
    assert result.skipped == "non_finite" and math.isnan(result.loss)
    assert disturbed.guard.non_finite == [1] and disturbed.guard.due is None
    for state in (disturbed, calm):
        assert train_step(state, inputs_of(4, seed=3)).skipped is None
    others = calm.tensors()
    assert all(tensor.equal(others[name]) for name, tensor in disturbed.tensors().items())


def test_without_guards_a_non_finite_loss_ends_the_run() -> None:
    model = Classifier()
    state = state_of(model)
    state.config = replace(state.config, guard=GuardConfig(enabled=False))
    state.guard = Guard(state.config.guard)
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(NonFiniteError, match="a, b"):
        train_step(state, poisoned(inputs_of(4)))
    assert all(p.equal(q) for p, q in zip(model.parameters(), before, strict=True))


class RecordingRun:
    def __init__(self, stop_before_step: int | None = None, save_with_step: int | None = None) -> None:
        self.save_with_step = save_with_step
        self.log: list[tuple[str, int]] = []
        self.stop_before_step = stop_before_step
        self.stop_in_evaluation = False
        self.asked = 0

    def save_requested(self) -> bool:
        return self.asked == self.save_with_step

    def stop_requested(self) -> bool:
        self.asked += 1
        return self.asked == self.stop_before_step

    def report(self, result: StepResult) -> None:
        assert set(result.seconds) == {"data", "compute", "reduce", "update"}
        self.log.append(("report", result.step))

    def save(self, state: TrainState, *, durable: bool) -> None:
        self.log.append(("save durably" if durable else "save", state.step))

    def rewind(self, state: TrainState) -> None:
        raise AssertionError("no trouble here")

    def evaluate(self, state: TrainState) -> bool:
        self.log.append(("evaluate", state.step))
        return not self.stop_in_evaluation


def endless() -> Iterator[tuple[StepInput, PlanState]]:
    step = 0
    while True:
        step += 1
        yield inputs_of(4, seed=step), replace(START, step=step)


def test_fit_reports_before_it_saves_and_saves_at_the_end() -> None:
    run = RecordingRun()
    assert fit(state_of(Classifier(), num_steps=4), endless(), run)
    assert run.log == [("report", 1), ("report", 2), ("report", 3), ("save", 3), ("report", 4), ("save durably", 4)]


def test_fit_saves_after_the_step_before_which_it_was_asked_to() -> None:
    run = RecordingRun(save_with_step=2)
    assert fit(state_of(Classifier(), num_steps=4), endless(), run)
    assert [entry for entry in run.log if "save" in entry[0]] == [("save", 2), ("save", 3), ("save durably", 4)]


def without_data_at(step: int) -> Iterator[tuple[StepInput, PlanState]]:
    for inputs, state in endless():
        if state.step == step:
            yield replace(inputs, abandoned=True), replace(START, step=step - 1)
        yield inputs, state


def test_a_step_abandoned_to_save_is_trained_when_its_data_come() -> None:
    undisturbed, abandoning = state_of(Classifier(), num_steps=4), state_of(Classifier(), num_steps=4)
    fit(undisturbed, endless(), RecordingRun())
    run = RecordingRun()
    assert fit(abandoning, without_data_at(3), run)
    assert run.log == [("report", 1), ("report", 2), ("save", 2), ("report", 3), ("save", 3), ("report", 4),
                       ("save durably", 4)]  # fmt: skip
    assert all(p.equal(q) for p, q in zip(undisturbed.model.parameters(), abandoning.model.parameters(), strict=True))


def test_a_step_abandoned_to_stop_saves_and_stops() -> None:
    run = RecordingRun(stop_before_step=3)
    assert not fit(state_of(Classifier(), num_steps=9), without_data_at(3), run)
    assert run.log == [("report", 1), ("report", 2), ("save durably", 2)]


def test_fit_saves_and_returns_when_asked_to_stop() -> None:
    run = RecordingRun(stop_before_step=2)
    assert not fit(state_of(Classifier(), num_steps=9), endless(), run)
    assert run.log == [("report", 1), ("report", 2), ("save durably", 2)]


def evaluating(num_steps: int, *, at_step: int = 0) -> TrainState:
    state = state_of(Classifier(), num_steps=num_steps, every=2)
    state.config = replace(state.config, evaluate_every_steps=2)
    state.reader_state = replace(START, step=at_step)
    return state


def test_fit_evaluates_what_it_has_saved() -> None:
    run = RecordingRun()
    assert fit(evaluating(3), endless(), run)
    assert run.log == [
        ("report", 1), ("report", 2), ("save", 2), ("evaluate", 2), ("report", 3), ("save durably", 3)
    ]  # fmt: skip


def test_a_stop_in_an_evaluation_saves_and_the_evaluation_comes_first_afterwards() -> None:
    run = RecordingRun()
    run.stop_in_evaluation = True
    assert not fit(evaluating(9), endless(), run)
    assert run.log[-2:] == [("evaluate", 2), ("save durably", 2)]
    resumed = RecordingRun()
    assert fit(evaluating(2, at_step=2), endless(), resumed)
    assert resumed.log == [("evaluate", 2)]
