"""`vamba synthesize`: needle videos with their questions, drawn from a seed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs.cli.options import AsJson, Assignments, ConfigFile, DryRun, resolve_config
from jobs.cli.output import human_seconds, print_config, print_json, print_pairs
from jobs.cli.session import SESSION


def synthesize(
    suite: Annotated[str, typer.Argument(help="A suite recipe (needles_demo), or a YAML file.")],
    out: Annotated[Path, typer.Option(help="Folder for the videos and annotations.jsonl.")],
    config: ConfigFile = None,
    set_: Assignments = None,
    json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Write a needle suite: H.264 videos with sound and cuts in which a few cards are hidden, and questions about them.

    \b
    Example:
      vamba synthesize needles_demo --out videos
    """
    from pipelines.evaluation.synthetic.plan import SuiteConfig, plan_suite
    from pipelines.evaluation.synthetic.suite import write_suite

    resolved = resolve_config(SuiteConfig, recipe=suite, file=config, assignments=set_, arguments={})
    if dry_run:
        print_config(resolved)
        plans = plan_suite(resolved)
        counts = {"videos": len(plans), "questions": sum(len(plan.questions) for plan in plans)}
        print_pairs("Plan", {**counts, "length": human_seconds(sum(plan.duration_s for plan in plans))})
        return

    def progress(done: int, total: int, video_s: float) -> None:
        SESSION.progress(
            f"synthesize: {done} of {total} videos, {human_seconds(video_s)} of video", final=done == total
        )

    summary = write_suite(resolved, out, progress)
    if json:
        print_json(summary)
        return
    print_pairs(
        "Already there" if summary.reused else "Synthesized",
        {
            "videos": f"{summary.num_videos} in {summary.directory}",
            "length": human_seconds(summary.video_s),
            "questions": f"{summary.num_questions} in {summary.annotations}",
        },
    )
