"""`vamba report`: one self-contained HTML file about runs, data, evaluations and a promoted version."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("report.html"),
    run: Annotated[list[str] | None, typer.Option(help="Run to show, in training order. Repeatable.")] = None,
    data: Annotated[str, typer.Option(help="Dataset to describe, with frames of its longest video.")] = "",
    evaluation: Annotated[
        list[str] | None, typer.Option(help="Evaluation, or its shuffled-video control. Repeatable.")
    ] = None,
    promoted: Annotated[str, typer.Option(help="Version whose promotion is shown: models:/NAME@alias.")] = "",
    video: Annotated[str, typer.Option(help="Sample shown as contact sheet instead of the longest.")] = "",
    steps: Annotated[
        Path | None, typer.Option(help='JSON list of {"name", "made", "where", "seconds"}.', metavar="FILE")
    ] = None,
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "Vamba run report",
) -> None:
    """Write a report that opens from disk, without a server or a network.

    \b
    Example:
      vamba report --run stage1 --run stage2 --data data/demo --out report.html
    """
    from jobs.report import ReportInputs, build_report
    from jobs.report_parts.timing import read_steps

    path = build_report(
        ReportInputs(
            out=out,
            title=title,
            runs=tuple(run or ()),
            data=data,
            evaluations=tuple(evaluation or ()),
            promoted=promoted,
            video=video,
            steps=read_steps(steps) if steps else (),
        )
    )
    print(path)
