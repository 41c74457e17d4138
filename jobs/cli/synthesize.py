"""`vamba synthesize`: long videos with questions about what is hidden in them, drawn from a seed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.cli.options import AsJson, Assignments, ConfigFile, DryRun, resolve_config
from jobs.cli.output import human_seconds, print_config, print_json, print_pairs
from jobs.cli.session import SESSION

if TYPE_CHECKING:
    from pipelines.evaluation.synthetic.suite import SuiteSummary
    from pipelines.evaluation.synthetic.video_plan import VideoPlan


def synthesize(
    suite: Annotated[str, typer.Argument(help="A suite recipe (needles_demo, vniah, vniah_small), or a YAML file.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the videos and annotations.jsonl.")] = None,
    config: ConfigFile = None,
    set_: Assignments = None,
    json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Write a suite: H.264 videos with sound and cuts in which a few cards are hidden, and questions about them.

    A suite with `lengths_s` is a grid: needles by length and depth, and questions about order, number and the last one.

    \b
    Example:
      vamba synthesize needles_demo --out videos
      vamba synthesize vniah --dry-run
    """
    from jobs.config import recipe_layer
    from pipelines.evaluation.synthetic.grid import GridConfig
    from pipelines.evaluation.synthetic.plan import SuiteConfig
    from pipelines.evaluation.synthetic.suite import write_suite

    kind = GridConfig if "lengths_s" in recipe_layer(suite).tree else SuiteConfig
    resolved = resolve_config(kind, recipe=suite, file=config, assignments=set_, arguments={})
    if dry_run:
        print_config(resolved)
        _print_plan(resolved.plan())
        return

    if out is None:
        raise ValueError("--out is missing: name the folder for the videos (--dry-run alone needs none).")

    progress = _Progress(sum(plan.duration_s for plan in resolved.plan()))
    summary = write_suite(resolved, out, progress.show)
    if json:
        print_json(summary)
        return
    print_pairs(
        "Already there" if summary.reused else "Synthesized",
        {
            "videos": f"{summary.num_videos} in {summary.directory}" + _kept(summary),
            "length": human_seconds(summary.video_s),
            "questions": f"{summary.num_questions} in {summary.annotations}",
        },
    )


class _Progress:
    """Says how far the drawing is, and how long it will still take at the rate so far."""

    def __init__(self, total_s: float) -> None:
        self._total_s, self._first_s, self._started_s = total_s, 0.0, 0.0

    def show(self, done: int, total: int, video_s: float) -> None:
        now = time.monotonic()
        if not self._started_s:
            self._first_s, self._started_s = video_s, now
        drawn_s = video_s - self._first_s
        left_s = (now - self._started_s) * (self._total_s - video_s) / drawn_s if drawn_s else 0
        SESSION.progress(
            f"synthesize: {done} of {total} videos, {human_seconds(video_s)} of {human_seconds(self._total_s)} of video"
            + (f", about {human_seconds(left_s)} left" if left_s else ""),
            final=done == total,
        )


def _kept(summary: SuiteSummary) -> str:
    return f" ({summary.num_kept} were there from before)" if summary.num_kept and not summary.reused else ""


def _print_plan(plans: Sequence[VideoPlan]) -> None:
    from pipelines.evaluation.questions import count_options
    from pipelines.evaluation.synthetic.video_plan import CELL

    questions = [question for plan in plans for question in plan.questions]
    chance = sum(1 / count_options(question.text) for question in questions) / len(questions) if questions else 0
    kinds = Counter(question.category for question in questions)
    lengths = sorted(plan.duration_s for plan in plans)
    cells = Counter(question.groups[CELL] for question in questions if CELL in question.groups)
    print_pairs(
        "Plan",
        {
            "videos": f"{len(plans)} of {human_seconds(lengths[0])} to {human_seconds(lengths[-1])}",
            "length": human_seconds(sum(lengths)),
            "questions": f"{len(questions)} ({', '.join(f'{number} {kind}' for kind, number in kinds.items())})",
            "chance": f"{chance:.1%}",
            **(
                {"cells": f"{len(cells)} of length and depth, {_from_to(cells.values())} questions each"}
                if cells
                else {}
            ),
        },
    )


def _from_to(numbers: Collection[int]) -> str:
    least, most = min(numbers), max(numbers)
    return str(least) if least == most else f"{least} to {most}"
