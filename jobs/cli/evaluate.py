"""`vamba evaluate`: multiple-choice questions about the videos of a split, or those of a benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.cli.options import Address, AsJson, Assignments, ConfigFile, DryRun, resolve_config
from jobs.cli.output import human_seconds, print_config, print_json, print_pairs, print_table
from jobs.cli.session import SESSION

if TYPE_CHECKING:
    from pipelines.evaluation.config import EvaluationConfig
    from pipelines.evaluation.job import EvaluationProgress
    from pipelines.evaluation.plan import EvaluationPlan
    from pipelines.evaluation.result import EvaluationResult


_MODEL_HELP = "Directory, run, models:/NAME/VERSION or models:/NAME@alias."
_BENCHMARKS = "lvbench, hourvideo, houreval, videomme, mlvu, longvideobench, nextqa, mvbench, or a YAML file."

Model = Annotated[str | None, typer.Argument(help=_MODEL_HELP)]
ModelOption = Annotated[str | None, typer.Option("--model", help="The same, as an option.")]
Data = Annotated[str | None, typer.Option(help="URI of an ingested dataset, or the folder of a benchmark.")]
BenchmarkName = Annotated[str | None, typer.Option(help=_BENCHMARKS)]
Protocol = Annotated[str | None, typer.Option(help="vamba (the default) or lmms-eval-0.7.3.")]
Limit = Annotated[
    int | None, typer.Option(help="The first so many questions only: a subset, which passes no gate.", min=1)
]
Categories = Annotated[str | None, typer.Option(help="These only, with commas between: a subset, too.")]
Split = Annotated[str | None, typer.Option(help="Samples to ask about: test (the default), validation or train.")]
Name = Annotated[str | None, typer.Option(help="Name of the evaluation; by default derived from what is evaluated.")]
Control = Annotated[
    str | None, typer.Option(help="`shuffled-video`: every question about another video, which must score at chance.")
]


def evaluate(
    model: Model = None,
    model_option: ModelOption = None,
    data: Data = None,
    benchmark: BenchmarkName = None,
    protocol: Protocol = None,
    limit: Limit = None,
    categories: Categories = None,
    split: Split = None,
    name: Name = None,
    control: Control = None,
    address: Address = None,
    config: ConfigFile = None,
    set_: Assignments = None,
    json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Ask a model every multiple-choice question of a split or a benchmark, each video encoded once.

    Answers are written as they come; the same command continues after an interruption and returns a finished result.
    `vamba evaluate compare A B` sets two results beside each other.

    \b
    Example:
      vamba evaluate stage2 --data data/demo --control shuffled-video
      vamba evaluate stage2 --benchmark lvbench --data benchmarks/LVBench --protocol vamba
    """
    from pipelines.evaluation.job import run_evaluation
    from pipelines.evaluation.plan import plan_evaluation

    resolved = configured(
        model=model,
        model_option=model_option,
        data=data,
        benchmark=benchmark,
        protocol=protocol,
        limit=limit,
        categories=categories,
        split=split,
        name=name,
        control=control,
        address=address,
        config=config,
        set_=set_,
    )
    if dry_run:
        print_config(resolved)
        _print_plan(plan_evaluation(resolved))
        return
    result = run_evaluation(resolved, _show)
    SESSION.end_progress()
    if json:
        print_json(result)
    else:
        print_result(result)


def configured(
    *,
    model: str | None,
    model_option: str | None,
    data: str | None,
    benchmark: str | None,
    protocol: str | None,
    limit: int | None,
    categories: str | None,
    split: str | None,
    name: str | None,
    control: str | None,
    address: str | None,
    config: Path | None,
    set_: Sequence[str] | None,
    **_: object,
) -> EvaluationConfig:
    """The configuration that the command's options describe; those that say how it is run are passed over."""
    from pipelines.evaluation.config import EvaluationConfig
    from pipelines.evaluation.plan import CONTROL

    if control not in (None, CONTROL):
        raise ValueError(f"--control {control!r} is not known; there is {CONTROL}.")
    if model and model_option:
        raise ValueError(f"The model is given twice, as {model!r} and as --model {model_option!r}: leave one out.")
    arguments = {
        "model": model or model_option,
        "data": data,
        "benchmark": benchmark,
        "protocol": protocol,
        "num_questions": limit,
        "categories": [name.strip() for name in categories.split(",")] if categories else None,
        "split": split,
        "name": name,
        "shuffle_videos": True if control else None,
        "address": address,
    }
    return resolve_config(EvaluationConfig, recipe=None, file=config, assignments=set_, arguments=arguments)


def _show(progress: EvaluationProgress) -> None:
    left = "" if progress.seconds_left is None else f", about {human_seconds(progress.seconds_left)} left"
    accuracy = progress.num_correct / max(1, progress.num_questions_done)
    SESSION.progress(
        f"evaluate: {progress.num_videos_done}/{progress.num_videos} videos, "
        f"{progress.num_questions_done}/{progress.num_questions} questions, {accuracy:.1%} correct{left}",
        final=progress.num_videos_done == progress.num_videos,
    )


def print_result(result: EvaluationResult) -> None:
    """The numbers as a table, then what was made and where."""
    rows = [
        (
            name,
            f"{numbers.accuracy:.1%}",
            "" if numbers.stderr is None else f"± {numbers.stderr:.1%}",
            numbers.num_questions,
            numbers.num_videos,
            numbers.num_unparsed,
        )
        for name, numbers in result.groups().items()
    ]
    header = ("group", "accuracy", "std. error", "questions", "videos", "unparsed")
    print_table(header, rows, title=f"{result.metric_prefix}  ({result.model})")
    if result.micro is not None and result.macro is not None:
        print(f"  micro {result.micro:.1%}, macro {result.macro:.1%}")
    if result.missing_parts:
        print(f"  not in the folder: {', '.join(result.missing_parts)}")
    for video in result.broken:
        print(f"  broken: {video.video} ({video.source_uri}): {video.reason}")
    print_pairs(
        "Evaluated",
        {
            "name": result.name,
            "chance": "unknown" if result.chance is None else f"{result.chance:.1%}",
            "coverage": f"{result.coverage:.1%} of {result.num_questions} questions"
            + (" (a subset: passes no gate)" if result.subset else ""),
            **_frame_cache(result),
            "backends": "; ".join(result.backends) or "nothing ran",
            "results": result.directory,
            **_heat_map(result),
            "MLflow run": result.mlflow_run_id or "not logged",
            "seconds": f"{result.seconds:.1f}",
        },
    )


def _heat_map(result: EvaluationResult) -> dict[str, str]:
    from pipelines.evaluation.heat_map import HEAT_MAP_NAME, cells_of

    return {"by length and depth": f"{result.directory}/{HEAT_MAP_NAME}"} if cells_of(result) else {}


def _frame_cache(result: EvaluationResult) -> dict[str, str]:
    hits, misses = result.frame_cache.get("hit", 0), result.frame_cache.get("miss", 0)
    return {"frame cache": f"videos read from it: {hits}, decoded: {misses}"} if hits + misses else {}


def _print_plan(plan: EvaluationPlan) -> None:
    frames = sum(showing.source.num_frames for showing in plan.showings)
    print_pairs(
        "Plan",
        {
            "evaluation": plan.name,
            "model": plan.model.directory,
            "videos shown": f"{len(plan.showings)} ({frames} frames)",
            "questions": plan.num_questions,
            "unreadable videos": len(plan.broken),
            "results": plan.directory,
        },
    )
