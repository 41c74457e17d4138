"""Protocol `lmms-eval-0.7.3`: prompts, answer rules and aggregation of that library's tasks.

lmms-eval leaves frames and their size to the model's class; ours are those of protocol `vamba`, so that two protocols
differ in what is asked and how it is read alone. NExT-QA's task sets no limit on tokens; Qwen2-VL's class takes 128.
HourVideo and HourEval are no tasks of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from pipelines.evaluation.benchmarks.question import BenchmarkQuestion
from pipelines.evaluation.protocols.lmms_answers import bracket_or_content, first_capital, lone_letter, ranked_letter
from pipelines.evaluation.protocols.recipe import Recipe
from pipelines.evaluation.protocols.vamba import lettered, vamba_recipe

NAME = "lmms-eval-0.7.3"

_MLVU_TASKS = ("anomaly_reco", "count", "ego", "needle", "order", "plotQA", "topic_reasoning")
_VIDEOMME = (
    "Select the best answer to the following multiple-choice question based on the video and the subtitles. "
    "Respond with only the letter (A, B, C, or D) of the correct option."
)
_DIRECTLY = "Answer with the option's letter from the given choices directly."


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    prompt: Callable[[BenchmarkQuestion], str]
    read: Callable[[str, tuple[str, ...]], str]
    max_new_tokens: int = 16
    headline: Literal["micro", "macro"] = "micro"
    macro_group: str = "category"
    macro_of: tuple[str, ...] = ()
    counts_empty: bool = True


def lmms_recipe(benchmark: str) -> Recipe | None:
    """How lmms-eval asks `benchmark`, None where it has no such task."""
    task, frames = _TASKS.get(benchmark), vamba_recipe(benchmark)
    if task is None or frames is None:
        return None
    return replace(
        frames,
        protocol=NAME,
        prompt=task.prompt,
        read=task.read,
        max_new_tokens=task.max_new_tokens,
        headline=task.headline,
        macro_group=task.macro_group,
        macro_of=task.macro_of,
        counts_empty=task.counts_empty,
    )


def _lvbench(question: BenchmarkQuestion) -> str:
    return "\n".join([question.question, *_bracketed(question), "Answer the question with the option letter"])


def _videomme(question: BenchmarkQuestion) -> str:
    return "\n".join([_VIDEOMME, question.question, *question.options, "", _DIRECTLY])


def _mlvu(question: BenchmarkQuestion) -> str:
    return "\n".join([question.question, *_bracketed(question), "Only give the best option.", "Best option: ("])


def _longvideobench(question: BenchmarkQuestion) -> str:
    return "\n".join([question.question, *lettered(question.options), _DIRECTLY, ""])


def _nextqa(question: BenchmarkQuestion) -> str:
    return "\n".join([question.question.strip(), *lettered(_stripped(question.options))])


def _mvbench(question: BenchmarkQuestion) -> str:
    head = [f"Question:{question.question}", "Option:"]
    return "\n".join([*head, *_bracketed(question), "Only give the best option.", ""])


def _bracketed(question: BenchmarkQuestion) -> list[str]:
    return [f"({chr(ord('A') + index)}) {option}" for index, option in enumerate(question.options)]


def _stripped(options: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(option.strip() for option in options)


_TASKS = {
    "lvbench": _Task(prompt=_lvbench, read=lambda reply, options: ranked_letter(reply)),
    "videomme": _Task(prompt=_videomme, read=lambda reply, options: ranked_letter(reply)),
    "mlvu": _Task(
        prompt=_mlvu,
        read=lambda reply, options: ranked_letter(reply),
        headline="macro",
        macro_group="task_type",
        macro_of=_MLVU_TASKS,
    ),
    "longvideobench": _Task(
        prompt=_longvideobench, read=lambda reply, options: first_capital(reply), max_new_tokens=32
    ),
    "nextqa": _Task(
        prompt=_nextqa, read=lambda reply, options: bracket_or_content(reply, _stripped(options)), max_new_tokens=128
    ),
    "mvbench": _Task(prompt=_mvbench, read=lambda reply, options: lone_letter(reply, len(options)), counts_empty=False),
}
