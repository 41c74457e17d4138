"""Frame selection: the on-screen rule in exact arithmetic, and the formulas of the Vamba scripts."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vamba.data.sampling import (
    FrameSampling,
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


def test_max_frames_thins_evenly_and_keeps_the_first() -> None:
    chosen = select_frames(FrameSampling(fps=1, max_frames=4), range(100), 100, Fraction(1, 10))
    assert chosen == [0, 20, 50, 70]


def test_uniform_and_middle_store_a_frame_once() -> None:
    assert select_frames(FrameSampling(policy="middle", num_frames=8), range(5), 5, Fraction(1)) == [0, 1, 2, 3, 4]
    assert select_frames(FrameSampling(policy="uniform", num_frames=2), range(10), 10, Fraction(1)) == [2, 7]


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
        ({"policy": "uniform"}, "num_frames"),
        ({"max_frames": 0}, "max_frames"),
    ],
)
def test_refuses_bad_settings(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FrameSampling(**changes)  # type: ignore[arg-type]
