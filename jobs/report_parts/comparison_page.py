"""Two evaluations beside each other as one HTML file: the chart of differences, the table, wins and losses with frames.

    EvaluationComparison ──frames of a few wins and losses──> sections ──> FILE, written atomically

Everything is inside the file; text that comes from benchmarks and models is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.report_parts.comparison_words import interval, time_of
from jobs.report_parts.contact_sheet import clock, thumbnail
from jobs.report_parts.difference_chart import difference_chart
from jobs.report_parts.page import page, section, table, tile

if TYPE_CHECKING:
    from pipelines.evaluation.comparison import Changed, EvaluationComparison, GroupDifference, Side
    from pipelines.evaluation.seen_frames import FrameViewer

_NUM_FRAMES = 8
"""Of a strip."""
_LONGEST_SAID = 600


def write_comparison(found: EvaluationComparison, out: Path, *, num_examples: int) -> Path:
    """Write the page and return its path. num_examples: wins, and losses, that are shown with their frames."""
    from pipelines.evaluation.seen_frames import FrameViewer
    from pipelines.storage import open_storage

    viewer = FrameViewer(_NUM_FRAMES)
    document = page(
        f"{found.a.name} and {found.b.name}",
        _introduction(found),
        "".join(_tiles(found)),
        [
            _groups_section(found),
            _sides_section(found),
            _examples_section("Wins", "that B alone has right", found.wins, num_examples, viewer),
            _examples_section("Losses", "that A alone has right", found.losses, num_examples, viewer),
        ],
        f"Written {datetime.now(UTC).strftime('%Y-%m-%d %H:%M UTC')}.",
    )
    out = out.expanduser().absolute()
    open_storage(out.parent).write_atomic(out.name, document.encode())
    return out


def _introduction(found: EvaluationComparison) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in found.settings.items())
    split = "" if found.split == "test" else f", split {found.split}"
    control = f", {found.control}" if found.control else ""
    return (
        f"{found.dataset}{split}{control} by protocol {found.protocol}, the same questions asked of both"
        f"{f' ({settings})' if settings else ''}. A is {found.a.model}, B is {found.b.model}."
    )


def _tiles(found: EvaluationComparison) -> list[str]:
    overall = found.overall
    if overall.low is None:
        said = "B - A; all questions are about one video, which leaves no interval"
    else:
        verdict = f"{overall.better} is better" if overall.better else "no difference is shown"
        said = f"B - A, {interval(overall)} with {found.confidence:.0%} confidence: {verdict}"
    micro = found.micro
    chance = "" if found.chance is None else f", chance {found.chance:.0%}"
    return [
        tile(f"{overall.difference:+.1%}", said, good=overall.better == "B"),
        tile(f"{overall.accuracy_a:.1%} → {overall.accuracy_b:.1%}", f"{found.headline}, A and B{chance}"),
        tile(f"{micro.num_questions:,}", f"questions that both answered, about {micro.num_videos:,} videos"),
        tile(
            f"{micro.wins} : {micro.losses}",
            f"won and lost; {found.num_both} right in both, {found.num_neither} in none",
        ),
    ]


def _groups_section(found: EvaluationComparison) -> str:
    groups = [found.micro, found.macro, *found.groups]
    introduction = (
        f"Whiskers: {found.confidence:.0%} intervals by bootstrap over videos, since questions about one video are "
        "right or wrong together. Of many groups, some differ by chance alone."
    )
    header = ("group", "questions", "videos", "A", "B", "B - A", "interval", "won", "lost")
    return section("Differences", introduction, difference_chart(groups) + table(header, [_row(one) for one in groups]))


def _row(group: GroupDifference) -> tuple[object, ...]:
    return (
        group.name, group.num_questions, group.num_videos, f"{group.accuracy_a:.1%}", f"{group.accuracy_b:.1%}",
        f"{group.difference:+.1%}", interval(group), group.wins, group.losses,
    )  # fmt: skip


def _sides_section(found: EvaluationComparison) -> str:
    header = ("", "evaluation", "model", "its own result", "coverage", "unparsed", "answered by it alone", "files")
    return section("The two evaluations", "", table(header, [_side("A", found.a), _side("B", found.b)]))


def _side(label: str, side: Side) -> tuple[object, ...]:
    overall = "none" if side.overall is None else f"{side.overall:.1%}"
    coverage = f"{side.coverage:.1%}{' (a subset)' if side.subset else ''}"
    return (label, side.name, side.model, overall, coverage, side.num_unparsed, side.num_alone, side.directory)


def _examples_section(title: str, what: str, changed: Sequence[Changed], most: int, viewer: FrameViewer) -> str:
    shown = changed[:most]
    introduction = f"{len(changed)} question{'' if len(changed) == 1 else 's'} {what}" + (
        f"; the first {most} are shown." if len(shown) < len(changed) else "."
    )
    return section(title, introduction, "".join(_example(item, viewer) for item in shown))


def _example(item: Changed, viewer: FrameViewer) -> str:
    text = item.asked.text.replace("<video>", "").strip() if item.asked else item.question
    said = table(
        ("", "letter", "said"),
        [
            ("A", item.prediction_a or "none", _short(item.raw_a)),
            ("B", item.prediction_b or "none", _short(item.raw_b)),
            ("right", item.answer, ""),
        ],
    )
    place = " · ".join(filter(None, (item.video, time_of(item), item.category, item.question)))
    return f"<h3>{escape(place)}</h3><pre>{escape(text)}</pre>{_strip(item, viewer)}{said}"


def _strip(item: Changed, viewer: FrameViewer) -> str:
    if item.asked is None:
        return "<p>The evaluation did not record which frames were shown.</p>"
    seen = viewer.frames_of(item.asked)
    if seen.problem:
        return f"<p>No frames: {escape(seen.problem)}</p>"
    other = "" if item.asked.shown in (item.video, "") else f" of {item.asked.shown}"
    figures = "".join(
        f'<figure><img src="{thumbnail(frame.pixels)}" alt="frame at {clock(frame.time_s)}">'
        f"<figcaption>{clock(frame.time_s)}</figcaption></figure>"
        for frame in seen.frames
    )
    count = f"{len(seen.frames)} of the {seen.num_frames:,} frames{other} that were shown"
    return f'<p>{escape(count)}</p><div class="sheet">{figures}</div>'


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_SAID else text[: _LONGEST_SAID - 1] + "…"
