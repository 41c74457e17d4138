"""`questions.jsonl`: what an evaluation asked, and of which video; the text and the frames behind each answer.

    plan ──write_asked──> questions.jsonl ──read_asked──> {key: AskedQuestion} ──> a comparison's wins and losses

An answer holds a letter; whoever looks at it later wants the question and the frames, and neither benchmark nor dataset
may be where it was. One line per question that has a video, written before the first is asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pipelines.evaluation.benchmarks.question import Clip
from pipelines.evaluation.clips import ShownClip
from pipelines.evaluation.config import EvaluationConfig
from pipelines.evaluation.plan_types import EvaluationPlan
from pipelines.evaluation.protocols.recipe import FrameRule
from pipelines.storage import open_storage

ASKED_NAME = "questions.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedQuestion:
    """question: its key. text: as the model was asked. shown: the id of what it saw. time: asked about, if published.

    data: URI of the dataset that has it as a sample; else clip and frames say what was shown, and how it was sampled.
    """

    question: str
    text: str
    shown: str
    source_uri: str
    time: str = ""
    data: str = ""
    clip: Clip | None = None
    frames: FrameRule | None = None

    @property
    def shown_clip(self) -> ShownClip | None:
        """What was shown of a benchmark; None for a dataset's sample."""
        if self.clip is None or self.frames is None:
            return None
        return ShownClip(id=self.shown, clip=self.clip, frames=self.frames)


def write_asked(plan: EvaluationPlan, config: EvaluationConfig) -> None:
    """Write the file, complete or not at all; a plan made again later may have more videos and replaces it."""
    lines = [json.dumps(asdict(asked), ensure_ascii=False) + "\n" for asked in _asked(plan, config)]
    open_storage(str(plan.directory)).write_atomic(ASKED_NAME, "".join(lines).encode())


def read_asked(directory: Path) -> dict[str, AskedQuestion]:
    """What was asked, by key; empty for an evaluation of an older version, which did not write it."""
    path = directory / ASKED_NAME
    if not path.is_file():
        return {}
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    for row in rows:
        row["clip"] = Clip(**row["clip"]) if row["clip"] else None
        row["frames"] = FrameRule(**row["frames"]) if row["frames"] else None
    return {row["question"]: AskedQuestion(**row) for row in rows}


def _asked(plan: EvaluationPlan, config: EvaluationConfig) -> Iterator[AskedQuestion]:
    data = open_storage(config.data).uri if plan.benchmark is None else ""
    for showing in plan.showings:
        source = showing.source
        clip, frames = (_absolute(source.clip), source.frames) if isinstance(source, ShownClip) else (None, None)
        for question in showing.questions:
            yield AskedQuestion(
                question=question.key,
                text=question.text,
                shown=source.id,
                source_uri=clip.path if clip else source.source_uri,
                time=question.time,
                data=data,
                clip=clip,
                frames=frames,
            )


def _absolute(clip: Clip) -> Clip:
    return replace(clip, path=str(Path(clip.path).absolute()))
