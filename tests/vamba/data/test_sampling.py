"""Frame selection: the on-screen rule in exact arithmetic, and the formulas of the Vamba scripts."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vamba.data.sampling import (
    FrameSampling,
    auto_num_frames,
    fps_centered_indices,
    middle_indices,
    select_frames,
    uniform_indices,
)


def brute_force(pts: list[int], end_pts: int, time_base: Fraction, fps: Fraction, offset: Fraction) -> list[int]:
    chosen: list[int] = []
    k = 0
    while (time := (k + offset) / fps) < (end_pts - pts[0]) * time_base:
        shown = max(i for i, value in enumerate(pts) if (value - pts[0]) * time_base <= time)
        if not chosen or shown != chosen[-1]:
            chosen.append(shown)
        k += 1
    return chosen or [0]


@given(
    steps=st.lists(st.integers(1, 3000), min_size=1, max_size=40),
    start=st.integers(-5000, 5000),
    fps=st.sampled_from(["0.5", "1", "2", "29.97", "0.1"]),
    time_base=st.sampled_from([Fraction(1, 1000), Fraction(1001, 30000), Fraction(1, 90000), Fraction(1, 12800)]),
    centered=st.booleans(),
)
def test_fps_is_the_frame_on_screen(
    steps: list[int], start: int, fps: str, time_base: Fraction, centered: bool
) -> None:
    pts = [start + sum(steps[:i]) for i in range(len(steps))]
    end_pts = start + sum(steps)
    if (end_pts - start) * time_base * Fraction(fps) > 300:
        time_base = time_base / 1000
    policy = "fps_centered" if centered else "fps"
    chosen = select_frames(FrameSampling(policy=policy, fps=float(fps)), pts, end_pts, time_base)
    assert chosen == brute_force(pts, end_pts, time_base, Fraction(fps), Fraction(1, 2) if centered else Fraction(0))


def test_one_fps_of_ntsc_never_slips() -> None:
    pts = list(range(30 * 3600))
    chosen = select_frames(FrameSampling(fps=1), pts, len(pts), Fraction(1001, 30000))
    assert len(chosen) == 3604
    assert all((index * 1001) <= second * 30000 < (index + 1) * 1001 for second, index in enumerate(chosen))


def test_a_frame_that_stays_for_ages_by_a_damaged_time_costs_nothing() -> None:
    assert select_frames(FrameSampling(fps=5), [0, 1, 10**15], 10**16, Fraction(3)) == [0, 1, 2]


def test_max_frames_thins_evenly_and_keeps_the_first() -> None:
    chosen = select_frames(FrameSampling(fps=1, max_frames=4), range(100), 100, Fraction(1, 10))
    assert chosen == [0, 20, 50, 70]


def test_uniform_and_middle_store_a_frame_once() -> None:
    assert select_frames(FrameSampling(policy="middle", num_frames=8), range(5), 5, Fraction(1)) == [0, 1, 2, 3, 4]
    assert select_frames(FrameSampling(policy="uniform", num_frames=2), range(10), 10, Fraction(1)) == [2, 7]


@given(keys=st.lists(st.booleans(), min_size=1, max_size=60), most=st.none() | st.integers(1, 20))
def test_keyframes_are_all_of_them_or_evenly_thinned(keys: list[bool], most: int | None) -> None:
    sampling = FrameSampling(policy="keyframes", max_frames=most)
    chosen = select_frames(sampling, range(len(keys)), len(keys), Fraction(1, 25), is_key=keys)
    every = [index for index in range(len(keys)) if keys[index]] or [0]
    if most is None or len(every) <= most:
        assert chosen == every
        return
    assert len(chosen) == most and chosen[0] == every[0]
    places = [every.index(index) for index in chosen]
    gaps = {later - earlier for earlier, later in zip(places, [*places[1:], len(every)], strict=True)}
    assert max(gaps) - min(gaps) <= 1


@given(
    num_source=st.integers(1, 500),
    width=st.integers(28, 700),
    height=st.integers(28, 400),
    budget=st.integers(700, 120_000),
)
def test_auto_spends_the_budget_and_not_a_frame_more(num_source: int, width: int, height: int, budget: int) -> None:
    sampling = FrameSampling(policy="auto", max_patches=budget)
    chosen = select_frames(sampling, range(num_source), num_source, Fraction(1, 25), stored_size=(width, height))
    cost = (width // 14) * (height // 14) // 2
    fitting = max(count for count in range(budget // cost + 2) if count * cost <= budget)
    assert len(chosen) == min(fitting, num_source)
    edges = [index * num_source // len(chosen) for index in range(len(chosen) + 1)]
    for index, (low, high) in zip(chosen, zip(edges, edges[1:], strict=False), strict=True):
        assert abs(index - (low + high - 1) // 2) <= 1  # the middle of its span; floats may move an edge by a frame


def test_auto_at_the_size_of_the_published_training() -> None:
    assert auto_num_frames(120_000, 360, 640) == 213
    sampling = FrameSampling(policy="auto")
    chosen = select_frames(sampling, range(9000), 9000, Fraction(1, 25), stored_size=(640, 360))
    assert chosen == middle_indices(213, 9000)
    thinned = FrameSampling(policy="auto", max_frames=100)
    assert len(select_frames(thinned, range(9000), 9000, Fraction(1, 25), stored_size=(640, 360))) == 100


@pytest.mark.parametrize("size", [(13, 100), (16, 16), (640, 360)])
def test_auto_says_why_no_frame_fits(size: tuple[int, int]) -> None:
    sampling = FrameSampling(policy="auto", max_patches=100)
    with pytest.raises(ValueError, match=f"{size[0]}x{size[1]} pixels makes"):
        select_frames(sampling, range(10), 10, Fraction(1), stored_size=size)


def test_index_formulas_of_the_vamba_scripts() -> None:
    assert middle_indices(8, 37) == [1, 6, 10, 15, 20, 24, 29, 34]
    assert middle_indices(8, 5) == [0, 1, 2, 3, 4, 4, 4, 4]
    assert middle_indices(1, 10) == [4]
    assert middle_indices(7, 1000) == [70, 213, 356, 499, 642, 785, 928]
    assert middle_indices(12, 13) == list(range(12))
    assert uniform_indices(8, 37) == [2, 6, 11, 15, 20, 25, 29, 34]
    assert uniform_indices(8, 5) == [0, 1, 2, 3, 4]
    assert fps_centered_indices(1, 250, 25.0) == [12, 38, 62, 88, 112, 138, 162, 188, 212, 238]
    assert fps_centered_indices(0.5, 299, 29.97) == [30, 90, 150, 210, 270]
    assert fps_centered_indices(2, 100, 24.0, 4) == [6, 18, 30, 42]
    assert fps_centered_indices(1, 10, 30.0) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy": "keyframe"}, "policy"),
        ({"fps": 0}, "fps"),
        ({"policy": "uniform"}, "needs sampling.num_frames"),
        ({"policy": "auto", "max_patches": 0}, "max_patches is 0"),
        ({"policy": "auto", "num_frames": 8}, "num_frames is 8, but sampling.policy 'auto' does not read it"),
        ({"policy": "keyframes", "fps": 2.0}, "fps is 2.0, but .* leave it out, or choose the policy fps or"),
        ({"max_patches": 1000}, "choose the policy auto"),
        ({"max_frames": 0}, "max_frames"),
    ],
)
def test_refuses_bad_settings(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FrameSampling(**changes)  # type: ignore[arg-type]
