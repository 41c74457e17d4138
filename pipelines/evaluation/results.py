"""Answers as they are written, and the numbers computed from them.

    Answer ──AnswerLog.append──> answers.jsonl ──summarise──> Tally (overall, by category, by length) ──> metrics

One line per question, written and synced when its video is done: a killed evaluation continues from the file. A Tally
is accuracy with its N, its unparsed answers and a standard error clustered by video: questions about one video
succeed or fail together, and counting them as independent would claim more than was measured.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the model said to one question.

    question: its key. video: the one the question is about. shown: the one the model saw (another under the control).
    duration_s: of `video`, 0 where it is not known. answer: the right letter. prediction: the letter read, "" where
    none was found. raw: the text. groups: the values of each grouping that a benchmark has.
    """

    question: str
    video: str
    shown: str
    category: str
    duration_s: float
    answer: str
    prediction: str
    raw: str
    correct: bool
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """A group of answers in numbers. stderr: clustered by video; None where one video leaves nothing to cluster."""

    num_questions: int
    num_correct: int
    num_unparsed: int
    num_videos: int
    accuracy: float
    stderr: float | None


class AnswerLog:
    """`answers.jsonl`: append-only, one JSON object a line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Answer]:
        """All answers written so far. A last line torn by a kill is cut off the file, its question asked again."""
        if not self.path.exists():
            return []
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) != len(data):
            with self.path.open("rb+") as file:
                file.truncate(len(whole))
        return _answers(whole)

    def append(self, answers: Iterable[Answer]) -> None:
        """Write the answers of one video and sync them to disk."""
        text = "".join(json.dumps(asdict(answer), ensure_ascii=False) + "\n" for answer in answers)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())


def read_answers(path: Path) -> list[Answer]:
    """The answers of an evaluation that another process may be writing: nothing is changed, a torn line left out."""
    data = path.read_bytes()
    return _answers(data[: data.rfind(b"\n") + 1])


def _answers(lines: bytes) -> list[Answer]:
    return [Answer(**json.loads(line)) for line in lines.splitlines()]


def tally(answers: Sequence[Answer]) -> Tally:
    """The numbers of a group of at least one answer."""
    assert answers
    num_correct = sum(answer.correct for answer in answers)
    accuracy = num_correct / len(answers)
    residuals: dict[str, float] = {}
    for answer in answers:
        residuals[answer.video] = residuals.get(answer.video, 0.0) + answer.correct - accuracy
    spread = math.sqrt(sum(residual**2 for residual in residuals.values())) / len(answers)
    return Tally(
        num_questions=len(answers),
        num_correct=num_correct,
        num_unparsed=sum(not answer.prediction for answer in answers),
        num_videos=len(residuals),
        accuracy=accuracy,
        stderr=spread if len(residuals) > 1 else None,
    )


def tally_by(answers: Sequence[Answer], group: Callable[[Answer], str], order: Sequence[str] = ()) -> dict[str, Tally]:
    """One Tally per group, in `order` where given, else by name."""
    groups: dict[str, list[Answer]] = {}
    for answer in answers:
        groups.setdefault(group(answer), []).append(answer)
    names = [name for name in order if name in groups] if order else sorted(groups)
    return {name: tally(groups[name]) for name in names}


def length_label(duration_s: float, edges_s: Sequence[float]) -> str:
    """The length group of a video: "under 1 min", "1-3 min", "30 min and over"."""
    return length_labels(edges_s)[sum(duration_s >= edge for edge in edges_s)]


def length_labels(edges_s: Sequence[float]) -> list[str]:
    """Every group, from short to long."""
    if not edges_s:
        return ["any length"]
    between = [f"{_minutes(low)}-{_minutes(high)} min" for low, high in zip(edges_s, edges_s[1:], strict=False)]
    return [f"under {_minutes(edges_s[0])} min", *between, f"{_minutes(edges_s[-1])} min and over"]


def flat_metrics(prefix: str, groups: Mapping[str, Tally]) -> dict[str, float]:
    """Metric names and values as MLflow takes them; names keep letters, digits and `-_./ `."""
    metrics: dict[str, float] = {}
    for name, numbers in groups.items():
        safe = "".join(character if character.isalnum() or character in "-_./" else "_" for character in name)
        metrics[f"{prefix}/{safe}"] = numbers.accuracy
        metrics[f"{prefix}/{safe}/num_questions"] = float(numbers.num_questions)
        if numbers.stderr is not None:
            metrics[f"{prefix}/{safe}/stderr"] = numbers.stderr
    return metrics


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:g}"
