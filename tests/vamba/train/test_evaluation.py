"""An evaluation measures the model as it is, and leaves no trace."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from tests.vamba.train.test_step import Classifier, inputs_of, state_of
from vamba.data.reader import StepInput
from vamba.train.evaluation import Requests, evaluate
from vamba.train.step import train_step

NOTHING_ASKED = Requests(stop=lambda: False, save=lambda: False, do_save=lambda: None)


def rounds() -> list[StepInput]:
    return [inputs_of(4, 7, seed=20), inputs_of(2, seed=30), inputs_of(3, 3, seed=40, counts=False)]


def test_it_is_the_mean_over_the_tokens_that_count() -> None:
    state = state_of(Classifier())
    result = evaluate(state, rounds(), NOTHING_ASKED)
    counted = [micro.batch for inputs in rounds() for micro in inputs.micro_batches if micro.counts]
    with torch.no_grad():
        sums = [state.model.loss(batch) for batch in counted]
    assert result is not None
    assert (result.step, result.num_loss_tokens, result.num_samples) == (0, 16, 6)
    assert result.loss == pytest.approx(sum(float(total) for total, _ in sums) / 16, rel=1e-6)


def test_training_goes_on_as_if_it_had_not_been() -> None:
    evaluated, plain = state_of(Classifier(), learning_rate=0.1), state_of(Classifier(), learning_rate=0.1)
    modes = []

    def watched() -> Iterator[StepInput]:
        for inputs in rounds():
            modes.append(evaluated.model.training)
            yield inputs

    torch.manual_seed(5)
    assert evaluate(evaluated, watched(), NOTHING_ASKED) is not None
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert drawn.equal(torch.rand(3))
    assert modes == [False, False, False] and evaluated.model.training
    assert all(parameter.grad is None for parameter in evaluated.model.parameters())
    results = [train_step(state, inputs_of(4, seed=1)) for state in (evaluated, plain)]
    assert (results[0].loss, results[0].grad_norm) == (results[1].loss, results[1].grad_norm)
    others = plain.tensors()
    assert all(tensor.equal(others[name]) for name, tensor in evaluated.tensors().items())


def test_a_stop_is_obeyed_within_a_round_and_leaves_no_result() -> None:
    state, asked = state_of(Classifier()), []

    def stop() -> bool:
        asked.append(True)
        return len(asked) == 2

    assert evaluate(state, rounds(), replace(NOTHING_ASKED, stop=stop)) is None
    assert len(asked) == 2 and state.model.training


def test_a_save_is_made_at_once_and_the_evaluation_goes_on() -> None:
    asked = iter([False, True, False])
    read: list[int] = []
    saved_after: list[int] = []

    def counted() -> Iterator[StepInput]:
        for number, inputs in enumerate(rounds()):
            read.append(number)
            yield inputs

    requests = replace(NOTHING_ASKED, save=lambda: next(asked), do_save=lambda: saved_after.append(len(read)))
    state = state_of(Classifier())
    result = evaluate(state, counted(), requests)
    assert saved_after == [2]
    assert result == replace(evaluate(state, rounds(), NOTHING_ASKED), seconds=result.seconds)  # type: ignore[type-var]


def test_without_a_labelled_token_there_is_no_loss() -> None:
    result = evaluate(state_of(Classifier()), [inputs_of(0)], NOTHING_ASKED)
    assert result is not None and math.isnan(result.loss)
