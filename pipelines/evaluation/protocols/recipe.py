"""What a protocol says of one benchmark, in one object: everything but the questions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pipelines.evaluation.benchmarks.question import BenchmarkQuestion


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """What of a recipe concerns the numbers alone, as a result keeps it; see `Recipe`."""

    headline: Literal["micro", "macro"] = "micro"
    macro_group: str = "category"
    macro_of: tuple[str, ...] = ()
    counts_empty: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a benchmark is asked and scored.

    protocol: its name, part of every metric's name. prompt: what the model is asked. read: the letter in a reply to a
    question with these options, "" where there is none (an unparsed answer).
    num_frames: spread evenly over the video. longest_edge, shortest_edge: of a frame, pixels; see FrameProcessing.
    headline: whether `overall` is the share of right answers (micro) or the mean of the shares of the groups (macro).
    macro_group: whose shares `macro` averages; macro_of: the groups that count there, as 0 where nothing was answered.
    counts_empty: False takes empty replies out of the denominator.
    """

    protocol: str
    prompt: Callable[[BenchmarkQuestion], str]
    read: Callable[[str, tuple[str, ...]], str]
    max_new_tokens: int
    num_frames: int
    shortest_edge: int
    longest_edge: int
    headline: Literal["micro", "macro"] = "micro"
    macro_group: str = "category"
    macro_of: tuple[str, ...] = ()
    counts_empty: bool = True

    @property
    def scoring(self) -> Scoring:
        return Scoring(
            headline=self.headline,
            macro_group=self.macro_group,
            macro_of=self.macro_of,
            counts_empty=self.counts_empty,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameRule:
    """Which frames of a benchmark's videos are shown, and how large. Edges in pixels."""

    num_frames: int
    shortest_edge: int
    longest_edge: int
