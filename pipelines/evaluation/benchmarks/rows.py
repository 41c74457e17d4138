"""Annotation files as rows, in whatever of the published forms they come: JSON, JSONL, Parquet, CSV.

A row knows the file and the place it came from, so that what is wrong with it can be said in one sentence.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

_ENCODING = "utf-8-sig"  # UTF-8, with or without the mark that some programs put before it
_HALVES = re.compile(r"[\ud800-\udfff]")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class AnnotationError(ValueError):
    """A benchmark's folder or annotation that can't be used; the message names the file, the row and the field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One annotated question. place: "row 3", "line 3" or what else finds it in the file."""

    file: Path
    place: str
    values: Mapping[str, Any]

    def has(self, name: str) -> bool:
        """Whether the field says anything; NaN is how a table of numbers leaves one empty."""
        value = self.values.get(name)
        return value is not None and value == value

    def says(self, name: str) -> bool:
        """Whether the field is there and not blank."""
        return self.has(name) and str(self.values[name]).strip() != ""

    def text(self, name: str) -> str:
        """A field as text. Raises AnnotationError where it is missing, or a list."""
        value = self._value(name)
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return _encodable(str(value))
        raise self.error(f"the field `{name}` is {_kind(value)}, and text was expected")

    def texts(self, name: str) -> tuple[str, ...]:
        """A field as a list of texts; one text counts as a list of one."""
        value = self._value(name)
        items = [value] if isinstance(value, str) else value
        if isinstance(items, Sequence) and items and all(isinstance(item, str | int | float) for item in items):
            return tuple(_encodable(str(item)) for item in items)
        raise self.error(f"the field `{name}` is {_kind(value)}, and a list of texts was expected")

    def listed(self, name: str) -> tuple[str, ...]:
        """A field as several texts; a table without lists may hold them as a JSON list."""
        value = self._value(name)
        if not isinstance(value, str):
            return self.texts(name)
        try:
            items = json.loads(value)
        except ValueError:
            items = None
        if isinstance(items, list):
            return replace(self, values={**self.values, name: items}).texts(name)
        raise self.error(f"the field `{name}` is {value!r}, and a list was expected (in a CSV file as JSON)")

    def seconds(self, name: str) -> float | None:
        """A field as a number of seconds, None where it is missing, or empty as tables leave it."""
        if not self.says(name):
            return None
        value = self.values[name]
        try:
            seconds = float(value)
        except (TypeError, ValueError):
            seconds = math.nan
        if not math.isfinite(seconds):
            raise self.error(f"the field `{name}` is {value!r}, and a number of seconds was expected")
        return seconds

    def whole(self, name: str) -> int | None:
        """A field that is a whole number, be it written as 2, "2" or 2.0; None for anything else."""
        value = self._value(name)
        if isinstance(value, float) and value.is_integer():
            return int(value)
        return int(text) if re.fullmatch(r"[+-]?[0-9]+", text := str(value).strip()) else None

    def name(self, name: str) -> str:
        """A field that names a file or a question: text, or a whole number, whatever a table made of it."""
        value = self._value(name)
        return str(int(value)) if isinstance(value, float) and value.is_integer() else self.text(name)

    def letter(self, name: str) -> str:
        """A field that is an option's letter."""
        letter = self.text(name).strip().strip("().").upper()
        if len(letter) == 1 and letter in _LETTERS:
            return letter
        raise self.error(f"the field `{name}` is {self.text(name)!r}, and an option's letter was expected")

    def letter_of_index(self, name: str, options: Sequence[str]) -> str:
        """A field that is an option's number, counted from 0."""
        index = self.whole(name)
        if index is not None and 0 <= index < len(options):
            return self._letter_at(index)
        raise self.error(
            f"the field `{name}` is {self._value(name)!r}, and a number from 0 to {len(options) - 1} was expected"
        )

    def letter_of_text(self, name: str, options: Sequence[str]) -> str:
        """A field that repeats an option's text: the letter of the first that equals it, else equals it but for blanks
        around it."""
        text = self.text(name)
        for said, offered in ((text, list(options)), (text.strip(), [option.strip() for option in options])):
            if said in offered:
                return self._letter_at(offered.index(said))
        raise self.error(f"the field `{name}` is {text!r}, and none of the options {list(options)} equals it")

    def _letter_at(self, index: int) -> str:
        if index < len(_LETTERS):
            return _LETTERS[index]
        raise self.error(f"there are more options than letters, {len(_LETTERS)}, and the right one is number {index}")

    def error(self, problem: str) -> AnnotationError:
        return AnnotationError(f"{self.file}, {self.place}: {problem}. Correct the row, or download the file again.")

    def _value(self, name: str) -> Any:
        if not self.has(name):
            raise self.error(f"the field `{name}` is missing (there is {', '.join(self.values) or 'nothing'})")
        return self.values[name]


