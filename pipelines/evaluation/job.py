"""The evaluation job: every video shown once, every question about it answered, the numbers kept.

    plan ──> showings not yet answered ──Answerer (here, or Ray replicas)──> answers.jsonl ──> evaluation.json, MLflow

Killed and started again it continues after the last written video. A video that can't be read is listed once with its
reason and lowers the coverage.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from pipelines.evaluation.answering import Answerer, Reply, chance_level
from pipelines.evaluation.asked import write_asked
from pipelines.evaluation.benchmarks.hourvideo import hourvideo_predictions
from pipelines.evaluation.claim import claimed
from pipelines.evaluation.config import EvaluationConfig
from pipelines.evaluation.heat_map import write_heat_map
from pipelines.evaluation.plan import CONTROL, plan_evaluation
from pipelines.evaluation.plan_types import MISSING, EvaluationPlan, Showing
from pipelines.evaluation.questions import BrokenVideo
from pipelines.evaluation.result import (
    ANSWERS_NAME,
    PREDICTIONS_NAME,
    RESULT_NAME,
    EvaluationResult,
    ResultFormatError,
    read_result,
)
from pipelines.evaluation.results import Answer, AnswerLog, length_label, length_labels, tally_by
from pipelines.evaluation.scores import score
from pipelines.evaluation.show import show
from pipelines.evaluation.tracking import log_result
from pipelines.storage import open_storage

_QUESTION_COST_FRAMES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationProgress:
    """Where the job is. seconds_left: None until two videos are done, because the first also waits for the model."""

    num_videos_done: int
    num_videos: int
    num_questions_done: int
    num_questions: int
    num_correct: int
    seconds_left: float | None


Progress = Callable[[EvaluationProgress], None]


def run_evaluation(config: EvaluationConfig, progress: Progress | None = None) -> EvaluationResult:
    """Evaluate and record. A finished evaluation of the same model, data and settings is returned as it is, unless a
    benchmark's missing video is there now, or a broken one was replaced.

    Raises ValueError for a name that belongs to another evaluation, a split without questions, or an unknown model;
    EvaluationBusyError where another process evaluates the same.
    """
    started = time.monotonic()
    plan = plan_evaluation(config)
    with claimed(plan):
        return _finished(plan) or _evaluate(config, plan, started, progress)


def _finished(plan: EvaluationPlan) -> EvaluationResult | None:
    """The result that is there, None where there is none, or more can be asked now. One that can't be read is made anew
    of the answers."""
    if not (plan.directory / RESULT_NAME).exists():
        return None
    try:
        result = read_result(plan.directory)
    except ResultFormatError:
        return None
    answered = {answer.question for answer in AnswerLog(plan.directory / ANSWERS_NAME).read()}
    if _brought_since(result, _unanswered(plan.showings, answered)):
        return None
    write_heat_map(result)
    return result


def _evaluate(
    config: EvaluationConfig, plan: EvaluationPlan, started: float, progress: Progress | None
) -> EvaluationResult:
    log = AnswerLog(plan.directory / ANSWERS_NAME)
    answers = log.read()
    open_showings = _unanswered(plan.showings, {answer.question for answer in answers})
    write_asked(plan, config)
    broken = list(plan.broken)
    ticker = _Ticker(plan, open_showings, answers, progress)
    backends: set[str] = set()
    cache: Counter[str] = Counter()
    for showing, outcome in _replies(config, plan, open_showings):
        if isinstance(outcome, BrokenVideo):
            broken.append(outcome)
            ticker.advance(showing, [])
            continue
        backends.add(outcome.backends)
        cache[outcome.cache] += 1
        rows = [_answer(plan, showing, index, text) for index, text in enumerate(outcome.texts)]
        log.append(rows)
        answers += rows
        ticker.advance(showing, rows)
    _write_predictions(plan, answers)
    result = _summarise(config, plan, answers, broken, backends, seconds=time.monotonic() - started)
    result = replace(result, frame_cache={use: cache[use] for use in ("hit", "miss") if cache["hit"] + cache["miss"]})
    write_heat_map(result)
    if config.log_to_mlflow:
        result = replace(result, mlflow_run_id=log_result(result, plan.directory / ANSWERS_NAME))
    result.write()
    return result


def _unanswered(showings: Sequence[Showing], answered: set[str]) -> list[Showing]:
    remaining = [
        replace(showing, questions=tuple(item for item in showing.questions if item.key not in answered))
        for showing in showings
    ]
    return [showing for showing in remaining if showing.questions]


def _brought_since(finished: EvaluationResult, open_showings: Sequence[Showing]) -> bool:
    """Whether a video is there now that was missing, or broken and not this file, when the evaluation finished."""
    broken = {
        video.source_uri
        for video in finished.broken
        if video.reason != MISSING and not _changed_since(video.source_uri, finished.created_at)
    }
    return any(showing.source.source_uri not in broken for showing in open_showings)


def _changed_since(path: str, created_at: str) -> bool:
    """Whether a file came to its place, or was written, after that time; copying keeps older times of change."""
    try:
        return os.stat(path).st_ctime > datetime.fromisoformat(created_at).timestamp()
    except OSError:
        return False


def _replies(
    config: EvaluationConfig, plan: EvaluationPlan, showings: Sequence[Showing]
) -> Iterator[tuple[Showing, Reply | BrokenVideo]]:
    if not showings:
        return
    if config.num_replicas > 1 or config.address:
        from pipelines.evaluation.replicas import replies_from_replicas

        yield from replies_from_replicas(config, plan.model.directory, showings)
        return
    answerer = Answerer(plan.model.directory, device=config.device, dtype=config.dtype, backends=config.backends)
    for showing in showings:
        yield showing, show(answerer, config, showing)


def _answer(plan: EvaluationPlan, showing: Showing, index: int, text: str) -> Answer:
    question = showing.questions[index]
    letter = plan.recipe.read(text, question.options)
    return Answer(
        question=question.key,
        video=question.video,
        shown=showing.source.id,
        category=question.category,
        duration_s=question.duration_s,
        answer=question.answer,
        prediction=letter,
        raw=text,
        correct=bool(letter) and letter == question.answer,
        groups=question.groups,
    )


def _summarise(
    config: EvaluationConfig,
    plan: EvaluationPlan,
    answers: Sequence[Answer],
    broken: Sequence[BrokenVideo],
    backends: set[str],
    *,
    seconds: float,
) -> EvaluationResult:
    edges = config.length_edges_s
    scores = score(answers, plan.recipe)
    timed = [answer for answer in answers if answer.duration_s]
    return EvaluationResult(
        name=plan.name,
        protocol=plan.recipe.protocol,
        dataset=plan.dataset,
        split="test" if plan.benchmark else config.split,
        control=CONTROL if config.shuffle_videos else "",
        model=config.model,
        model_digest=plan.model_digest,
        manifest_digest=plan.manifest_digest,
        lineage=dict(plan.model.lineage),
        num_questions=plan.num_questions,
        coverage=len(answers) / plan.num_questions,
        chance=chance_level(question.num_options for question in plan.questions),
        overall=scores.overall,
        by_category=scores.by_category,
        by_length=tally_by(timed, lambda answer: length_label(answer.duration_s, edges), length_labels(edges)),
        broken=_once(broken),
        subset=plan.is_subset,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 3),
        backends=tuple(sorted(backends)),
        directory=str(plan.directory),
        by_group=scores.by_group,
        micro=scores.micro if plan.benchmark else None,
        macro=scores.macro if plan.benchmark else None,
        settings=plan.settings,
        missing_parts=plan.benchmark.missing_parts if plan.benchmark else (),
        scoring=plan.recipe.scoring,
    )


def _once(broken: Sequence[BrokenVideo]) -> tuple[BrokenVideo, ...]:
    """Each file once, however many parts of it were to be shown."""
    by_file: dict[str, BrokenVideo] = {}
    for item in broken:
        known = by_file.get(item.source_uri)
        by_file[item.source_uri] = (
            item if known is None else replace(known, num_questions=known.num_questions + item.num_questions)
        )
    return tuple(by_file.values())


def _write_predictions(plan: EvaluationPlan, answers: Sequence[Answer]) -> None:
    """HourVideo's own scorer takes the annotations with a label in every question."""
    if plan.benchmark is None or plan.benchmark.name != "hourvideo":
        return
    document = hourvideo_predictions(plan.benchmark, {answer.question: answer.raw for answer in answers})
    open_storage(str(plan.directory)).write_atomic(PREDICTIONS_NAME, json.dumps(document, indent=1).encode())


