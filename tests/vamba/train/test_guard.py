"""Verdicts on losses, and what they leave for a run that resumes."""

from __future__ import annotations

import json
import math

import pytest

from vamba.train.config import EvaluationConfig, GuardConfig, TrainConfig
from vamba.train.guard import Guard, GuardError, Rewind

CONFIG = GuardConfig(
    max_non_finite=2, non_finite_window_steps=10, window_steps=8, min_observations=4, spike_min_rise=0.1, max_rewinds=2
)
NAN = math.nan


def judged(guard: Guard, losses: list[float], *, first_step: int = 1, media: str = "video") -> list[str | None]:
    return [
        guard.judge(step, media=media, loss=loss, grad_norm=1.0) for step, loss in enumerate(losses, start=first_step)
    ]


def wavy(count: int, *, level: float = 2.0) -> list[float]:
    """Losses that differ from their mean by 0.1: their deviation is 0.1."""
    return [level + 0.1 * (-1) ** i for i in range(count)]


def test_losses_within_six_deviations_pass() -> None:
    guard = Guard(CONFIG)
    assert judged(guard, [*wavy(8), 2.59, 2.0, 0.1]) == [None] * 11
    assert guard.due is None


def test_a_spike_makes_a_rewind_due_and_stays_out_of_the_window() -> None:
    guard = Guard(CONFIG)
    judged(guard, wavy(8))
    before = guard.to_dict()
    assert judged(guard, [2.61], first_step=9) == ["spike"]
    assert guard.due is not None and guard.due.first_step == 9 and "step 9 is 2.61" in guard.due.reason
    assert guard.to_dict() == before


def test_no_spike_before_enough_was_seen_nor_for_a_small_rise_nor_with_zero_sigma() -> None:
    assert judged(Guard(CONFIG), [2.0, 2.0, 2.0, 9.0]) == [None] * 4
    assert judged(Guard(CONFIG), [0.01] * 8 + [0.1]) == [None] * 9
    assert judged(Guard(CONFIG), [0.01] * 8 + [0.12])[-1] == "spike"
    assert judged(Guard(GuardConfig(spike_sigma=0.0)), [*wavy(200), 50.0])[-1] is None


def test_media_are_not_measured_against_each_other() -> None:
    guard = Guard(CONFIG)
    judged(guard, wavy(8, level=0.5))
    assert judged(guard, wavy(8, level=3.0), first_step=9, media="image") == [None] * 8
    assert judged(guard, [1.5], first_step=17) == ["spike"]


@pytest.mark.parametrize(("loss", "grad_norm"), [(NAN, 1.0), (math.inf, 1.0), (1.0, NAN), (1.0, math.inf)])
def test_what_is_not_finite_is_skipped(loss: float, grad_norm: float) -> None:
    guard = Guard(CONFIG)
    assert guard.judge(1, media="video", loss=loss, grad_norm=grad_norm) == "non_finite"
    assert guard.due is None


def test_too_many_of_them_in_the_window_make_a_rewind_due_from_the_first_on() -> None:
    guard = Guard(CONFIG)
    judged(guard, [NAN, 1.0, NAN, *[1.0] * 7])
    assert judged(guard, [NAN], first_step=11) == ["non_finite"]
    assert guard.due is None, "step 1 is no longer within the last ten"
    judged(guard, [NAN], first_step=12)
    assert guard.due is not None and guard.due.first_step == 3 and "3, 11, 12" in guard.due.reason


def test_a_restored_guard_judges_as_the_one_that_was_saved() -> None:
    guard = Guard(CONFIG)
    judged(guard, [*wavy(5), NAN, NAN])
    restored = Guard(CONFIG)
    restored.load(json.loads(json.dumps(guard.to_dict())))
    rest = [2.1, 9.0, NAN]
    assert judged(restored, rest, first_step=8) == judged(guard, rest, first_step=8)
    assert restored.to_dict() == guard.to_dict() and restored.due == guard.due


def test_nothing_restores_an_empty_guard() -> None:
    guard = Guard(CONFIG)
    judged(guard, wavy(8))
    guard.load({})
    assert guard.to_dict() == Guard(CONFIG).to_dict()


def test_after_a_rewind_it_is_what_it_was_then_but_remembers_the_rewind() -> None:
    guard = Guard(CONFIG)
    judged(guard, wavy(5))
    then = guard.to_dict()
    judged(guard, [NAN, 2.0, 9.0], first_step=6)
    rewind = guard.go_back(at=8, to=5, state_then=then)
    assert rewind == Rewind(at=8, to=5, reason=rewind.reason) and guard.due is None
    assert guard.to_dict() == {**then, "rewinds": [{"at": 8, "to": 5, "reason": rewind.reason}]}
    assert [step for step in range(12) if guard.is_discarded(step)] == [6, 7]


def test_trouble_right_after_a_rewind_goes_behind_what_it_went_back_to() -> None:
    guard = Guard(CONFIG)
    judged(guard, wavy(5))
    then = guard.to_dict()
    judged(guard, [9.0], first_step=6)
    guard.go_back(at=6, to=5, state_then=then)
    judged(guard, [9.0], first_step=7)
    assert guard.due is not None and guard.due.first_step == 5
    guard.go_back(at=7, to=5, state_then=then)
    judged(guard, [2.0, 9.0], first_step=8)
    assert guard.due is not None and guard.due.first_step == 9


def test_rewinds_have_a_budget() -> None:
    guard = Guard(CONFIG)
    judged(guard, wavy(5))
    then = guard.to_dict()
    for step in (6, 7):
        judged(guard, [9.0], first_step=step)
        assert guard.spend_rewind() is guard.due
        guard.go_back(at=step, to=5, state_then=then)
    judged(guard, [9.0], first_step=8)
    with pytest.raises(GuardError, match=r"step 8 is 9.*at step 6 to step 5.*larger train\.guard\.max_rewinds"):
        guard.spend_rewind()


def test_switched_off_it_watches_for_no_spike_and_never_goes_back() -> None:
    guard = Guard(GuardConfig(enabled=False, max_non_finite=0))
    assert judged(guard, [*wavy(200), 50.0])[-1] is None
    assert judged(guard, [NAN], first_step=202) == ["non_finite"]
    assert guard.due is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: GuardConfig(max_non_finite=-1),
        lambda: GuardConfig(spike_sigma=-1.0),
        lambda: GuardConfig(non_finite_window_steps=0),
        lambda: GuardConfig(min_observations=1),
        lambda: GuardConfig(window_steps=16),
        lambda: EvaluationConfig(max_packs=0),
        lambda: TrainConfig(evaluate_every_steps=-1),
        lambda: TrainConfig(evaluate_every_steps=20),
    ],
)
def test_impossible_settings_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match=r"train\."):
        make()  # type: ignore[operator]
