"""From a manifest to the questions of a split, without reading a single frame.

    Manifest.select(split) ──read the first tar member of each sample──> VideoQuestions(row, questions)

A question is a conversation whose answer is one option letter; other conversations of a sample (captions, free answers)
are not multiple choice and are left out. A sample whose JSON can't be read becomes a `BrokenVideo`.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipelines.evaluation.protocols.vamba import LETTERS
from pipelines.manifest_io import SHARDS_PREFIX
from pipelines.storage import Storage
from vamba.data.manifest import SampleRow
from vamba.data.sample import Conversation, Sample

_FIRST_READ_BYTES = 1 << 18
_ANSWER = re.compile(rf"\s*\(?([{LETTERS}])\)?\.?\s*")
_OPTION = re.compile(rf"^\s*\(?([{LETTERS}])[.):]", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One multiple-choice question.

    key: unique in the dataset. video: id of the sample it is about. duration_s: of that video.
    text: as the model is asked. answer: the right letter, "" where it is not published. num_options: 0 where the text
    lists none. options: their texts, where an answer rule reads them. groups: all groupings of a benchmark's questions.
    time: of the video that is asked about, "" where that is not published.
    """

    key: str
    video: str
    duration_s: float
    category: str
    text: str
    answer: str
    num_options: int
    options: tuple[str, ...] = ()
    time: str = ""
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoQuestions:
    """A sample and what is asked about it."""

    row: SampleRow
    questions: tuple[Question, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenVideo:
    """A sample that could not be evaluated, listed once. num_questions: that went unanswered because of it."""

    video: str
    source_uri: str
    reason: str
    num_questions: int


def read_questions(storage: Storage, row: SampleRow) -> VideoQuestions:
    """The multiple-choice questions of one sample. Raises OSError, EOFError, ValueError or tarfile.TarError."""
    document = _first_member(storage, row)
    conversations = [Conversation.from_json(item) for item in document["conversations"]]
    return VideoQuestions(row=row, questions=tuple(_questions(row, conversations)))


def read_sample(storage: Storage, row: SampleRow) -> Sample:
    """The whole sample, frames included, by one range read. Raises as `read_questions`."""
    data = storage.read_range(_shard(row), row.offset_bytes, row.size_bytes)
    members = []
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            file = archive.extractfile(member)
            if file is not None:
                members.append((member.name, file.read()))
    sample = Sample.from_members(members)
    if sample.id != row.id:
        raise ValueError(f"the shard holds sample {sample.id!r} where the manifest says {row.id!r}")
    return sample


def count_options(text: str) -> int:
    """How many options a question's text lists by their letters."""
    return len(set(_OPTION.findall(text)))


def _questions(row: SampleRow, conversations: Sequence[Conversation]) -> list[Question]:
    found = []
    for index, conversation in enumerate(conversations):
        turns = conversation.turns
        if len(turns) != 2 or turns[0].speaker != "human" or turns[1].speaker != "gpt":
            continue
        answer = _ANSWER.fullmatch(turns[1].value)
        if answer is None:
            continue
        text = turns[0].value
        found.append(
            Question(
                key=f"{row.id}/{conversation.id or index}",
                video=row.id,
                duration_s=row.duration_ns / 1e9,
                category=conversation.category or "uncategorised",
                text=text,
                answer=answer[1],
                num_options=count_options(text),
                groups={name: (label,) for name, label in conversation.groups.items()},
            )
        )
    return found


def _first_member(storage: Storage, row: SampleRow) -> dict[str, list[dict[str, object]]]:
    """The sample's JSON: a small read where that is enough, the whole range where the JSON is longer."""
    for length in sorted({min(_FIRST_READ_BYTES, row.size_bytes), row.size_bytes}):
        data = storage.read_range(_shard(row), row.offset_bytes, length)
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            member = archive.next()
            file = archive.extractfile(member) if member else None
            if member is None or file is None or not member.name.endswith(".json"):
                raise ValueError(f"the first member of sample {row.id} is not its JSON")
            try:
                content = file.read()
            except tarfile.ReadError:
                continue
            if len(content) == member.size:
                return dict(json.loads(content))
    raise ValueError(f"the JSON of sample {row.id} is cut short")


def _shard(row: SampleRow) -> str:
    return f"{SHARDS_PREFIX}/{row.shard}"
