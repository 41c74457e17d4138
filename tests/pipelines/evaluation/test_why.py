"""Peaks of attention over time, and the picture of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.evaluation.why import clock, looked, peaks, write_picture

TIMES = [2.0 * i for i in range(50)]


def weights(**high: float) -> list[float]:
    """An even look but for the pairs named (`p7=5.0`: five times as much before all are made to add up to 1)."""
    found = np.ones(len(TIMES))
    for name, value in high.items():
        found[int(name[1:])] = value
    return list(found / found.sum())


def test_peaks_are_the_highest_moments_apart_in_time() -> None:
    found = peaks(TIMES, weights(p10=9.0, p11=8.0, p40=5.0, p25=3.0), most=3)
    assert [peak.pair for peak in found] == [10, 25, 40]  # 11 is a part of 10's
    assert [peak.time_s for peak in found] == [20.0, 50.0, 80.0]
    assert [peak.pair for peak in peaks(TIMES, weights(p10=9.0, p40=5.0, p25=3.0), most=2)] == [10, 40]


def test_what_is_no_more_than_an_even_look_is_no_peak_but_one_there_is() -> None:
    assert [peak.pair for peak in peaks(TIMES, weights(p30=20.0))] == [30]
    assert len(peaks(TIMES, [1 / 50] * 50)) == 1
    assert len(peaks([0.0], [1.0])) == 1


def test_the_picture_has_a_band_for_each_answer(tmp_path: Path) -> None:
    first = looked("What is it?\nA. a cat", "A", TIMES, weights(p10=9.0, p40=5.0))
    second = looked("And then?", "nothing " * 40, TIMES, weights(p3=2.0))
    frames = {10: np.full((36, 64, 3), 200, np.uint8)}
    write_picture([looked("Is it $5 or $\\frac$?", "$5", TIMES, weights())], frames, tmp_path / "one.png")
    write_picture([first], frames, tmp_path / "one.png")
    write_picture([first, second], frames, tmp_path / "two.png")
    one, two = (Image.open(tmp_path / name).size for name in ("one.png", "two.png"))
    assert one[0] == two[0] and two[1] == 2 * one[1]


@pytest.mark.filterwarnings("error")
def test_words_that_the_font_lacks_are_drawn_without_a_word_on_the_terminal(tmp_path: Path) -> None:
    answer = looked("谁在说话？", "\x7f 🎬", TIMES, weights(p5=3.0))
    write_picture([answer], {}, tmp_path / "why.png")
    assert (tmp_path / "why.png").is_file()


def test_a_name_that_is_no_picture_is_refused(tmp_path: Path) -> None:
    one = looked("What is it?", "A", TIMES, weights())
    with pytest.raises(ValueError, match=r"must end in one of \.png, \.svg, \.pdf"):
        write_picture([one], {}, tmp_path / "why.txt")
    with pytest.raises(ValueError, match="its directory does not exist"):
        write_picture([one], {}, tmp_path / "nowhere" / "why.png")


def test_times_are_written_as_people_read_them() -> None:
    assert [clock(seconds) for seconds in (7, 61.4, 3599.6, 3661)] == ["0:07", "1:01", "1:00:00", "1:01:01"]
