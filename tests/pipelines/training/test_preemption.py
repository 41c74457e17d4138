"""When a preemption notice asks for checkpoints."""

from __future__ import annotations

from pipelines.training.preemption import PreemptionNotice, PreemptionSaves


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def saved_at(deadline: float | None, *, grace_s: float = 30.0, step_s: float = 2.0, save_s: float = 4.0) -> list[float]:
    """Seconds after the notice at which the saves of a run begin that goes on until the machine is taken."""
    clock = Clock()
    notice = PreemptionNotice(deadline=None if deadline is None else clock.now + deadline)
    saves = PreemptionSaves(lambda: notice, grace_s=grace_s, clock=clock)
    saves.step_took(step_s)
    saves.save_took(save_s)
    begun = []
    while clock.now < 1000.0 + (grace_s if deadline is None else deadline):
        saves.new_notice()
        due = saves.save_due()
        clock.now += step_s
        if due:
            begun.append(clock.now - 1000.0)
            saves.saved()
    return begun


def test_the_last_save_is_the_last_step() -> None:
    clock = Clock()
    saves = PreemptionSaves(lambda: PreemptionNotice(deadline=1060.0), grace_s=30.0, clock=clock)
    assert not saves.leave_due()
    saves.step_took(2.0)
    saves.save_took(4.0)
    saves.new_notice()
    steps = []
    while clock.now < 1060.0 and not (steps and steps[-1][2]):
        steps.append((clock.now, saves.save_due(), saves.leave_due()))
        clock.now += 2.0
        if steps[-1][1]:
            saves.saved()
    assert [(save, leave) for _, save, leave in steps if save or leave] == [(True, False), (True, True)]
    assert 1060.0 - 12.0 <= clock.now <= 1060.0 - 6.0, "enough time to save, and not much more"


def test_nobody_leaves_after_a_deadline_that_took_nothing() -> None:
    clock = Clock()
    saves = PreemptionSaves(lambda: PreemptionNotice(deadline=1010.0), grace_s=30.0, clock=clock)
    saves.new_notice()
    clock.now = 1011.0
    assert not saves.leave_due()


def test_no_notice_asks_for_nothing() -> None:
    saves = PreemptionSaves(lambda: None, grace_s=30.0)
    assert saves.new_notice() is None and not saves.save_due()


def test_at_once_and_after_the_last_step_that_leaves_time() -> None:
    first, last = saved_at(60.0)
    assert first == 2.0
    assert 60.0 - 2 * 2.0 - 1.5 * 4.0 - 2.0 <= last <= 60.0 - 1.5 * 4.0


def test_a_notice_without_a_deadline_is_given_the_grace() -> None:
    first, last = saved_at(None, grace_s=40.0)
    assert first == 2.0 and 40.0 - 12.0 <= last <= 40.0 - 6.0


def test_where_time_is_short_once_is_all() -> None:
    assert saved_at(10.0) == [2.0]


def test_steps_longer_than_the_notice_are_saved_once() -> None:
    assert saved_at(60.0, step_s=45.0) == [45.0]


def test_a_notice_is_new_once_and_another_deadline_is_a_new_one() -> None:
    clock, notices = Clock(), [PreemptionNotice(deadline=1100.0)]
    saves = PreemptionSaves(lambda: notices[-1], grace_s=30.0, clock=clock)
    assert saves.new_notice() == notices[0] and saves.new_notice() is None
    saves.saved()
    assert not saves.save_due()
    notices.append(PreemptionNotice(deadline=1200.0))
    assert saves.new_notice() == notices[1] and saves.save_due()


def test_after_the_deadline_the_run_goes_on_as_ever() -> None:
    clock = Clock()
    saves = PreemptionSaves(lambda: PreemptionNotice(deadline=1010.0), grace_s=30.0, clock=clock)
    saves.new_notice()
    clock.now = 1011.0
    assert not saves.save_due()
