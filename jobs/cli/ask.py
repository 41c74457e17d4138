"""`vamba ask`: one question about one video file."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.cli.options import AsJson, Assignments, ConfigFile, DryRun, resolve_config
from jobs.cli.output import print_config, print_json, print_pairs
from jobs.cli.session import SESSION


def ask(
    video: Annotated[str, typer.Argument(help="A video file.")],
    question: Annotated[str, typer.Argument(help="The question; options may stand on lines of their own.")],
    model: Annotated[str, typer.Option(help="Directory, run, models:/NAME/VERSION or models:/NAME@alias.")],
    config: ConfigFile = None,
    set_: Assignments = None,
    json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Answer a question about a video of any length, reading one frame a second (--set sampling.fps=2 for two).

    The answer is printed on stdout, how long it took on stderr.

    \b
    Example:
      vamba ask talk.mp4 "What is written on the board?" --model models:/vamba@champion
    """
    from pipelines.evaluation.ask import AskConfig, plan_ask
    from pipelines.evaluation.ask import ask as run_ask

    arguments = {"video": video, "question": question, "model": model}
    resolved = resolve_config(AskConfig, recipe=None, file=config, assignments=set_, arguments=arguments)
    if dry_run:
        planned = plan_ask(resolved)
        print_config(resolved)
        print_pairs(
            "Plan",
            {
                "video": f"{planned.duration_ns / 1e9:.1f} s, {planned.codec}",
                "frames": f"{len(planned.timestamps_ns)} of {planned.width}x{planned.height} pixels",
                "segments": len(planned.segments),
            },
        )
        return
    SESSION.note(f"reading {video} …")
    reply = run_ask(resolved, lambda done, total: SESSION.progress(f"ask: {done}/{total} segments decoded"))
    SESSION.end_progress()
    if json:
        print_json(reply)
        return
    print(reply.text)
    SESSION.note(
        f"{reply.duration_s:.0f} s of video, {reply.num_frames} frames, {reply.num_video_tokens} video tokens: "
        "decoded in "
        f"{reply.decode_s:.1f} s, encoded in {reply.encode_s:.1f} s, answered in {reply.answer_s:.2f} s by "
        f"{reply.model}; {reply.backends}"
    )