class _Ticker:
    """Turns finished showings into progress. Time left is judged by frames, which is what a video costs."""

    def __init__(
        self, plan: EvaluationPlan, remaining: Sequence[Showing], answers: Sequence[Answer], report: Progress | None
    ) -> None:
        self._report = report
        self._num_videos = len(plan.showings)
        self._num_videos_done = len(plan.showings) - len(remaining)
        self._num_questions = len(plan.questions)
        self._num_questions_done = len(answers)
        self._num_correct = sum(answer.correct for answer in answers)
        self._cost_left = sum(_cost(showing) for showing in remaining)
        self._cost_done = 0
        self._first_done: float | None = None

    def advance(self, showing: Showing, answers: Sequence[Answer]) -> None:
        self._num_videos_done += 1
        self._num_questions_done += len(answers)
        self._num_correct += sum(answer.correct for answer in answers)
        self._cost_left -= _cost(showing)
        seconds_left = None
        if self._first_done is None:
            self._first_done = time.monotonic()
        else:
            self._cost_done += _cost(showing)
            seconds_left = (time.monotonic() - self._first_done) / self._cost_done * self._cost_left
        if self._report is None:
            return
        self._report(
            EvaluationProgress(
                num_videos_done=self._num_videos_done,
                num_videos=self._num_videos,
                num_questions_done=self._num_questions_done,
                num_questions=self._num_questions,
                num_correct=self._num_correct,
                seconds_left=seconds_left,
            )
        )


def _cost(showing: Showing) -> int:
    """Of showing a video and asking its questions, in frames."""
    return showing.source.num_frames + _QUESTION_COST_FRAMES * len(showing.questions)
