"""A set of one's own: a YAML file says where its annotations lie, what their fields are called, and how it is asked.

name: warehouse
annotations: questions.jsonl      # or .parquet, .json, .csv; beside the YAML file, or an absolute path
videos: videos
template: mlvu                    # asked as this benchmark is
protocol: vamba
fields: {video: file, question: text, options: choices, answer: label, categories: [topic]}
num_frames: 128                   # these four: what the protocol says, where left out
shortest_edge: 256
longest_edge: 480
max_new_tokens: 16
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from pipelines.evaluation.benchmarks.question import Benchmark, BenchmarkQuestion, Clip
from pipelines.evaluation.benchmarks.rows import AnnotationError, Row, digest_of_files, read_rows
from pipelines.evaluation.benchmarks.videos import find_video
from pipelines.evaluation.protocols.vamba import lettered
from vamba.data.manifest import digest_of

_WITH_LETTERS = ("videomme", "hourvideo")
"""Benchmarks whose options carry their letters as published."""
_OF_PARTS = "houreval"


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnFields:
    """How the annotations call what is needed. id, start, end: optional. options: empty where the question lists them.

    answer: the field holds a letter, an option's text, or its number from 0. categories: one grouping each; a field may
    hold a list.
    """

    video: str = "video"
    question: str = "question"
    options: str = "options"
    answer: str = "answer"
    categories: tuple[str, ...] = ()
    id: str = "id"
    start: str = "start"
    end: str = "end"


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnBenchmark:
    """The YAML file. template: the benchmark whose prompt and answer rule are used. 0: what the protocol says."""

    name: str
    annotations: str
    videos: str = "."
    template: str = "mlvu"
    protocol: str = "vamba"
    fields: OwnFields = field(default_factory=OwnFields)
    num_frames: int = 0
    shortest_edge: int = 0
    longest_edge: int = 0
    max_new_tokens: int = 0


def read_own_file(file: Path) -> OwnBenchmark:
    """Read the YAML file. Raises AnnotationError naming the key that is wrong."""
    import yaml

    if not file.is_file():
        raise AnnotationError(f"The benchmark file {file} does not exist.")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise AnnotationError(f"{file} is not YAML: {' '.join(str(error).split())}") from error
    values = _checked(file, content, OwnBenchmark, required=("name", "annotations"))
    if values.get("template") == _OF_PARTS:
        raise AnnotationError(f"{file}: {_OF_PARTS} is asked as its parts are; name one of them as `template`.")
    names = dict(_checked(file, values.get("fields", {}), OwnFields, required=()))
    given = names.get("categories") or []
    names["categories"] = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, list) else ()
    if not isinstance(given, str | list) or not all(isinstance(name, str) for name in names["categories"]):
        raise AnnotationError(f"{file}: `categories` is {given!r}, and names of fields were expected.")
    return OwnBenchmark(**{**values, "fields": OwnFields(**names)})


def read_own(own: OwnBenchmark, file: Path) -> Benchmark:
    """The questions that the YAML file `file` describes. Raises AnnotationError."""
    annotations, videos = file.parent / own.annotations, file.parent / own.videos
    if not annotations.is_file():
        raise AnnotationError(f"{file}: `annotations` names {annotations}, which does not exist.")
    questions = tuple(_question(videos, own, row) for row in read_rows(annotations))
    asked = [digest_of_files([annotations]), own.template, dataclasses.asdict(own.fields)]
    return Benchmark(name=own.name, questions=questions, digest=digest_of(asked))


def _question(videos: Path, own: OwnBenchmark, row: Row) -> BenchmarkQuestion:
    fields = own.fields
    name = row.name(fields.video)
    options = row.listed(fields.options) if row.says(fields.options) else ()
    groups = {category: row.texts(category) for category in fields.categories}
    shown = tuple(lettered(options)) if own.template in _WITH_LETTERS and not _are_lettered(options) else options
    return BenchmarkQuestion(
        id=row.name(fields.id) if row.says(fields.id) else row.place,
        video=name,
        clip=Clip(
            path=str(find_video([videos], name)), start_s=row.seconds(fields.start), end_s=row.seconds(fields.end)
        ),
        question=row.text(fields.question),
        options=shown,
        answer=_letter(row, fields, options),
        groups={"category": next(iter(groups.values()), ("uncategorised",)), **groups},
    )


def _letter(row: Row, fields: OwnFields, options: tuple[str, ...]) -> str:
    name = fields.answer
    texts = {option.strip() for option in options}
    if row.text(name).strip() in texts and not _is_index(row, fields):
        return row.letter_of_text(name, options)
    letter = row.letter(name) if row.whole(name) is None else row.letter_of_index(name, options)
    if options and letter not in ascii_uppercase[: len(options)]:
        raise row.error(f"the field `{name}` is {row.text(name)!r}, and there are {len(options)} options")
    return letter


def _is_index(row: Row, fields: OwnFields) -> bool:
    """Whether a number is an option's place and not its text: where the options are texts, as 2 among "1", "2", "3"."""
    listed = row.values.get(fields.options)
    numbers = isinstance(listed, list) and any(isinstance(item, int | float) for item in listed)
    return isinstance(row.values[fields.answer], int) and not numbers


def _are_lettered(options: tuple[str, ...]) -> bool:
    """Whether the options carry their letters, as "A. red" or "(A) red"."""
    return all(re.match(rf"\(?{letter}[.):]", option) for letter, option in zip(ascii_uppercase, options, strict=False))


def _checked(file: Path, content: Any, kind: type, required: tuple[str, ...]) -> dict[str, Any]:
    """The mapping with keys and types as `kind` has them."""
    known = {item.name: item.type for item in dataclasses.fields(kind)}
    if not isinstance(content, Mapping):
        raise AnnotationError(f"{file}: an object with the keys {', '.join(known)} was expected.")
    missing = [name for name in required if not content.get(name)]
    unknown = [str(name) for name in content if name not in known]
    if missing or unknown:
        wrong = f"lacks `{missing[0]}`" if missing else f"has no setting `{unknown[0]}`"
        raise AnnotationError(f"{file} {wrong}; the settings are {', '.join(known)}.")
    for name, value in content.items():
        expected = {"str": str, "int": int}.get(str(known[name]))
        if expected is not None and (not isinstance(value, expected) or isinstance(value, bool)):
            raise AnnotationError(f"{file}: `{name}` is {value!r}, and {known[name]} was expected.")
    return dict(content)
