"""`vamba evaluate compare`: two evaluations of the same questions, by how much and where they differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.cli.options import AsJson
from jobs.cli.output import print_json, print_pairs, print_table
from jobs.cli.session import SESSION
from jobs.report_parts.comparison_words import interval, time_of

if TYPE_CHECKING:
    from pipelines.evaluation.comparison import Changed, EvaluationComparison, GroupDifference, Side

_EVALUATION = "Name of an evaluation, its directory or evaluation.json, models:/NAME/VERSION or models:/NAME@alias."
_QUESTION_LENGTH = 60


def compare(
    first: Annotated[str, typer.Argument(help=_EVALUATION, metavar="A", show_default=False)],
    second: Annotated[str, typer.Argument(help="The one to compare it with.", metavar="B", show_default=False)],
    confidence: Annotated[float, typer.Option(help="Of the intervals, both ends together.")] = 0.95,
    examples: Annotated[int, typer.Option(help="Wins, and losses, to list; with their frames in --html.", min=0)] = 5,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write a page with chart and frames.", metavar="FILE", dir_okay=False)
    ] = None,
    json: AsJson = False,
) -> None:
    """Compare two evaluations on the questions that both answered: B - A, with intervals by bootstrap over videos.

    A win is a question that B alone has right, a loss one that A alone has right. Evaluations of other protocols,
    questions, frames or tokens are refused. --json lists every win and loss.

    \b
    Example:
      vamba evaluate compare stage1-lvbench stage2-lvbench --html compared.html
      vamba evaluate compare models:/vamba@champion models:/vamba@challenger
    """
    from pipelines.evaluation.comparison import compare_evaluations

    found = compare_evaluations(first, second, confidence=confidence)
    if json:
        print_json(found)
    else:
        _print(found, examples)
    if html is not None:
        from jobs.report_parts.comparison_page import write_comparison

        SESSION.note(f"{write_comparison(found, html, num_examples=examples)} shows it with the frames.")


def _print(found: EvaluationComparison, num_examples: int) -> None:
    split = "" if found.split == "test" else f", split {found.split}"
    control = f", {found.control}" if found.control else ""
    print_table(
        ("group", "questions", "videos", "A", "B", "B - A", f"{found.confidence:.0%} interval", "won", "lost"),
        [_row(group) for group in (found.micro, found.macro, *found.groups)],
        title=f"{found.dataset} by {found.protocol}{split}{control}: {found.headline} is its result",
    )
    for kind, changed in (("Wins", found.wins), ("Losses", found.losses)):
        _print_changed(kind, changed, num_examples)
    overall = found.overall
    print_pairs(
        "Compared",
        {
            "A": _side(found.a),
            "B": _side(found.b),
            "pairs": f"{found.micro.num_questions} questions about {found.micro.num_videos} videos: "
            f"{found.num_both} right in both, {found.num_neither} in none, {overall.wins} won, {overall.losses} lost",
            "chance": "unknown" if found.chance is None else f"{found.chance:.1%}",
            "B - A": _verdict(found),
        },
    )


def _row(group: GroupDifference) -> tuple[object, ...]:
    return (
        group.name,
        group.num_questions,
        group.num_videos,
        f"{group.accuracy_a:.1%}",
        f"{group.accuracy_b:.1%}",
        f"{group.difference:+.1%}",
        interval(group),
        group.wins,
        group.losses,
    )


def _print_changed(kind: str, changed: Sequence[Changed], most: int) -> None:
    if not changed or not most:
        return
    rows = [
        (_short(item.asked.text if item.asked else item.question), item.video, time_of(item), item.category,
         item.prediction_a or "none", item.prediction_b or "none", item.answer)
        for item in changed[:most]
    ]  # fmt: skip
    more = f" (the first {most} of {len(changed)})" if len(changed) > most else ""
    print_table(("question", "video", "time", "category", "A said", "B said", "right"), rows, title=f"{kind}{more}")


def _side(side: Side) -> str:
    overall = "nothing answered" if side.overall is None else f"{side.overall:.1%}"
    subset = ", a subset" if side.subset else ""
    alone = f", {side.num_alone} answered by it alone" if side.num_alone else ""
    counts = f"coverage {side.coverage:.1%}{subset}, {side.num_unparsed} unparsed{alone}"
    return f"{side.name} ({side.model}): {overall}, {counts}"


def _verdict(found: EvaluationComparison) -> str:
    overall = found.overall
    if overall.low is None:
        return f"{overall.difference:+.1%}; all questions are about one video, which leaves no interval"
    said = f"{overall.better} is better" if overall.better else "no difference is shown"
    return f"{overall.difference:+.1%} ({interval(overall)} with {found.confidence:.0%} confidence): {said}"


def _short(text: str) -> str:
    """The line of a prompt that asks, as far as it can be told: the first with a question mark, else the first."""
    lines = [line.strip() for line in text.replace("<video>", "").splitlines() if line.strip()]
    asking = next((line for line in lines if "?" in line), lines[0] if lines else "")
    return asking if len(asking) <= _QUESTION_LENGTH else asking[: _QUESTION_LENGTH - 1] + "…"
