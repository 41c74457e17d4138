"""Reads the files that listings are: `.jsonl`, `.json`, `.csv` and `.parquet`, local or remote, a row at a time.

Data: path or URI → bytes by a seekable stream → `(place in the file, raw row)`. No form is held whole: JSONL and CSV go
line by line, JSON row by row through a window, Parquet by batches of its row groups, and only the columns asked for.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

from pipelines.filesystems import filesystem_of, is_local
from pipelines.ingest.kinds import LISTING_SUFFIXES, suffix_of

_QUOTING = 'put text with commas or line breaks between double quotes, and write a quote in it as ""'
_BATCH_ROWS = 1024
_WINDOW_CHARS = 1 << 20
_STREAM_BYTES = 1 << 20
_MOST_ROW_CHARS = 16 * 1024**2
_BLANK = re.compile(r"\s*")

Row = tuple[str, Any]  # the row's place in the file, and the row


def raw_rows(
    listing: str, columns: Sequence[str], kept_if_empty: Sequence[str], check_columns: Callable[[Sequence[str]], None]
) -> Iterator[Row]:
    """The rows of a listing, in order: of `columns` at least those that are there. An empty CSV cell is absent.

    `check_columns` sees the columns that a table has, before its first row.

    Raises:
        ValueError: the file is missing, or is not what its ending says.
    """
    suffix = suffix_of(listing)
    known = " ".join(sorted(LISTING_SUFFIXES))
    if suffix not in LISTING_SUFFIXES:
        raise ValueError(f"listing {listing!r} has no known ending; it must be one of {known}")
    with _opened(listing, known) as file:
        if suffix == ".parquet":
            yield from _parquet_rows(listing, file, columns, check_columns)
            return
        # Spreadsheets write a byte order mark.
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="" if suffix == ".csv" else None)
        try:
            if suffix == ".csv":
                yield from _csv_rows(listing, text, kept_if_empty, check_columns)
            elif suffix == ".json":
                yield from _json_rows(listing, text)
            else:
                yield from _jsonl_rows(listing, text)
        except UnicodeDecodeError as error:
            raise ValueError(f"{listing} is not in UTF-8 ({error.reason}); save the file as UTF-8") from error


@contextmanager
def _opened(listing: str, known: str) -> Iterator[BinaryIO]:
    filesystem, path = filesystem_of(listing)
    try:
        # A local file is buffered by Python; a remote one is read in blocks, ahead.
        with open(path, "rb") if is_local(listing) else filesystem.open(path, "rb", block_size=_STREAM_BYTES) as file:
            yield file
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ValueError(f"listing {listing!r} does not exist; give the path of a file that ends in {known}") from error


def _jsonl_rows(listing: str, file: io.TextIOWrapper) -> Iterator[Row]:
    for number, line in enumerate(file, start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                raise ValueError(
                    f"{listing}, line {number} is not valid JSON: {error}; correct or remove the line"
                ) from error
            yield f"line {number}", row


def _json_rows(listing: str, file: io.TextIOWrapper) -> Iterator[Row]:
    """The elements of a JSON array, through a window that grows to the largest of them."""
    window = _Window(file)
    if window.next_char() != "[":
        raise ValueError(f"{listing}: a .json listing must be a list of rows; one row a line goes into a .jsonl")
    window.skip()
    number = 0
    while (char := window.next_char()) != "]":
        number += 1
        if number > 1:
            if char != ",":
                raise ValueError(_not_json(listing, number, f"a comma is missing, {char!r} is there"))
            window.skip()
            window.next_char()
        try:
            row = window.decode()
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(_not_json(listing, number, json_problem(error))) from error
        yield f"row {number}", row
    window.skip()
    if window.next_char():
        raise ValueError(_not_json(listing, number, "there is text behind the list"))


def _not_json(listing: str, number: int, reason: str) -> str:
    return f"{listing}, row {number} is not valid JSON in UTF-8: {reason}; correct the file"


def json_problem(error: json.JSONDecodeError | RecursionError) -> str:
    """What is wrong with a text that is no JSON, or JSON of no use."""
    return error.msg if isinstance(error, json.JSONDecodeError) else "it is nested too deeply"


class _Window:
    """The part of a text that is being decoded."""

    def __init__(self, file: io.TextIOWrapper) -> None:
        self._file = file
        self._text = ""
        self._position = 0
        self._decoder = json.JSONDecoder()

    def next_char(self) -> str:
        """The next character that is not blank, which stays; "" at the end."""
        while True:
            match = _BLANK.match(self._text, self._position)
            self._position = match.end() if match else self._position
            if self._position < len(self._text):
                return self._text[self._position]
            if not self._grow():
                return ""

    def skip(self) -> None:
        """Passes one character."""
        self._position += 1

    def decode(self) -> Any:
        """The JSON value that begins here."""
        while True:
            try:
                value, self._position = self._decoder.raw_decode(self._text, self._position)
                return value
            except json.JSONDecodeError:
                # The value may go on behind the window; a real mistake is still there once no more is read.
                if len(self._text) - self._position > _MOST_ROW_CHARS or not self._grow():
                    raise

    def _grow(self) -> bool:
        left = self._text[self._position :]
        more = self._file.read(max(_WINDOW_CHARS, len(left)))  # twice as much each time: linear in the row's length
        self._text, self._position = left + more, 0
        return bool(more)


def _csv_rows(
    listing: str, file: io.TextIOWrapper, kept_if_empty: Sequence[str], check_columns: Callable[[Sequence[str]], None]
) -> Iterator[Row]:
    csv.field_size_limit(_MOST_ROW_CHARS)  # conversations in JSON outgrow csv's default of 128 KiB
    reader = csv.reader(file, strict=True)
    try:
        header = next(reader, [])
        check_columns(header)
        _check_unique(listing, header)
        for number, cells in enumerate((cells for cells in reader if cells), start=1):
            place = f"row {number} (line {reader.line_num})"
            if len(cells) != len(header):
                raise ValueError(
                    f"{listing}, {place}: {len(cells)} cells under {len(header)} columns ({', '.join(header)}); "
                    f"{_QUOTING}"
                )
            row = dict(zip(header, cells, strict=True))
            yield place, {key: cell for key, cell in row.items() if cell or key in kept_if_empty}
    except csv.Error as error:
        raise ValueError(f"{listing}, line {reader.line_num} is not valid CSV: {error}; {_QUOTING}") from error


def _parquet_rows(
    listing: str, file: BinaryIO, columns: Sequence[str], check_columns: Callable[[Sequence[str]], None]
) -> Iterator[Row]:
    """Rows without the columns that hold files instead of naming them (Hugging Face's `image: {bytes, path}`)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file, buffer_size=_STREAM_BYTES) as table:
            kinds = pa.types
            names = [
                field.name
                for field in table.schema_arrow
                if not kinds.is_struct(field.type) and not kinds.is_binary(field.type)
            ]
            check_columns(names)
            _check_unique(listing, names)
            wanted = [name for name in names if name in columns]
            number = 0
            for group in range(table.num_row_groups):
                for batch in table.iter_batches(_BATCH_ROWS, row_groups=[group], columns=wanted, use_threads=False):
                    for row in batch.to_pylist():
                        number += 1
                        yield f"row {number}", row
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"{listing} cannot be read as Parquet: {error}; write it again, or correct its name"
        ) from error


def _check_unique(listing: str, names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        found = ", ".join(map(repr, names))
        raise ValueError(f"{listing}: two columns share a name; rename one. The columns are: {found}")
