"""The plan of an evaluation on a published benchmark, or on a set of one's own.

annotations ──read──> questions ──recipe──> prompts ──by clip──> showings; what has no video is listed as broken
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipelines.evaluation.benchmarks.catalogue import is_own, read_benchmark, with_unique_ids
from pipelines.evaluation.benchmarks.own import read_own, read_own_file
from pipelines.evaluation.benchmarks.question import Benchmark, BenchmarkQuestion, Clip
from pipelines.evaluation.clips import ShownClip
from pipelines.evaluation.config import EvaluationConfig
from pipelines.evaluation.plan_types import MISSING, EvaluationPlan, Showing, plan_name
from pipelines.evaluation.protocols import vamba
from pipelines.evaluation.protocols.catalogue import find_recipe
from pipelines.evaluation.protocols.recipe import FrameRule, Recipe
from pipelines.evaluation.questions import BrokenVideo, Question, count_options
from pipelines.evaluation.result import evaluations_directory
from pipelines.registry.model_files import hash_model_files
from pipelines.registry.models import resolve_model


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """A benchmark with the recipe it is asked by."""

    benchmark: Benchmark
    recipe: Recipe


def plan_benchmark(config: EvaluationConfig) -> EvaluationPlan:
    """Resolve the model, read the annotations, look for the videos. Raises ValueError as `plan_evaluation`."""
    model = resolve_model(config.model)
    read = _read(config)
    questions = _restricted(read.benchmark, config)
    showings, broken = _by_clip(questions, read.recipe)
    model_digest = hash_model_files(model.directory).digest
    settings = {
        "num_frames": read.recipe.num_frames,
        "shortest_edge": read.recipe.shortest_edge,
        "longest_edge": read.recipe.longest_edge,
        "max_new_tokens": read.recipe.max_new_tokens,
        "dtype": config.dtype,
    }
    identity: dict[str, object] = {
        "protocol": read.recipe.protocol,
        "benchmark": read.benchmark.name,
        "model_digest": model_digest,
        "manifest_digest": read.benchmark.digest,
        "num_questions": config.num_questions,
        "categories": list(config.categories),
        **settings,
    }
    name = config.name or plan_name(config.model, f"{read.benchmark.name}-{read.recipe.protocol}", identity)
    return EvaluationPlan(
        name=name,
        directory=evaluations_directory() / name,
        identity=identity,
        model=model,
        model_digest=model_digest,
        manifest_digest=read.benchmark.digest,
        showings=tuple(sorted(showings, key=lambda showing: showing.source.id)),
        broken=tuple(broken),
        recipe=read.recipe,
        dataset=config.dataset or read.benchmark.name,
        benchmark=read.benchmark,
        settings=settings,
        is_subset=config.is_subset or bool(read.benchmark.missing_parts),
    )


def _read(config: EvaluationConfig) -> _Read:
    # Absolute, as replicas on a cluster have working directories of their own.
    if not is_own(config.benchmark):
        recipe = find_recipe(config.protocol or vamba.NAME, config.benchmark)
        benchmark = read_benchmark(config.benchmark, Path(config.data).expanduser().absolute())
        return _Read(benchmark=benchmark, recipe=_adjusted(recipe, config))
    file = Path(config.benchmark).expanduser().absolute()
    own = read_own_file(file)
    template = find_recipe(config.protocol or own.protocol, own.template)
    # The template's tasks are not this set's, so its mean over tasks is not either.
    recipe = _adjusted(replace(template, headline="micro", macro_group="category", macro_of=()), own)
    return _Read(benchmark=with_unique_ids(read_own(own, file)), recipe=_adjusted(recipe, config))


def _adjusted(recipe: Recipe, given: object) -> Recipe:
    """The recipe with the frames and tokens that `given` asks for instead."""
    names = ("num_frames", "shortest_edge", "longest_edge", "max_new_tokens")
    wanted = {name: getattr(given, name) for name in names if getattr(given, name)}
    return replace(recipe, **wanted)


def _restricted(benchmark: Benchmark, config: EvaluationConfig) -> Sequence[BenchmarkQuestion]:
    wanted = set(config.categories)
    known = {name for item in benchmark.questions for name in item.groups["category"]}
    if absent := sorted(wanted - known):
        there = f"; there are {', '.join(sorted(known))}" if known else ": its annotations are empty"
        raise ValueError(f"{benchmark.name} has no question to ask in {', '.join(absent)}{there}.")
    if not known:
        raise ValueError(f"{benchmark.name} has no question to ask: its annotations are empty.")
    chosen = [item for item in benchmark.questions if not wanted or wanted & set(item.groups["category"])]
    return chosen[: config.num_questions or None]


def _by_clip(questions: Sequence[BenchmarkQuestion], recipe: Recipe) -> tuple[list[Showing], list[BrokenVideo]]:
    """One showing for each clip, so that it is decoded and encoded once; those without a video apart, once each."""
    by_clip: dict[Clip, list[BenchmarkQuestion]] = {}
    missing: dict[str, list[BenchmarkQuestion]] = {}
    for question in questions:
        if question.clip in by_clip or question.clip.exists:
            by_clip.setdefault(question.clip, []).append(question)
        else:
            missing.setdefault(question.clip.path, []).append(question)
    frames = FrameRule(
        num_frames=recipe.num_frames, shortest_edge=recipe.shortest_edge, longest_edge=recipe.longest_edge
    )
    showings = [
        Showing(
            source=ShownClip(id=_clip_id(asked[0]), clip=clip, frames=frames),
            questions=tuple(_asked(question, recipe) for question in asked),
            max_new_tokens=recipe.max_new_tokens,
        )
        for clip, asked in by_clip.items()
    ]
    broken = [
        BrokenVideo(video=asked[0].video, source_uri=path, reason=MISSING, num_questions=len(asked))
        for path, asked in missing.items()
    ]
    return showings, broken


def _clip_id(question: BenchmarkQuestion) -> str:
    clip = question.clip
    part = "" if clip.start_s is None and clip.end_s is None else f"#{clip.start_s or 0:g}-{clip.end_s or 0:g}s"
    return f"{question.video}{part}"


def _asked(question: BenchmarkQuestion, recipe: Recipe) -> Question:
    return Question(
        key=question.id,
        video=question.video,
        duration_s=0.0,
        category=", ".join(question.groups["category"]),
        text=recipe.prompt(question),
        answer=question.answer,
        num_options=len(question.options) or count_options(question.question),
        options=question.options,
        time=question.time,
        groups=question.groups,
    )
