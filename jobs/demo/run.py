"""The demo's script: generate → ingest → stage 1 → stage 2 with two kills → evaluate → promote → ask → report.

Every step is a `vamba` command, printed before it runs; what is timed is the command as a user would wait for it. All
that the demo makes lies below one directory, its own VAMBA_HOME included, so it touches nothing else.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from jobs.cli.output import human_bytes, human_seconds, print_table
from jobs.demo import outcome
from jobs.demo.chaos import train_through_kills
from jobs.demo.processes import MemoryWatch, show, start
from jobs.report_parts.timing import StepTiming

MODEL = "vamba-demo"
CHAMPION = f"models:/{MODEL}@champion"
STAGE1, STAGE2 = "demo-stage1", "demo-stage2"
TEST, CONTROL = "demo-test", "demo-shuffled"


class DemoFailedError(RuntimeError):
    """A command of the demo did not do its work."""


@dataclass(slots=True)
class Demo:
    """Where the demo works, and what it has done so far."""

    out: Path
    steps: list[StepTiming] = field(default_factory=list)

    @property
    def videos(self) -> Path:
        return self.out / "videos"

    @property
    def data(self) -> str:
        return str(self.out / "dataset")

    @property
    def home(self) -> Path:
        return self.out / "home"

    @property
    def env(self) -> dict[str, str]:
        return {"VAMBA_HOME": str(self.home.absolute()), "MLFLOW_TRACKING_URI": "", "PYTHONUNBUFFERED": "1"}

    def run(self, *words: str) -> float:
        """Show a command, run it, return its seconds. Raises DemoFailedError when it exits with anything but 0."""
        show(words)
        began = time.monotonic()
        code = start(words, self.env).wait()
        if code:
            raise DemoFailedError(f"`vamba {words[0]}` ended with exit code {code}; what it said stands above.")
        return time.monotonic() - began

    def done(self, name: str, made: str, where: str | Path, seconds: float) -> None:
        self.steps.append(StepTiming(name=name, made=made, where=str(where), seconds=seconds))


def run_demo(out: Path, own_videos: Sequence[Path]) -> None:
    """Run the whole job below `out`. Videos from an earlier demo are used again; everything else is made anew."""
    demo = Demo(out)
    for made_anew in (demo.home, out / "dataset"):
        shutil.rmtree(made_anew, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with MemoryWatch() as memory:
        _make_videos(demo)
        _ingest(demo, own_videos)
        _train(demo)
        _evaluate(demo)
        _promote_and_ask(demo)
        report = _report(demo)
    rows = [(step.name, step.made, step.where, human_seconds(step.seconds)) for step in demo.steps]
    print()
    print_table(("step", "made", "where", "took"), rows, title="The demo")
    print(f"Whole demo: {human_seconds(time.monotonic() - began)}, peak memory {human_bytes(memory.peak_bytes)}.")
    print(f"Open {report.absolute()} in a browser.")


def _make_videos(demo: Demo) -> None:
    seconds = demo.run("synthesize", "needles_demo", "--out", str(demo.videos))
    outcome.write_corrupt_copy(demo.videos / "train")
    demo.done("synthesize", outcome.describe_videos(demo.videos), demo.videos, seconds)


def _ingest(demo: Demo, own_videos: Sequence[Path]) -> None:
    listing = str(demo.videos / "annotations.jsonl")
    sources = [str(demo.videos), *map(str, own_videos)]
    seconds = demo.run("ingest", *sources, "--conversations", listing, "--out", demo.data)
    demo.done("ingest", outcome.describe_dataset(demo.data), demo.data, seconds)


def _train(demo: Demo) -> None:
    runs = demo.home / "runs"
    seconds = demo.run("train", "tiny_pretrain", "--data", demo.data, "--name", STAGE1)
    demo.done("train, stage 1", outcome.describe_run(runs / STAGE1), runs / STAGE1, seconds)
    command = ("train", "tiny_instruct", "--data", demo.data, "--name", STAGE2, "--init-from", STAGE1)
    began = time.monotonic()
    code = train_through_kills(command, demo.env, runs / STAGE2)
    if code:
        raise DemoFailedError(f"stage 2 ended with exit code {code}; what it said stands above.")
    demo.done("train, stage 2", outcome.describe_run(runs / STAGE2), runs / STAGE2, time.monotonic() - began)


def _evaluate(demo: Demo) -> None:
    common = ("evaluate", "--model", STAGE2, "--data", demo.data)
    seconds = demo.run(*common, "--name", TEST)
    results = demo.home / "evaluations"
    demo.done("evaluate", outcome.describe_evaluation(results / TEST), results / TEST, seconds)
    seconds = demo.run(*common, "--name", CONTROL, "--control", "shuffled-video")
    demo.done("control", outcome.describe_evaluation(results / CONTROL), results / CONTROL, seconds)


def _promote_and_ask(demo: Demo) -> None:
    seconds = demo.run(
        "promote", STAGE2, "--as", MODEL, "--to", "champion", "--gates", "gates_demo",
        "--evaluation", TEST, "--evaluation", CONTROL,
    )  # fmt: skip
    demo.done("promote", f"{MODEL}, alias champion", CHAMPION, seconds)
    question, answer = outcome.a_question_about(demo.videos / "annotations.jsonl", "test/hour.mp4")
    seconds = demo.run("ask", str(demo.videos / "test" / "hour.mp4"), question, "--model", CHAMPION)
    demo.done("ask", f"an answer about an hour of video (right: {answer})", demo.videos / "test" / "hour.mp4", seconds)


def _report(demo: Demo) -> Path:
    path, timings = demo.out / "report.html", demo.out / "steps.json"
    timings.write_text(json.dumps([asdict(step) for step in demo.steps], indent=1))
    seconds = demo.run(
        "report", "--run", STAGE1, "--run", STAGE2, "--data", demo.data, "--evaluation", TEST, "--evaluation", CONTROL,
        "--promoted", CHAMPION, "--steps", str(timings), "--title", "Vamba demo", "--out", str(path),
    )  # fmt: skip
    demo.done("report", "report.html", path, seconds)
    return path
