"""Reads listings of videos and images as rows with a conversation each; one written rule for every form of file.

Data: listing → raw rows (listing_files.py) → `ListingRow`s, one at a time. The rule (a null counts as absent):

* the media is in the first of `video`, `image`, `path`, `url`, `file` that the row has: a path, absolute or relative to
  the listing, or a URI. `video` and `image` say what it is; of the others the ending does;
* the conversation is in `conversations` (a list of {"from", "value"}, or the JSON text of one), else `caption` or
  `text` answers a fixed instruction; a row without any of them only names its media;
* a row with a conversation and no media is text only: it is counted, and nothing is made of it;
* `id`, `split`, `category` (else `data_source`) and `groups` are taken as they are; other columns are ignored.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.filesystems import check_no_credentials, filesystem_of, is_local, local_path, scheme_of
from pipelines.ingest.kinds import media_of, without_query
from pipelines.ingest.listing_files import raw_rows
from pipelines.ingest.types import IngestError
from vamba.data.sample import SPLITS, Conversation, Media

MEDIA_COLUMNS = ("video", "image", "path", "url", "file")
CAPTION_COLUMNS = ("caption", "text")
CAPTION_INSTRUCTIONS: Mapping[Media, str] = {
    "video": "<video>\nDescribe this video in detail.",
    "image": "<image>\nDescribe this image in detail.",
}

_COLUMNS = (*MEDIA_COLUMNS, *CAPTION_COLUMNS, "conversations", "id", "split", "category", "data_source", "groups")
_PLACEHOLDER = re.compile("<(?:video|image)>")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListingRow:
    """A row of a listing."""

    uri: str | None  # of the media, an absolute path or a URI; None if the row is text only
    media: Media
    split: str | None
    conversation: Conversation | None
    problem: IngestError | None = None  # why nothing can be made of it, though it is well-formed


def absolute_listing(listing: str) -> str:
    """The absolute path or the URI of a listing."""
    return str(local_path(listing)) if is_local(listing) else listing


def folder_of(listing: str) -> str:
    """The folder that the paths in a listing are relative to."""
    return posixpath.dirname(without_query(listing))


def listing_rows(listing: str) -> Iterator[ListingRow]:
    """The rows of a listing, in order.

    Raises:
        ValueError: the file is missing or is not what its ending says, or a row is malformed; the message names the
            row, the column and the remedy.
    """
    listing = absolute_listing(listing)
    folder = folder_of(listing)
    for place, row in raw_rows(listing, _COLUMNS, CAPTION_COLUMNS, functools.partial(_check_columns, listing)):
        yield _mapped(listing, folder, place, row)


def _mapped(listing: str, folder: str, place_in_file: str, row: Any) -> ListingRow:
    place = f"{listing}, {place_in_file}"
    if not isinstance(row, Mapping):
        raise ValueError(f'{place}: a row must be an object with "video": PATH, got {str(row)[:80]!r}')
    row = {column: value for column, value in row.items() if value is not None}
    split = split_in(place, row)
    column = next((name for name in MEDIA_COLUMNS if row.get(name, []) != []), None)
    if column is None:
        _check_text_only(place, row)
        return ListingRow(uri=None, media="video", split=split, conversation=None)
    value = row[column]
    if isinstance(value, list):
        if len(value) > 1:
            uri = f"{listing}#{place_in_file.partition(' (')[0].replace(' ', '-')}"
            problem = (
                f"{place} names {len(value)} files in column {column!r}, and a sample holds one video or one image; "
                "give each a row of its own, or join them into one"
            )
            error = IngestError("unsupported", problem)
            return ListingRow(uri=uri, media="image", split=split, conversation=None, problem=error)
        value = value[0]
    uri = _resolved(place, column, folder, value)
    media: Media = column if column in ("video", "image") else media_of(uri) or "video"  # type: ignore[assignment]
    return ListingRow(uri=uri, media=media, split=split, conversation=conversation_in(place, row, media))


def _resolved(place: str, column: str, folder: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(
            f"{place}, column {column!r}: {str(value)[:80]!r} is not the path of a file; write its path as text"
        )
    if "://" in value and not is_local(value):
        check_no_credentials(value, f"{place}, column {column!r}")
        problem = _scheme_problem(scheme_of(value))
        if problem is not None:
            raise ValueError(f"{place}, column {column!r}: {value[:200]!r} cannot be read: {problem}")
        return value
    value = value.removeprefix("file://")
    if os.path.isabs(value) or "://" not in folder:
        return os.path.normpath(os.path.join(folder, value))
    scheme, _, parent = folder.partition("://")
    return f"{scheme}://{posixpath.normpath(posixpath.join(parent, value))}"


@functools.cache
def _scheme_problem(scheme: str) -> str | None:
    try:
        filesystem_of(f"{scheme}://host/path")
    except ValueError as error:
        return str(error)
    return None


def split_in(place: str, row: Mapping[str, Any]) -> str | None:
    """The split that a row names.

    Raises:
        ValueError: there is no such split.
    """
    split = row.get("split")
    if split is not None and split not in SPLITS:
        raise ValueError(f"{place}, column 'split': {split!r} must be one of {', '.join(SPLITS)}, or absent")
    return split


def conversation_in(place: str, row: Mapping[str, Any], media: Media) -> Conversation | None:
    """The conversation or caption of a row; None if it has neither.

    Raises:
        ValueError: it is malformed.
    """
    labels: dict[str, Any] = {"id": row.get("id", ""), "category": row.get("category", row.get("data_source", ""))}
    if row.get("groups"):
        labels["groups"] = _groups_in(place, row["groups"])
    if "conversations" in row:
        turns = row["conversations"]
        try:
            if isinstance(turns, str):
                turns = json.loads(turns)
            return Conversation.from_json({**labels, "conversations": turns})
        except (ValueError, RecursionError) as error:
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
    turns = [{"from": "human", "value": CAPTION_INSTRUCTIONS[media]}, {"from": "gpt", "value": caption}]
    return Conversation.from_json({**labels, "conversations": turns})


def _groups_in(place: str, value: Any) -> dict[str, str]:
    """An object of labels, or its JSON text; of a Parquet row, which has every label of the column, without the nulls.

    Raises:
        ValueError: it is something else.
    """
    groups = _json_or_text(value)
    labels = {name: label for name, label in groups.items() if label is not None} if isinstance(groups, dict) else None
    if labels is None or not all(isinstance(label, str) and label for label in labels.values()):
        raise ValueError(
            f"{place}, column 'groups': {str(value)[:80]!r} is not an object of labels; write "
            '{"grouping": "label"}, or its JSON text'
        )
    return labels


def _json_or_text(value: Any) -> Any:
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return json.loads(value)
    return value


def _check_text_only(place: str, row: Mapping[str, Any]) -> None:
    """A row without media is text only if it has a conversation which does not speak of any."""
    conversation = conversation_in(place, row, "video") if "conversations" in row else None
    if conversation is None or any(_PLACEHOLDER.search(turn.value) for turn in conversation.turns):
        raise ValueError(
            f"{place}: no video or image is named; put its path into the column 'video' or 'image' (or one of "
            f"{', '.join(MEDIA_COLUMNS[2:])}). The row has: {', '.join(map(repr, row)) or 'nothing'}"
        )


def _check_columns(listing: str, names: Sequence[str]) -> None:
    found = ", ".join(map(repr, names)) or "none"
    if not set(MEDIA_COLUMNS) & set(names):
        raise ValueError(
            f"{listing}: no column names the videos or images; one must be called {', '.join(MEDIA_COLUMNS[:-1])} or "
            f"{MEDIA_COLUMNS[-1]} and hold paths: rename it, or write the files that it holds to a folder. The columns "
            f"are: {found}"
        )
