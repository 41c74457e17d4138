"""Holds the sources of an ingest on disk: a listing of a million videos takes the memory of a few thousand.

Data: `Entry`s in any order, one for each mention of a source → one row per source in SQLite, their conversations beside
them → `seal()` gives the rows their ids and digests → iteration in order of id. Everything that needs to know all
sources (ids that two of them ask for, two splits for one video, the comparison with a dataset in comparison.py) is a
query. The file is SQLite's own temporary one: it has no name, so nothing is left behind however the process ends.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pipelines.filesystems import is_local
from pipelines.ingest import naming
from pipelines.ingest.rows import input_digest
from pipelines.ingest.types import IngestError, VideoSource
from pipelines.ingest.walk import stat
from vamba.data.sample import Conversation, Media

_encode = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps makes one for each call
_CACHE_KIB = 48 * 1024
_CHUNK_ROWS = 2000
_STAT_THREADS = 32

# The JSON list of a source's conversations, as `rows.source_row` writes it.
_CONVERSATIONS = """(
    SELECT '[' || coalesce(group_concat(json, ', '), '') || ']'
    FROM (SELECT json FROM conversation WHERE conversation.number = source.number ORDER BY rowid)
)"""
_COLUMNS = ("id", "uri", "size_bytes", "mtime_ns", "split", "media", "offset_bytes")
_SCHEMA = """
CREATE TABLE source (
    number INTEGER PRIMARY KEY, uri TEXT NOT NULL, relative TEXT NOT NULL, id TEXT NOT NULL, media TEXT NOT NULL,
    size_bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, offset_bytes INTEGER, split TEXT,
    problem_class TEXT, problem TEXT, digest TEXT NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX source_uri ON source (uri);
CREATE TABLE conversation (number INTEGER NOT NULL, json TEXT NOT NULL);
CREATE TABLE unmatched (uri TEXT PRIMARY KEY) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A mention of a source: a file of a folder, a row of a listing, a sample of a tar."""

    uri: str
    relative: str  # what its id is made from
    media: Media
    size_bytes: int | None = None  # None: not looked at yet
    mtime_ns: int = 0
    offset_bytes: int | None = None
    split: str | None = None
    conversation: Conversation | None = None
    problem: IngestError | None = None  # why it can only become a failure


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSource:
    """A source, and what the store knows about it."""

    source: VideoSource
    problem: IngestError | None  # why it is a failure before it is opened
    digest: str  # "sha256:…" of what is known of it: path, size, split, conversations


class SourceStore:
    """The sources of an ingest."""

    def __init__(self) -> None:
        self.db = sqlite3.connect("", isolation_level=None)  # no name: a temporary file that SQLite removes
        for pragma in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{_CACHE_KIB}"):
            self.db.execute(f"PRAGMA {pragma}")
        self.db.executescript(_SCHEMA)
        self.db.create_function("with_digest", 2, naming.with_digest, deterministic=True)
        self._next_number = 0
        self.first_unmatched: str | None = None

    def close(self) -> None:
        """Gives the disk space back."""
        self.db.close()

    def __len__(self) -> int:
        return int(self.value("SELECT count(*) FROM source"))

    def value(self, query: str, arguments: Sequence[Any] = ()) -> Any:
        """The first value that a query gives; None if it gives none."""
        row = self.db.execute(query, arguments).fetchone()
        return None if row is None else row[0]

    def add(self, entries: Iterable[Entry], told: Callable[[int], None], *, only_known: bool = False) -> None:
        """Adds sources, or with `only_known` what the entries say about sources that are there.

        Raises:
            ValueError: a source is put into two splits, or a path is not in UTF-8.
        """
        iterator = iter(entries)
        while chunk := list(islice(iterator, _CHUNK_ROWS)):
            self._add(chunk, only_known)
            told(self._next_number)

    def _add(self, chunk: Sequence[Entry], only_known: bool) -> None:
        uris = list(dict.fromkeys(entry.uri for entry in chunk))
        for uri in uris:
            _check_encoding(uri)
        self.db.execute("BEGIN")
        marks = ",".join("?" * len(uris))
        known = {
            uri: (number, split)
            for uri, number, split in self.db.execute(
                f"SELECT uri, number, split FROM source WHERE uri IN ({marks})", uris
            )
        }
        if only_known:
            unmatched = [(uri,) for uri in uris if uri not in known]
            if unmatched and self.first_unmatched is None:
                self.first_unmatched = unmatched[0][0]
            self.db.executemany("INSERT OR IGNORE INTO unmatched VALUES (?)", unmatched)
        else:
            self._insert(chunk, known)
        conversations, splits = [], {}
        for entry in chunk:
            if entry.uri not in known:
                continue
            number, split = known[entry.uri]
            if entry.split is not None and entry.split != split:
                if split is not None:
                    names = ", ".join(sorted((split, entry.split)))
                    raise ValueError(f"the listing puts {entry.uri} into two splits: {names}; keep one")
                known[entry.uri] = (number, entry.split)
                splits[number] = entry.split
            if entry.conversation is not None:
                text = _encode(entry.conversation.to_json())
                _check_text(text, entry.uri)
                conversations.append((number, text))
        self.db.executemany("UPDATE source SET split = ? WHERE number = ?", [(s, n) for n, s in splits.items()])
        self.db.executemany("INSERT INTO conversation VALUES (?, ?)", conversations)
        self.db.execute("COMMIT")

    def _insert(self, chunk: Sequence[Entry], known: dict[str, tuple[int, str | None]]) -> None:
        """Inserts the sources of a chunk that are new, and makes them known."""
        new: list[Entry] = []
        for entry in chunk:
            if entry.uri not in known:
                known[entry.uri] = (self._next_number + len(new), None)
                new.append(entry)
        rows = [
            (number, entry.uri, entry.relative, naming.slug(entry.relative), entry.media)
            + (*looks, entry.offset_bytes, None, *_problem_columns(entry))
            for number, (entry, looks) in enumerate(zip(new, _looks(new), strict=True), start=self._next_number)
        ]
        self.db.executemany(
            "INSERT INTO source (number, uri, relative, id, media, size_bytes, mtime_ns, offset_bytes, split, "
            "problem_class, problem) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        )
        self._next_number += len(new)

    def seal(self) -> None:
        """Gives each source its id and its digest. Nothing is added afterwards.

        Raises:
            ValueError: two sources have one id, even with digests behind them.
        """
        shared = "id IN (SELECT id FROM source GROUP BY id HAVING count(*) > 1)"
        self.db.execute("BEGIN")
        self.db.execute("CREATE INDEX source_id ON source (id)")
        self.db.execute(f"UPDATE source SET id = with_digest(id, relative) WHERE {shared}")
        # Two folders may hold the same relative path: their full paths tell them apart.
        self.db.execute(f"UPDATE source SET id = with_digest(id, uri) WHERE {shared}")
        twice = self.db.execute(f"SELECT id, uri FROM source WHERE {shared} LIMIT 1").fetchone()
        if twice is not None:
            raise ValueError(f"the id {twice[0]!r} for {twice[1]} is taken by another source; rename the file")
        self.db.execute("CREATE INDEX conversation_number ON conversation (number)")
        rows = self.db.execute(f"SELECT number, uri, size_bytes, split, {_CONVERSATIONS} FROM source ORDER BY number")
        digests = ((input_digest(*row), number) for number, *row in rows)
        while chunk := list(islice(digests, _CHUNK_ROWS)):
            self.db.executemany("UPDATE source SET digest = ? WHERE number = ?", chunk)
        self.db.execute("COMMIT")

    def sources(self, after: str = "") -> Iterator[StoredSource]:
        """All sources behind an id, ordered by id."""
        return self.select("source", after)

    def select(self, ids: str, after: str) -> Iterator[StoredSource]:
        """The sources behind an id in order of the ids that the table `ids` gives them, by the column `number`."""
        cursor = self.db.cursor()
        cursor.row_factory = sqlite3.Row
        cursor.execute(
            f"SELECT {ids}.id AS id, uri, size_bytes, mtime_ns, split, media, offset_bytes, problem_class, problem, "
            f"digest, {_CONVERSATIONS} AS conversations FROM {_joined(ids)} WHERE {ids}.id > ? ORDER BY {ids}.id",
            [after],
        )
        for row in cursor:
            source = VideoSource(
                **{name: row[name] for name in _COLUMNS},
                conversations=tuple(Conversation.from_json(item) for item in json.loads(row["conversations"])),
            )
            error = IngestError(row["problem_class"], row["problem"]) if row["problem_class"] else None
            yield StoredSource(source=source, problem=error, digest=row["digest"])

    def identities(self, ids: str = "source") -> Iterator[tuple[Any, ...]]:
        """What tells one source from another, in order of the ids that the table `ids` gives them."""
        return self.db.execute(
            f"SELECT {ids}.id, digest, mtime_ns, media, offset_bytes, problem FROM {_joined(ids)} ORDER BY {ids}.id"
        )


def _joined(ids: str) -> str:
    return ids if ids == "source" else f"{ids} JOIN source ON source.number = {ids}.number"


def _looks(entries: Sequence[Entry]) -> list[tuple[int, int]]:
    """Size and time of each entry: looked up, where they did not come with it; remote ones side by side."""

    def look(entry: Entry) -> tuple[int, int]:
        if entry.problem:
            return -1, 0
        return stat(entry.uri) if entry.size_bytes is None else (entry.size_bytes, entry.mtime_ns)

    if all(entry.size_bytes is not None or entry.problem or is_local(entry.uri) for entry in entries):
        return [look(entry) for entry in entries]
    with ThreadPoolExecutor(_STAT_THREADS) as pool:
        return list(pool.map(look, entries))


def _check_encoding(uri: str) -> None:
    try:
        uri.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the name of {os.fsencode(uri)!r} is not in UTF-8, which the dataset stores; rename the file"
        ) from error


def _check_text(text: str, uri: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ascii(text[error.start : error.end])
        raise ValueError(f"the text about {uri} holds half of a character, {half}; correct the text") from error


def _problem_columns(entry: Entry) -> tuple[str | None, str | None]:
    return (entry.problem.error_class, entry.problem.message) if entry.problem else (None, None)
