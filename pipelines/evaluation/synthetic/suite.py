"""Writes a suite to a folder: videos, ``annotations.jsonl`` (LLaVA rows) and, last of all, ``suite.json``.

A folder whose ``suite.json`` carries the digest of the same config is complete and is used as it stands.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

from pipelines.evaluation.synthetic.haystack import Haystack
from pipelines.evaluation.synthetic.render import render, render_tone
from pipelines.evaluation.synthetic.video_plan import VideoPlan

ANNOTATIONS = "annotations.jsonl"
COMPLETE = "suite.json"
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
    """
    plans = config.plan()
    digest = suite_digest(config)
    reused = _complete_digest(directory) == digest
    if not reused:
        (directory / COMPLETE).unlink(missing_ok=True)
        _render_all(config, plans, directory, progress, num_processes or os.cpu_count() or 1)
        rows = [json.dumps(row) for plan in plans for row in annotation_rows(plan)]
        (directory / ANNOTATIONS).write_text("\n".join(rows) + "\n")
        (directory / COMPLETE).write_text(json.dumps({"digest": digest, "config": asdict(config)}, indent=1) + "\n")
    return SuiteSummary(
        directory=directory,
        annotations=directory / ANNOTATIONS,
        num_videos=len(plans),
        num_questions=sum(len(plan.questions) for plan in plans),
        video_s=sum(plan.duration_s for plan in plans),
        reused=reused,
    )


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


def _complete_digest(directory: Path) -> str | None:
    path = directory / COMPLETE
    return json.loads(path.read_text())["digest"] if path.exists() else None


def _render_all(
    config: Haystack, plans: list[VideoPlan], directory: Path, progress: Progress, num_processes: int
) -> None:
    for split in {plan.split for plan in plans}:
        (directory / split).mkdir(parents=True, exist_ok=True)
    tone = render_tone(directory / ".tone.m4a")
    done_s = 0.0
    # Longest first, so that the last encoder to finish is not the one with the hour.
    order = sorted(plans, key=lambda plan: -plan.duration_s)
    with ProcessPoolExecutor(num_processes, mp_context=get_context("spawn")) as pool:
        jobs = {
            pool.submit(render, plan, config, directory / plan.split / f"{plan.name}.mp4", tone): plan for plan in order
        }
        for number, job in enumerate(as_completed(jobs), start=1):
            job.result()
            done_s += jobs[job].duration_s
            progress(number, len(plans), done_s)
    tone.unlink()
