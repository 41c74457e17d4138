"""One HTML file that tells what the jobs made: it opens from disk, asks nothing of the network and needs no server.

    ReportInputs (names of runs, dataset, evaluations, version) ──facts──> sections ──> report.html, written atomically

Whatever is not given is left out. Pictures are embedded, charts are inline SVG, and the page follows the reader's
light or dark setting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jobs.cli.output import human_seconds
from jobs.report_parts import page as html
from jobs.report_parts.contact_sheet import contact_sheet
from jobs.report_parts.facts import (
    DataFacts,
    RunFacts,
    data_facts,
    evaluation_facts,
    promotion_facts,
    run_facts,
)
from jobs.report_parts.run_history import run_history
from jobs.report_parts.timing import StepTiming
from pipelines.evaluation.result import EvaluationResult

_DECIDED = {
    "promoted": "promoted through the gate",
    "forced": "promoted by force, although checks failed",
    "rolled back": "gone back to",
    "refused": "refused by the gate",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportInputs:
    """What goes into a report.

    out: the file to write. runs: names or directories, in the order they were trained. data: URI of the dataset.
    evaluations: names or paths of results; the newest one and the newest control are shown. promoted:
    models:/NAME@alias or
    models:/NAME/VERSION. video: sample shown as contact sheet, the longest one by default.
    """

    out: Path
    title: str = "Vamba run report"
    runs: tuple[str, ...] = ()
    data: str = ""
    evaluations: tuple[str, ...] = ()
    promoted: str = ""
    video: str = ""
    num_thumbnails: int = 24
    steps: tuple[StepTiming, ...] = ()


def build_report(inputs: ReportInputs) -> Path:
    """Write the report and return its path. Raises ValueError for a run, evaluation or sample that does not exist."""
    from pipelines.storage import open_storage

    runs = [run_facts(name) for name in inputs.runs]
    data = data_facts(inputs.data) if inputs.data else None
    result, control = evaluation_facts(inputs.evaluations)
    decision = promotion_facts(inputs.promoted) if inputs.promoted else {}
    sheet = (
        contact_sheet(inputs.data, video=inputs.video, num_thumbnails=inputs.num_thumbnails) if inputs.data else None
    )
    introduction = html.data_text(data) if data else f"{len(runs)} runs"
    document = html.page(
        inputs.title,
        introduction,
        "".join(_tiles(runs, data, result, control, decision)),
        [
            html.evaluation_section(result, control),
            html.training_section(runs),
            html.history_section([run_history(run.directory) for run in runs]),
            html.sheet_section(sheet),
            html.lineage_section(data, runs, result, decision),
            html.failures_section(data),
            html.steps_section(inputs.steps),
        ],
        f"Written {datetime.now(UTC).strftime('%Y-%m-%d %H:%M UTC')}.",
    )
    out = inputs.out.absolute()
    open_storage(out.parent).write_atomic(out.name, document.encode())
    return out


def _tiles(
    runs: Sequence[RunFacts],
    data: DataFacts | None,
    result: EvaluationResult | None,
    control: EvaluationResult | None,
    decision: Mapping[str, Any],
) -> list[str]:
    tiles = []
    if result is not None and result.by_length:
        label, longest = list(result.by_length.items())[-1]
        chance = "" if result.chance is None else f", chance {result.chance:.0%}"
        text = f"correct on {longest.num_questions} questions, videos {label}{chance}"
        tiles.append(html.tile(f"{longest.accuracy:.1%}", text, good=True))
    if control is not None and control.overall is not None:
        tiles.append(
            html.tile(f"{control.overall.accuracy:.1%}", "with the videos shuffled: without looking, no score")
        )
    resumes = sum(len(run.resumes) for run in runs)
    if runs and resumes:
        difference = max(run.max_difference for run in runs)
        replayed = sum(len(run.replayed) for run in runs)
        text = f"interruptions survived; largest |Δ loss| of the {replayed} steps trained again: {difference:g}"
        tiles.append(html.tile(str(resumes), text, good=difference == 0))
    elif runs:
        tiles.append(html.tile(f"{sum(len(run.losses) for run in runs):,}", "training steps"))
    if data is not None:
        failed = (
            f", {len(data.failures)} broken file listed"
            if len(data.failures) == 1
            else f", {len(data.failures)} broken files listed"
        )
        text = f"of video ingested, the longest {human_seconds(data.longest_s)}{failed if data.failures else ''}"
        tiles.append(html.tile(human_seconds(data.duration_s), text))
    if decision:
        tiles.append(html.tile(f"{decision['model']}/{decision['version']}", _DECIDED[decision["decision"]]))
    return tiles
