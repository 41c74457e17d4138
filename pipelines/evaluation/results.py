"""Answers as they are written, and the numbers computed from them.

    Answer ──AnswerLog.append──> answers.jsonl ──summarise──> Tally (overall, by category, by length) ──> metrics

One line per question, written and synced when its video is done: a killed evaluation continues from the file. A Tally
is accuracy with its N, its unparsed answers and a standard error clustered by video: questions about one video
succeed or fail together, and counting them as independent would claim more than was measured.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

_MOST_CHARACTERS = 250
"""Of a metric name in MLflow."""


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


class AnswersDamagedError(ValueError):
    """A line of `answers.jsonl` that is no answer, with answers after it."""


class AnswerLog:
    """`answers.jsonl`: append-only, one JSON object a line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Answer]:
        """All answers written so far. What a kill or a power cut left at the end, torn or no JSON object, is cut off
        the file and its question asked again. Raises AnswersDamagedError for such a line before others.
        """
        if not self.path.exists():
            return []
        data = self.path.read_bytes()
        whole = _whole(data)
        if len(whole) != len(data):
            with self.path.open("rb+") as file:
                file.truncate(len(whole))
        return _answers(self.path, whole)

    def append(self, answers: Iterable[Answer]) -> None:
        """Write the answers of one video and sync them to disk."""
        text = "".join(json.dumps(asdict(answer), ensure_ascii=False) + "\n" for answer in answers)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())


def read_answers(path: Path) -> list[Answer]:
    """The answers of an evaluation that another process may be writing: nothing is changed, a torn end left out."""
    return _answers(path, _whole(path.read_bytes()))


def _whole(data: bytes) -> bytes:
    """The file without what is torn at its end."""
    end = data.rfind(b"\n") + 1
    while end:
        start = data.rfind(b"\n", 0, end - 1) + 1
        if _is_object(data[start:end]):
            break
        end = start
    return data[:end]


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _answers(path: Path, lines: bytes) -> list[Answer]:
    found = []
    for number, line in enumerate(lines.splitlines(), start=1):
        try:
            found.append(Answer(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise AnswersDamagedError(
                f"{path}, line {number} is no answer ({error}). Remove the line, and the same `vamba evaluate` asks "
                "its question again; or evaluate under another --name."
            ) from error
    return found


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
    """Metric names and values as MLflow takes them."""
    metrics: dict[str, float] = {}
    for name, numbers in groups.items():
        safe = _shortened(metric_part(name), _MOST_CHARACTERS - len(f"{prefix}//num_questions"))
        metrics[f"{prefix}/{safe}"] = numbers.accuracy
        metrics[f"{prefix}/{safe}/num_questions"] = float(numbers.num_questions)
        if numbers.stderr is not None:
            metrics[f"{prefix}/{safe}/stderr"] = numbers.stderr
    return metrics


def metric_part(name: str) -> str:
    """A name as part of a metric's: letters, digits and `-_.` stay, parts between slashes are never empty."""
    safe = "".join(character if character.isalnum() or character in "-_./" else "_" for character in name)
    return "/".join(part if part.strip(".") else "_" * max(1, len(part)) for part in safe.split("/"))


def _shortened(name: str, most: int) -> str:
    """Names that are too long end in a digest instead, so that they stay different."""
    if len(name) <= most:
        return name
    return f"{name[: most - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:g}"
