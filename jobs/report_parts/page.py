"""The report's sections as HTML. Text that comes from files is escaped; nothing refers to anything outside the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.cli.output import human_bytes, human_seconds
from jobs.report_parts.charts import Bar, accuracy_chart, loss_chart
from jobs.report_parts.contact_sheet import ContactSheet, clock
from jobs.report_parts.facts import DataFacts, RunFacts
from jobs.report_parts.panels import history_content
from jobs.report_parts.run_history import RunHistory

if TYPE_CHECKING:
    from jobs.report_parts.timing import StepTiming
    from pipelines.evaluation.result import EvaluationResult

_LINEAGE_ROWS = (
    ("manifest_digest", "dataset manifest"),
    ("config_digest", "configuration"),
    ("git_commit", "git commit"),
    ("git_dirty", "uncommitted changes"),
    ("run", "run"),
    ("mlflow_run_id", "MLflow run"),
    ("parent_run", "stage 1 run"),
    ("model_digest", "model files"),
    ("environment_digest", "installed packages"),
)


def page(title: str, introduction: str, tiles: str, sections: Sequence[str], footer: str) -> str:
    """The whole document."""
    body = "".join(section for section in sections if section)
    style = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body><main>"
        f"<header><h1>{escape(title)}</h1><p>{escape(introduction)}</p></header>"
        f'<div class="tiles">{tiles}</div>{body}'
        f"<footer>{escape(footer)}</footer></main></body></html>\n"
    )


def tile(value: str, text: str, *, good: bool = False) -> str:
    """A headline number."""
    kind = "tile good" if good else "tile"
    return f'<div class="{kind}"><b>{escape(value)}</b><span>{escape(text)}</span></div>'


def training_section(runs: Sequence[RunFacts]) -> str:
    """Loss curves, the run with the most resumes first in words."""
    if not runs:
        return ""
    parts = []
    for run in runs:
        parts.append(f"<h3>{escape(run.name)}{f' ({escape(run.recipe)})' if run.recipe else ''}</h3>{loss_chart(run)}")
        if run.resumes:
            exact = "bit-identical" if run.max_difference == 0 else f"largest difference {run.max_difference:.3g}"
            parts.append(
                f"<p>Resumed {len(run.resumes)} times; {len(run.replayed)} steps were trained again from the "
                f"checkpoint, their losses {exact}.</p>"
            )
    legend = (
        '<div class="legend"><span><i class="i-curve"></i>running mean</span>'
        '<span><i class="i-raw"></i>every step</span>'
        '<span><i class="i-ring"></i>first computation of a step that was trained again</span>'
        '<span><i class="i-band"></i>steps after the checkpoint, trained again</span></div>'
    )
    return section("Training", "The loss of every step, across all attempts of each run.", "".join(parts) + legend)


def history_section(histories: Sequence[RunHistory]) -> str:
    """What each run measured of itself, and what happened to it."""
    told = [f"<h3>{escape(h.name)}</h3>{history_content(h)}" for h in histories if h.panels or h.attempts]
    if not told:
        return ""
    introduction = "Measured at every step; dashed lines are where an attempt began. Of repeated steps, the last time."
    return section("Inside the training", introduction, "".join(told))


def evaluation_section(result: EvaluationResult | None, control: EvaluationResult | None) -> str:
    """Accuracy by video length over the control, and the table by category."""
    if result is None:
        return ""
    controls = control.by_length if control else {}
    bars = [
        Bar(
            label=label,
            value=numbers.accuracy,
            stderr=numbers.stderr,
            note=f"{numbers.num_correct} of {numbers.num_questions}"
            + (f", shuffled {controls[label].accuracy:.0%}" if label in controls else ""),
            control=controls[label].accuracy if label in controls else None,
        )
        for label, numbers in result.by_length.items()
    ]
    legend = (
        '<div class="legend"><span><i class="i-curve"></i>question about its own video</span>'
        '<span><i class="i-control"></i>control: the same questions about another video</span></div>'
    )
    introduction = (
        f"Protocol {result.protocol}, dataset {result.dataset}, split {result.split}: multiple choice, each "
        "video encoded once. "
        f"Coverage {result.coverage:.0%} of {result.num_questions} questions. Whiskers are standard errors "
        "clustered by video, where there is more than one video."
    )
    rows = [
        (
            name,
            f"{numbers.accuracy:.1%}",
            "" if numbers.stderr is None else f"{numbers.stderr:.1%}",
            numbers.num_questions,
            numbers.num_videos,
            numbers.num_unparsed,
        )
        for name, numbers in result.groups().items()
    ]
    numbers_table = table(("group", "accuracy", "std. error", "questions", "videos", "unparsed"), rows)
    broken = ""
    if result.broken:
        broken = table(("video not evaluated", "reason"), [(video.source_uri, video.reason) for video in result.broken])
    return section(
        "Evaluation by video length",
        introduction,
        accuracy_chart(bars, result.chance) + legend + numbers_table + broken,
    )


def sheet_section(sheet: ContactSheet | None) -> str:
    """What the model was shown of the longest video."""
    if sheet is None:
        return ""
    figures = "".join(
        f'<figure><img src="{item.data_uri}" alt="frame at {item.time}"><figcaption>{item.time}</figcaption></figure>'
        for item in sheet.thumbnails
    )
    introduction = (
        f"{sheet.video}: {clock(sheet.duration_s)}, {sheet.num_frames:,} frames stored. Of each of "
        f"{len(sheet.thumbnails)} equal spans, the frame that differs most from the video's median."
    )
    return section("The longest video, as sampled", introduction, f'<div class="sheet">{figures}</div>')


def lineage_section(
    data: DataFacts | None, runs: Sequence[RunFacts], result: EvaluationResult | None, decision: Mapping[str, Any]
) -> str:
    """From the dataset to the promoted version, and the checks of the gate."""
    boxes = []
    if data is not None:
        boxes.append(_box("dataset", Path(data.uri).name, _short(data.digest)))
    boxes += [_box("run", run.name, _short(run.lineage.get("config_digest", ""))) for run in runs]
    if result is not None and result.overall is not None:
        boxes.append(_box("evaluation", f"{result.overall.accuracy:.1%}", f"{result.overall.num_questions} questions"))
    if decision:
        promoted = decision["decision"] == "promoted"
        name = f"{decision['model']}/{decision['version']}"
        boxes.append(_box(decision["decision"], name, f"@{decision['alias']}", last=promoted))
    if not boxes:
        return ""
    content = f'<div class="flow">{"<em>→</em>".join(boxes)}</div>'
    lineage = decision.get("lineage") or (runs[-1].lineage if runs else {})
    rows = [(label, lineage[key]) for key, label in _LINEAGE_ROWS if lineage.get(key)]
    content += table(("", ""), rows, code=True)
    if decision:
        checks = [
            (_verdict(check["passed"]), check["name"], check["found"], check["required"])
            for check in decision["checks"]
        ]
        content += f"<h3>Gate for {escape(decision['alias'])}, {escape(decision['decided_at'])}</h3>"
        content += table(("", "check", "found", "required"), checks, raw_first=True)
    return section("Lineage and promotion", "Where the promoted version came from, by digest.", content)


def failures_section(data: DataFacts | None) -> str:
    """What could not be ingested."""
    if data is None:
        return ""
    introduction = "Files that could not be ingested, each with its reason. Everything else is complete."
    if not data.failures:
        return section("Failures", "Every file was ingested.", "")
    rows = [(Path(row.source_uri).name, row.stage, row.error_class, row.message) for row in data.failures]
    return section("Failures", introduction, table(("file", "stage", "class", "reason"), rows))


def steps_section(steps: Sequence[StepTiming]) -> str:
    """What was made, where, and how long it took."""
    if not steps:
        return ""
    total = sum(step.seconds for step in steps)
    rows: list[tuple[object, ...]] = [(step.name, step.made, step.where, human_seconds(step.seconds)) for step in steps]
    rows.append(("all", "", "", human_seconds(total)))
    return section("What was made, and where", "", table(("step", "made", "where", "took"), rows))


def data_text(data: DataFacts) -> str:
    """The dataset in a sentence."""
    return (
        f"{data.num_samples} videos, {human_seconds(data.duration_s)} in {data.num_shards} shards "
        f"({human_bytes(data.size_bytes)}), {data.num_frames:,} frames"
    )


def section(title: str, introduction: str, content: str) -> str:
    """A box with a heading. content: HTML."""
    text = f"<p>{escape(introduction)}</p>" if introduction else ""
    return f"<section><h2>{escape(title)}</h2>{text}{content}</section>"


def _box(kind: str, name: str, detail: str, *, last: bool = False) -> str:
    mark = ' class="last"' if last else ""
    return f"<div{mark}><small>{escape(kind)}</small><strong>{escape(name)}</strong><code>{escape(detail)}</code></div>"


def table(
    header: Sequence[str], rows: Sequence[Sequence[object]], *, code: bool = False, raw_first: bool = False
) -> str:
    """Rows of text, escaped. code: all but the first column as code. raw_first: the first column is HTML."""
    if not rows:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in header) if any(header) else ""
    body = []
    for row in rows:
        cells = []
        for index, value in enumerate(row):
            text = str(value) if raw_first and index == 0 else escape(str(value))
            cells.append(f"<td><code>{text}</code></td>" if code and index else f"<td>{text}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    header_row = f"<tr>{head}</tr>" if head else ""
    return f'<div class="scroll"><table>{header_row}{"".join(body)}</table></div>'


def _verdict(passed: bool) -> str:
    return '<span class="pass">pass</span>' if passed else '<span class="fail">fail</span>'


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]
