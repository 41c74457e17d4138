"""What an evaluation will do, known before a model is loaded: which videos are shown, and what is asked about each."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.evaluation.config import EvaluationConfig
from pipelines.evaluation.control import assign_own, assign_shuffled
from pipelines.evaluation.questions import BrokenVideo, Question, VideoQuestions, read_questions
from pipelines.evaluation.result import evaluations_directory
from pipelines.manifest_io import read_manifest
from pipelines.registry.model_files import hash_model_files
from pipelines.registry.models import ResolvedModel, resolve_model
from pipelines.storage import open_storage
from vamba.data.manifest import Manifest, SampleRow

CONTROL = "shuffled-video"
UNREADABLE = (OSError, EOFError, ValueError, KeyError, tarfile.TarError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Showing:
    """One video and every question that is asked while it is shown."""

    row: SampleRow
    questions: tuple[Question, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationPlan:
    """All that will be asked. identity: what the answers depend on; equal identities may share an answer file."""

    name: str
    directory: Path
    identity: Mapping[str, object]
    model: ResolvedModel
    model_digest: str
    manifest_digest: str
    showings: tuple[Showing, ...]
    broken: tuple[BrokenVideo, ...]

    @property
    def questions(self) -> list[Question]:
        return [question for showing in self.showings for question in showing.questions]

    @property
    def num_questions(self) -> int:
        """Asked for, those of unreadable videos included."""
        return len(self.questions) + sum(video.num_questions for video in self.broken)


def plan_evaluation(config: EvaluationConfig) -> EvaluationPlan:
    """Resolve the model, read the questions of the split and assign videos to them.

    Raises ValueError when the split holds no multiple-choice question, FileNotFoundError when there is no dataset.
    """
    model = resolve_model(config.model)
    manifest = read_manifest(config.data)
    rows = manifest.select(config.split)
    videos, broken = _read_all(config, rows)
    videos = _restrict(videos, config)
    if not any(video.questions for video in videos):
        raise ValueError(_nothing_to_ask(config, manifest))
    assigned = (
        assign_shuffled(
            videos,
            seed=config.seed,
            num_control_videos=config.num_control_videos,
            repeats=config.control_repeats,
        )
        if config.shuffle_videos
        else assign_own(videos)
    )
    by_id = {row.id: row for row in rows}
    showings = [Showing(row=by_id[name], questions=tuple(asked)) for name, asked in assigned.items()]
    model_digest = hash_model_files(model.directory).digest
    identity = _identity(config, model_digest, manifest.digest)
    name = config.name or _default_name(config, identity)
    return EvaluationPlan(
        name=name,
        directory=evaluations_directory() / name,
        identity=identity,
        model=model,
        model_digest=model_digest,
        manifest_digest=manifest.digest,
        showings=tuple(sorted(showings, key=lambda showing: (showing.row.num_frames, showing.row.id))),
        broken=tuple(broken),
    )


def _read_all(config: EvaluationConfig, rows: Sequence[SampleRow]) -> tuple[list[VideoQuestions], list[BrokenVideo]]:
    storage = open_storage(config.data)
    videos, broken = [], []
    for row in rows:
        try:
            videos.append(read_questions(storage, row))
        except UNREADABLE as error:
            broken.append(broken_video(row, row.num_conversations, error))
    return videos, broken


def broken_video(row: SampleRow, num_questions: int, error: BaseException) -> BrokenVideo:
    """The record of a sample that can't be read."""
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return BrokenVideo(video=row.id, source_uri=row.source_uri, reason=reason, num_questions=num_questions)


def _restrict(videos: Sequence[VideoQuestions], config: EvaluationConfig) -> list[VideoQuestions]:
    remaining = config.num_questions or None
    kept = []
    for video in videos:
        chosen = [item for item in video.questions if not config.categories or item.category in config.categories]
        if remaining is not None:
            chosen = chosen[:remaining]
            remaining -= len(chosen)
        kept.append(VideoQuestions(row=video.row, questions=tuple(chosen)))
    return kept


def _nothing_to_ask(config: EvaluationConfig, manifest: Manifest) -> str:
    counts = ", ".join(f"{split} {len(manifest.select(split))}" for split in ("train", "validation", "test"))
    wanted = f" in the categories {', '.join(config.categories)}" if config.categories else ""
    return (
        f"Split {config.split!r} of {config.data} holds no multiple-choice question{wanted} (samples by split: "
        f"{counts}). A question is a conversation of one human turn answered by a single option letter."
    )


def _identity(config: EvaluationConfig, model_digest: str, manifest_digest: str) -> dict[str, object]:
    return {
        "protocol": config.protocol,
        "model_digest": model_digest,
        "manifest_digest": manifest_digest,
        "split": config.split,
        "control": CONTROL if config.shuffle_videos else "",
        "control_seed": [config.seed, config.num_control_videos, config.control_repeats]
        if config.shuffle_videos
        else [],
        "num_questions": config.num_questions,
        "categories": list(config.categories),
        "max_new_tokens": config.max_new_tokens,
        "dtype": config.dtype,
    }


def _control_draw(config: EvaluationConfig) -> list[int]:
    """What decides which other videos the control shows; nothing without it."""
    draw = [config.seed, config.num_control_videos, config.control_repeats]
    return draw if config.shuffle_videos else []


def _default_name(config: EvaluationConfig, identity: Mapping[str, object]) -> str:
    label = "".join(
        character if character.isalnum() else "-" for character in config.model.rstrip("/").rsplit("/", 1)[-1]
    )
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    control = f"-{CONTROL}" if config.shuffle_videos else ""
    return f"{label.strip('-').lower() or 'model'}-{config.split}{control}-{digest}"
