"""Reads listings of videos, `.jsonl`, `.json`, `.csv` and `.parquet`, as rows with a conversation each.

Data: file → raw rows with the place of each in the file → `ListingRow`s, one at a time. JSONL and CSV are read line by
line, Parquet by row groups and only the columns that the rule names, so that a listing with pictures beside its text
costs no more than its text. The rule, the same for every form (a null counts as absent):

* the video is in the first of `video`, `path`, `url`, `file` that the row has: absolute, or relative to the listing;
* the conversation is in `conversations` (a list of {"from", "value"}, or the JSON text of one), else `caption` or
  `text` answers a fixed instruction; a row without any of them only names the video;
* `id`, `split` and `category` (else `data_source`) are taken as they are; other columns are ignored.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from vamba.data.sample import SPLITS, Conversation

LISTING_SUFFIXES = frozenset((".jsonl", ".json", ".csv", ".parquet"))
VIDEO_COLUMNS = ("video", "path", "url", "file")
CAPTION_COLUMNS = ("caption", "text")
CAPTION_INSTRUCTION = "<video>\nDescribe this video in detail."

_OTHER_COLUMNS = ("conversations", "id", "split", "category", "data_source")
_QUOTING = 'put text with commas or line breaks between double quotes, and write a quote in it as ""'
_BATCH_ROWS = 1024
_MOST_CELL_CHARS = 16 * 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class ListingRow:
    """A row of a listing."""

    path: str  # absolute, of the video
    split: str | None
    conversation: Conversation | None


def listing_rows(listing: Path) -> Iterator[ListingRow]:
    """The rows of a listing, in order.

    Raises:
        ValueError: the file is missing or is not what its ending says, or a row is malformed; the message names the
            row, the column and the remedy.
    """
    listing = listing.expanduser().absolute()
    known = " ".join(sorted(LISTING_SUFFIXES))
    if not listing.is_file():
        raise ValueError(f"listing {str(listing)!r} does not exist; give the path of a file that ends in {known}")
    readers = {".jsonl": _jsonl_rows, ".json": _json_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}
    reader = readers.get(listing.suffix.lower())
    if reader is None:
        raise ValueError(f"listing {str(listing)!r} has no known ending; it must be one of {known}")
    for place, row in reader(listing):
        yield _mapped(listing, f"{listing}, {place}", row)


def _mapped(listing: Path, place: str, row: Any) -> ListingRow:
    if not isinstance(row, Mapping):
        raise ValueError(f'{place}: a row must be an object with "video": PATH, got {str(row)[:80]!r}')
    row = {column: value for column, value in row.items() if value is not None}
    split = row.get("split")
    if split is not None and split not in SPLITS:
        raise ValueError(f"{place}, column 'split': {split!r} must be one of {', '.join(SPLITS)}, or absent")
    return ListingRow(path=_video_path(listing, place, row), split=split, conversation=_conversation(place, row))


def _video_path(listing: Path, place: str, row: Mapping[str, Any]) -> str:
    column = next((name for name in VIDEO_COLUMNS if name in row), None)
    if column is None:
        raise ValueError(
            f"{place}: no video is named; put its path into the column 'video' (or one of "
            f"{', '.join(VIDEO_COLUMNS[1:])}). The row has: {', '.join(map(repr, row)) or 'nothing'}"
        )
    value = row[column]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(
            f"{place}, column {column!r}: {str(value)[:80]!r} is not the path of a video; write its path as text"
        )
    if "://" in value and not value.startswith("file://"):
        raise ValueError(
            f"{place}, column {column!r}: {value[:200]!r} is not a local path; copy the video to a local or mounted "
            "folder and name it there"
        )
    return os.path.normpath(listing.parent / value.removeprefix("file://"))


def _conversation(place: str, row: Mapping[str, Any]) -> Conversation | None:
    labels = {"id": row.get("id", ""), "category": row.get("category", row.get("data_source", ""))}
    if "conversations" in row:
        turns = row["conversations"]
        try:
            if isinstance(turns, str):
                turns = json.loads(turns)
            return Conversation.from_json({**labels, "conversations": turns})
        except ValueError as error:
            raise ValueError(
                f"{place}, column 'conversations', id {labels['id']!r}: {error}; write a list of "
                '{"from": "human" or "gpt", "value": text}, or its JSON text'
            ) from error
    column = next((name for name in CAPTION_COLUMNS if name in row), None)
    if column is None:
        return None
    caption = row[column]
    if not isinstance(caption, str) or not caption.strip():
        raise ValueError(
            f"{place}, column {column!r}: {str(caption)[:80]!r} is not a caption; write the text, or remove the row"
        )
    turns = [{"from": "human", "value": CAPTION_INSTRUCTION}, {"from": "gpt", "value": caption}]
    return Conversation.from_json({**labels, "conversations": turns})


def _jsonl_rows(listing: Path) -> Iterator[tuple[str, Any]]:
    with open(listing, encoding="utf-8") as file:
        for number, line in enumerate(_lines(listing, file), start=1):
            if line.strip():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise ValueError(
                        f"{listing}, line {number} is not valid JSON: {error}; correct or remove the line"
                    ) from error
                yield f"line {number}", row


def _json_rows(listing: Path) -> Iterator[tuple[str, Any]]:
    try:
        rows = json.loads(listing.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{listing} is not valid JSON in UTF-8: {error}; correct the file") from error
    if not isinstance(rows, list):
        raise ValueError(f"{listing}: a .json listing must be a list of rows; one row a line goes into a .jsonl")
    yield from ((f"row {number}", row) for number, row in enumerate(rows, start=1))


def _csv_rows(listing: Path) -> Iterator[tuple[str, Any]]:
    """Rows under the header line. An empty cell is absent; an empty caption is kept, for `_conversation` to refuse."""
    csv.field_size_limit(_MOST_CELL_CHARS)  # conversations in JSON outgrow csv's default of 128 KiB
    with open(listing, encoding="utf-8-sig", newline="") as file:  # spreadsheets write a byte order mark
        reader = csv.reader(_lines(listing, file), strict=True)
        try:
            header = next(reader, [])
            _check_columns(listing, header)
            for number, cells in enumerate((cells for cells in reader if cells), start=1):
                place = f"row {number} (line {reader.line_num})"
                if len(cells) != len(header):
                    raise ValueError(
                        f"{listing}, {place}: {len(cells)} cells under {len(header)} columns ({', '.join(header)}); "
                        f"{_QUOTING}"
                    )
                row = dict(zip(header, cells, strict=True))
                yield place, {key: cell for key, cell in row.items() if cell or key in CAPTION_COLUMNS}
        except csv.Error as error:
            raise ValueError(f"{listing}, line {reader.line_num} is not valid CSV: {error}; {_QUOTING}") from error


def _parquet_rows(listing: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(listing) as file:
            names = file.schema_arrow.names
            _check_columns(listing, names)
            wanted = [name for name in names if name in (*VIDEO_COLUMNS, *CAPTION_COLUMNS, *_OTHER_COLUMNS)]
            number = 0
            for group in range(file.num_row_groups):
                for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=wanted, use_threads=False):
                    for row in batch.to_pylist():
                        number += 1
                        yield f"row {number}", row
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"{listing} cannot be read as Parquet: {error}; write it again, or correct its name"
        ) from error


def _check_columns(listing: Path, names: Sequence[str]) -> None:
    found = ", ".join(map(repr, names)) or "none"
    if not set(VIDEO_COLUMNS) & set(names):
        raise ValueError(
            f"{listing}: no column names the videos; one must be called {', '.join(VIDEO_COLUMNS[:-1])} or "
            f"{VIDEO_COLUMNS[-1]}: rename it. The columns are: {found}"
        )
    if len(set(names)) < len(names):
        raise ValueError(f"{listing}: two columns share a name; rename one. The columns are: {found}")


def _lines(listing: Path, file: TextIO) -> Iterator[str]:
    try:
        yield from file
    except UnicodeDecodeError as error:
        raise ValueError(f"{listing} is not in UTF-8 ({error.reason}); save the file as UTF-8") from error
