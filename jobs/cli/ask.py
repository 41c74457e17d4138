"""`vamba ask`: questions about one video file, or about what a model has seen before."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.cli.options import AsJson, Assignments, ConfigFile, DryRun, resolve_config
from jobs.cli.output import human_seconds, print_config, print_json, print_pairs
from jobs.cli.progress_bar import ProgressBar
from jobs.cli.session import SESSION

if TYPE_CHECKING:
    from pipelines.evaluation.ask import AskConfig, AskReply, Step

_MEMORY_SUFFIX = ".safetensors"
_LONG_MB = 100


Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="VIDEO QUESTION...",
        help="A video file (none with --memory), then the questions; options may stand on lines of their own.",
        show_default=False,
    ),
]
Questions = Annotated[
    Path | None,
    typer.Option(help="A text file of more questions, apart by empty lines.", metavar="FILE", show_default=False),
]
Save = Annotated[str | None, typer.Option(help="Write what was seen to this file, to ask again.", metavar="FILE")]
Memory = Annotated[str | None, typer.Option(help="Ask what was saved earlier, in place of VIDEO.", metavar="FILE")]
Extend = Annotated[str | None, typer.Option(help="VIDEO is what follows this saved memory.", metavar="FILE")]
Place = Annotated[
    str | None, typer.Option(help="Where what was seen lies: auto, device, host or disk.", metavar="PLACE")
]


def ask(
    model: Annotated[str, typer.Option(help="Directory, run, models:/NAME/VERSION or models:/NAME@alias.")],
    words: Words = None,
    questions: Questions = None,
    save: Save = None,
    memory: Memory = None,
    extend: Extend = None,
    why: Annotated[
        str | None,
        typer.Option(help="Draw what the answers looked at, with the frames at the peaks.", metavar="FILE.png"),
    ] = None,
    kv: Place = None,
    config: ConfigFile = None,
    set_: Assignments = None,
    json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Answer questions about a video of any length, reading one frame a second (--set sampling.fps=2 for two).

    The video is encoded once for all questions. Answers are printed on stdout, how long it took on stderr.

    \b
    Example:
      vamba ask talk.mp4 "What is written on the board?" --model models:/vamba@champion
      vamba ask talk.mp4 "Who speaks?" "Where?" --save talk.safetensors --model models:/vamba@champion
      vamba ask talk.mp4 "Who speaks?" --why looked.png --model models:/vamba@champion
      vamba ask --memory talk.safetensors "And who listens?" --model models:/vamba@champion
    """
    from pipelines.evaluation.ask import AskConfig, read_questions
    from pipelines.evaluation.ask import ask as run_ask

    given = list(words or ())
    _check_memory(memory, extend, given)
    video = given.pop(0) if given and not memory else None
    if video is not None and video.endswith(_MEMORY_SUFFIX) and not extend:
        memory, video = video, None
    arguments = {
        "video": video,
        "questions": [*given, *(read_questions(questions) if questions else ())],
        "model": model,
        "memory": memory or extend,
        "save": save,
        "why": why,
        "kv": kv,
    }
    resolved = resolve_config(AskConfig, recipe=None, file=config, assignments=set_, arguments=arguments)
    if dry_run:
        print_config(resolved)
        _print_plan(resolved)
        return
    SESSION.note(f"reading {resolved.video or resolved.memory} …")
    reply = run_ask(resolved, Bars())
    SESSION.end_progress()
    if json:
        print_json(reply)
    else:
        _print_answers(reply)


class Bars:
    """A line of progress for each step that takes long, from the end of the one before. Files of a few MB take no time
    and have none."""

    def __init__(self) -> None:
        self._last_s = time.monotonic()
        self._step, self._bar = "", ProgressBar("", "", self._last_s)

    def __call__(self, step: Step, done: int, total: int) -> None:
        if step != "ask":
            done, total = done // 10**6, total // 10**6
            if total < _LONG_MB:
                return
        if step != self._step:
            SESSION.end_progress()
            self._step, self._bar = step, ProgressBar(step, "frames" if step == "ask" else "MB", self._last_s)
        SESSION.progress(self._bar.line(done, total))
        self._last_s = time.monotonic()


def _check_memory(memory: str | None, extend: str | None, words: list[str]) -> None:
    if memory and extend:
        raise ValueError("--memory asks a saved memory, --extend goes on with one: give one of the two.")
    if memory and words and Path(words[0]).expanduser().is_file():
        raise ValueError(
            f"--memory is asked without a video, and {words[0]} is a file: to go on with it, use --extend."
        )


def _print_plan(config: AskConfig) -> None:
    from pipelines.evaluation.ask import plan_ask

    if config.memory:
        from vamba.streaming.saved_memory import notes_of

        print_pairs("Memory", {"file": config.memory, **notes_of(Path(config.memory).expanduser())})
    if config.video:
        planned = plan_ask(config)
        print_pairs(
            "Plan",
            {
                "video": f"{planned.duration_ns / 1e9:.1f} s, {planned.codec}",
                "frames": f"{len(planned.timestamps_ns)} of {planned.width}x{planned.height} pixels",
                "segments": len(planned.segments),
            },
        )


def _print_answers(reply: AskReply) -> None:
    if len(reply.answers) == 1:
        print(reply.text)
    else:
        for answered in reply.answers:
            print(f"{answered.question.strip()}\n  {answered.text}")
    SESSION.note(
        f"{reply.duration_s:.0f} s of video, {reply.num_frames} frames, {reply.num_video_tokens} video tokens "
        f"({reply.placement}): waited {human_seconds(reply.decode_s)} for frames, encoded in "
        f"{human_seconds(reply.encode_s)}, answered in {reply.answer_s:.2f} s by {reply.model}; {reply.backends}"
    )
    if reply.why:
        SESSION.note(f"what was looked at: {reply.why}")
    if reply.saved:
        SESSION.note(f"saved to {reply.saved}: ask again with --memory {reply.saved}")
