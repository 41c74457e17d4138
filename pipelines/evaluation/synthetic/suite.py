"""Writes a suite to a folder: ``annotations.jsonl`` (LLaVA rows), videos and, last of all, ``suite.json``.

A folder whose ``suite.json`` carries the digest of the same config is complete and is used as it stands. While videos are
drawn, ``.drawing`` carries it: the same config continues after an interruption, another one removes what was drawn.
"""  # noqa: E501

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

from pipelines.child_processes import end_with_parent
from pipelines.evaluation.synthetic.haystack import Haystack
from pipelines.evaluation.synthetic.render import remove_partial, render, render_tone
from pipelines.evaluation.synthetic.video_plan import VideoPlan
from pipelines.storage import open_storage

ANNOTATIONS = "annotations.jsonl"
COMPLETE = "suite.json"
DRAWING = ".drawing"
FORMAT = 2

Progress = Callable[[int, int, float], None]
"""Called with videos done, videos in all, and seconds of video done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteSummary:
    """What stands in the folder."""

    directory: Path
    annotations: Path
    num_videos: int
    num_questions: int
    video_s: int
    num_kept: int
    """Videos that were there already."""
    reused: bool
    """True when the folder held the complete suite already."""


def suite_digest(config: Haystack) -> str:
    """Digest of all that decides the suite's content."""
    text = json.dumps({"format": FORMAT, **asdict(config)}, sort_keys=True)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def write_suite(
    config: Haystack, directory: Path, progress: Progress = lambda *_: None, num_processes: int = 0
) -> SuiteSummary:
    """Draw and encode every video of the suite under ``directory``/train and ``directory``/test.

    Args:
        num_processes: encoders side by side; 0 means one per core.

    Raises:
        ValueError: there is an ``annotations.jsonl`` in the folder that no suite wrote.
        RuntimeError: ffmpeg failed.
    """
    plans = config.plan()
    digest = suite_digest(config)
    kept = plans
    reused = _digest_in(directory / COMPLETE) == digest
    if not reused:
        if _digest_in(directory / DRAWING) != digest:
            _begin(plans, directory, digest)
        remove_partial(directory)
        kept = [plan for plan in plans if video_path(plan, directory).exists()]
        _render(config, plans, kept, directory, progress, num_processes or os.cpu_count() or 1)
        _mark(directory, COMPLETE, {"digest": digest, "config": asdict(config)})
        (directory / DRAWING).unlink()
    return SuiteSummary(
        directory=directory,
        annotations=directory / ANNOTATIONS,
        num_videos=len(plans),
        num_questions=sum(len(plan.questions) for plan in plans),
        video_s=sum(plan.duration_s for plan in plans),
        num_kept=len(kept),
        reused=reused,
    )


def video_path(plan: VideoPlan, directory: Path) -> Path:
    """Where a video of the suite in ``directory`` lies."""
    return directory / plan.split / f"{plan.name}.mp4"


def annotation_rows(plan: VideoPlan) -> list[dict[str, object]]:
    """One LLaVA row per question of a video; the path is relative to the annotations file."""
    return [
        {
            "id": question.id,
            "video": f"{plan.split}/{plan.name}.mp4",
            "split": plan.split,
            "category": question.category,
            **({} if question.depth is None else {"depth": round(question.depth, 4)}),
            **({"groups": dict(question.groups)} if question.groups else {}),
            "conversations": [
                {"from": "human", "value": f"<video>\n{question.text}"},
                {"from": "gpt", "value": question.answer},
            ],
        }
        for question in plan.questions
    ]


def _digest_in(path: Path) -> str | None:
    return str(json.loads(path.read_text())["digest"]) if path.exists() else None


def _begin(plans: list[VideoPlan], directory: Path, digest: str) -> None:
    """Remove the suite that was drawn here before, and write down what will be. May be interrupted anywhere."""
    listing = directory / ANNOTATIONS
    former = []
    if listing.exists():
        if not any((directory / mark).exists() for mark in (COMPLETE, DRAWING)):
            raise ValueError(f"{listing} was not written by a suite and would be lost: name another folder with --out.")
        former = [directory / json.loads(line)["video"] for line in listing.read_text().splitlines()]
    _mark(directory, DRAWING, {"digest": ""})
    (directory / COMPLETE).unlink(missing_ok=True)
    for path in [*former, *(video_path(plan, directory) for plan in plans)]:
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.dumps(row) for plan in plans for row in annotation_rows(plan)]
    open_storage(str(directory)).write_atomic(ANNOTATIONS, ("\n".join(rows) + "\n").encode())
    _mark(directory, DRAWING, {"digest": digest})


def _mark(directory: Path, name: str, content: dict[str, object]) -> None:
    open_storage(str(directory)).write_atomic(name, (json.dumps(content, indent=1) + "\n").encode())


def _render(
    config: Haystack,
    plans: list[VideoPlan],
    kept: list[VideoPlan],
    directory: Path,
    progress: Progress,
    num_processes: int,
) -> None:
    # Longest first, so that the last encoder to finish is not the one with the hour.
    order = sorted((plan for plan in plans if plan not in kept), key=lambda plan: -plan.duration_s)
    done_s = sum(plan.duration_s for plan in kept)
    progress(len(kept), len(plans), done_s)
    tone = render_tone(directory / ".tone.m4a")
    with ProcessPoolExecutor(num_processes, mp_context=get_context("spawn"), initializer=end_with_parent) as pool:
        try:
            jobs = {pool.submit(render, plan, config, video_path(plan, directory), tone): plan for plan in order}
            for number, job in enumerate(as_completed(jobs), start=len(kept) + 1):
                job.result()
                done_s += jobs[job].duration_s
                progress(number, len(plans), done_s)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    tone.unlink()