def find_files(folder: Path, patterns: Iterable[str], *, benchmark: str, source: str) -> list[Path]:
    """The files that match the first pattern that any matches. `source`: where the annotations come from.

    Raises AnnotationError naming what was looked for.
    """
    patterns = list(patterns)
    if not folder.is_dir():
        raise AnnotationError(f"The folder {folder} does not exist: --data names the folder that holds {benchmark}.")
    for pattern in patterns:
        found = sorted(path for path in folder.glob(pattern) if path.is_file())
        if found:
            return found
    raise AnnotationError(
        f"{folder} holds no annotations of {benchmark}: none of {', '.join(patterns)} is there. They come from "
        f"{source}."
    )


def read_rows(file: Path) -> list[Row]:
    """All rows of a file. Raises AnnotationError for one that can't be read, or holds no rows."""
    readers = {".json": _json_rows, ".jsonl": _json_lines, ".parquet": _parquet_rows, ".csv": _csv_rows}
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise AnnotationError(f"{file} is no annotation file: its name must end in {', '.join(readers)}.")
    return reader(file)


def read_json(file: Path) -> Any:
    """The content of a JSON file. Raises AnnotationError naming the line that is no JSON."""
    try:
        return json.loads(file.read_text(encoding=_ENCODING))
    except (OSError, ValueError, RecursionError) as error:
        raise AnnotationError(f"{file} can't be read as JSON: {error}. Download it again.") from error


def digest_of_files(files: Iterable[Path]) -> str:
    """ "sha256:…" of the files' contents, in order of their names."""
    total = hashlib.sha256()
    for file in sorted(files):
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return f"sha256:{total.hexdigest()}"


def _json_rows(file: Path) -> list[Row]:
    content = read_json(file)
    if not isinstance(content, list):
        raise AnnotationError(f"{file} holds {_kind(content)}, and a list of questions was expected.")
    return [row_of(file, f"row {number}", values) for number, values in enumerate(content, start=1)]


def _json_lines(file: Path) -> list[Row]:
    rows = []
    # Not `splitlines`: it would also break at separators that JSON allows within a text.
    for number, line in enumerate(_text(file).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(row_of(file, f"line {number}", json.loads(line)))
        except (json.JSONDecodeError, RecursionError) as error:
            raise AnnotationError(f"{file}, line {number} is not JSON: {error}. Download the file again.") from error
    return rows


def _parquet_rows(file: Path) -> list[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(file)
    except (OSError, pyarrow.ArrowException) as error:
        raise AnnotationError(f"{file} can't be read as Parquet: {error}. Download it again.") from error
    return [row_of(file, f"row {number}", values) for number, values in enumerate(table.to_pylist(), start=1)]


def _csv_rows(file: Path) -> list[Row]:
    rows = []
    try:
        for number, values in enumerate(csv.DictReader(io.StringIO(_text(file), newline="")), start=1):
            named = {name: value for name, value in values.items() if name is not None}
            row = row_of(file, f"row {number}", named)
            if len(named) < len(values):
                raise row.error(f"it has more fields than the {len(named)} of the first line")
            rows.append(row)
    except csv.Error as error:
        raise AnnotationError(f"{file} can't be read as CSV: {error}. Download it again.") from error
    return rows


def _text(file: Path) -> str:
    try:
        return file.read_bytes().decode(_ENCODING)
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{file} can't be read as text in UTF-8: {error}. Download it again.") from error


def row_of(file: Path, place: str, values: Any) -> Row:
    """A row of a file. Raises AnnotationError for what is no object with fields."""
    if not isinstance(values, Mapping):
        raise AnnotationError(f"{file}, {place} is {_kind(values)}, and an object with fields was expected.")
    return Row(file=file, place=place, values=values)


def _encodable(text: str) -> str:
    """Halves of characters, which JSON can hold and no file in UTF-8, as the sign of what is unknown."""
    return _HALVES.sub("\ufffd", text)


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return "an object"
    return "a list" if isinstance(value, list | tuple) else repr(value)
