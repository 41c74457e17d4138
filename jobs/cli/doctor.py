"""`vamba doctor`: what is there, what is not, and what to do about it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs.cli.errors import FAILED
from jobs.cli.options import AsJson
from jobs.cli.output import print_json, print_table


def doctor(
    ffmpeg: Annotated[Path | None, typer.Option(help="ffmpeg to use instead of the one that comes along.")] = None,
    json: AsJson = False,
) -> None:
    """Check python, torch, CUDA, kernels, ffmpeg, decoding, Ray, MLflow, storage and git.

    Ends with 0 unless something that every job needs is broken.

    \b
    Example:
      vamba doctor --json
    """
    import os

    from jobs.doctor import examine

    if ffmpeg is not None:
        os.environ["VAMBA_FFMPEG"] = str(ffmpeg)
    findings = examine()
    if json:
        print_json(findings)
    else:
        rows = [(finding.state, finding.name, finding.found, finding.remedy) for finding in findings]
        print_table(("", "what", "found", "what to do"), rows)
    if any(finding.state == "BROKEN" for finding in findings):
        raise typer.Exit(FAILED)
