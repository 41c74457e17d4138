"""The plan of an evaluation on an ingested dataset: its multiple-choice conversations, asked about their videos."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence

from pipelines.evaluation.clips import ShownClip
from pipelines.evaluation.config import EvaluationConfig
from pipelines.evaluation.control import assign_own, assign_shuffled
from pipelines.evaluation.plan_types import EvaluationPlan, Showing, plan_name
from pipelines.evaluation.protocols import vamba
from pipelines.evaluation.protocols.recipe import Recipe
from pipelines.evaluation.questions import BrokenVideo, VideoQuestions, read_questions
from pipelines.evaluation.result import evaluations_directory
from pipelines.manifest_io import read_manifest
from pipelines.registry.model_files import hash_model_files
from pipelines.registry.models import resolve_model
from pipelines.storage import open_storage
from vamba.data.manifest import Manifest, SampleRow

CONTROL = "shuffled-video"
_MAX_NEW_TOKENS = 4
UNREADABLE = (OSError, EOFError, ValueError, KeyError, tarfile.TarError)


# A dataset's questions are asked as they are written, about the frames that were stored.
_AS_IS = Recipe(
    protocol=vamba.NAME,
    prompt=lambda question: question.question,
    read=lambda reply, options: vamba.vamba_letter(reply),
    max_new_tokens=_MAX_NEW_TOKENS,
    num_frames=0,
    shortest_edge=0,
    longest_edge=0,
)


def plan_evaluation(config: EvaluationConfig) -> EvaluationPlan:
    """Resolve the model, read the questions of the split and assign videos to them.

    Raises ValueError when the split holds no multiple-choice question, FileNotFoundError when there is no dataset.
    """
    if config.benchmark:
        from pipelines.evaluation.benchmark_plan import plan_benchmark

        return plan_benchmark(config)
    model = resolve_model(config.model)
    manifest = read_manifest(config.data)
    rows = manifest.select(config.split)
    videos, broken = _read_all(config, rows)
    known = {question.category for video in videos for question in video.questions}
    videos = _restrict(videos, config)
    if not any(video.questions for video in videos):
        raise ValueError(_nothing_to_ask(config, manifest))
    if absent := sorted(set(config.categories) - known):
        raise ValueError(
            f"Split {config.split!r} of {config.data} has no question in {', '.join(absent)}; there are "
            f"{', '.join(sorted(known))}."
        )
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
    max_new_tokens = config.max_new_tokens or _MAX_NEW_TOKENS
    showings = [
        Showing(source=by_id[name], questions=tuple(asked), max_new_tokens=max_new_tokens)
        for name, asked in assigned.items()
    ]
    model_digest = hash_model_files(model.directory).digest
    identity = _identity(config, model_digest, manifest.digest)
    control = f"-{CONTROL}" if config.shuffle_videos else ""
    name = config.name or plan_name(config.model, f"{config.split}{control}", identity)
    return EvaluationPlan(
        name=name,
        directory=evaluations_directory() / name,
        identity=identity,
        model=model,
        model_digest=model_digest,
        manifest_digest=manifest.digest,
        showings=tuple(sorted(showings, key=lambda showing: (showing.source.num_frames, showing.source.id))),
        broken=tuple(broken),
        recipe=_AS_IS,
        dataset=config.dataset_name,
        is_subset=config.is_subset,
        settings={"max_new_tokens": max_new_tokens, "dtype": config.dtype},
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


def broken_video(source: SampleRow | ShownClip, num_questions: int, error: BaseException) -> BrokenVideo:
    """The record of a video that can't be read."""
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return BrokenVideo(video=source.id, source_uri=source.source_uri, reason=reason, num_questions=num_questions)


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
        "protocol": vamba.NAME,
        "model_digest": model_digest,
        "manifest_digest": manifest_digest,
        "split": config.split,
        "control": CONTROL if config.shuffle_videos else "",
        "control_seed": [config.seed, config.num_control_videos, config.control_repeats]
        if config.shuffle_videos
        else [],
        "num_questions": config.num_questions,
        "categories": list(config.categories),
        "max_new_tokens": config.max_new_tokens or _MAX_NEW_TOKENS,
        "dtype": config.dtype,
    }
