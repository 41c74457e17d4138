"""The sources of a run beside the inputs of a finished dataset, compared in the store: a million against a million.

Data: the dataset's inputs → table `known`, by path; what is to be done → table `todo`, by the id that it gets. All
questions are queries over `source` (store.py), `known` and `todo`; the answers are numbers, first examples, and
iterations in order.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pipelines.ingest.store import SourceStore, StoredSource

InputColumns = tuple[str, str, str]  # id, uri, digest

_CHUNK_ROWS = 5000
_TABLES = (
    "BEGIN",
    "DROP TABLE IF EXISTS todo",
    "DROP TABLE IF EXISTS known",
    "CREATE TABLE todo (id TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE INDEX todo_number ON todo (number)",
    "CREATE TABLE known (uri TEXT PRIMARY KEY, id TEXT, digest TEXT, complete INTEGER) WITHOUT ROWID",
)
_NEW = "source LEFT JOIN known USING (uri) WHERE known.uri IS NULL"
_FAILED = "source JOIN known USING (uri) WHERE NOT known.complete"
# An empty digest is of a dataset from before inputs were recorded: there the path alone counts.
_DIFFERENT = "source JOIN known USING (uri) WHERE known.digest NOT IN ('', source.digest)"
_MISSING = "known LEFT JOIN source USING (uri) WHERE source.uri IS NULL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Some:
    """How many there are, and the path of the first."""

    count: int
    first: str

    def __bool__(self) -> bool:
        return self.count > 0


class Comparison:
    """Sources and known inputs. A later comparison in the same store replaces this one."""

    def __init__(self, store: SourceStore, known: Iterable[InputColumns], complete: Iterable[str]) -> None:
        """`known` are the inputs of the dataset, `complete` the paths of those that are samples of it."""
        self._store, self._db = store, store.db
        for statement in _TABLES:
            self._db.execute(statement)
        rows = iter(known)
        while chunk := list(islice(rows, _CHUNK_ROWS)):
            self._db.executemany("INSERT OR REPLACE INTO known (id, uri, digest, complete) VALUES (?, ?, ?, 0)", chunk)
        uris = iter(complete)
        while done := [(uri,) for uri in islice(uris, _CHUNK_ROWS)]:
            self._db.executemany("UPDATE known SET complete = 1 WHERE uri = ?", done)
        self._db.execute("CREATE INDEX known_id ON known (id)")
        self._db.execute("COMMIT")

    @property
    def new(self) -> Some:
        """Sources that the dataset does not know."""
        return self._some(_NEW, "source.id")

    @property
    def missing(self) -> Some:
        """Inputs of the dataset that are not among the sources."""
        return self._some(_MISSING, "uri")

    @property
    def changed(self) -> Some:
        """Samples whose size, split or conversations are not what they were."""
        return self._some(f"{_DIFFERENT} AND known.complete", "source.id")

    @property
    def repaired(self) -> Some:
        """Failures that are not what they were."""
        return self._some(f"{_DIFFERENT} AND NOT known.complete", "source.id")

    @property
    def new_with_taken_id(self) -> Some:
        """New sources whose id another one in the dataset has."""
        return self._some(f"{_NEW} AND source.id IN (SELECT id FROM known)", "source.id")

    def add_all(self) -> None:
        """All sources are to be ingested, under their own ids."""
        self._db.execute("INSERT INTO todo SELECT id, number FROM source ORDER BY id")

    def add_new(self) -> None:
        """The new sources are to be ingested; those whose id is taken get a digest of the path behind it.

        Raises:
            ValueError: such an id is taken as well.
        """
        taken = "source.id IN (SELECT id FROM known)"
        try:
            self._db.execute(
                f"INSERT INTO todo SELECT CASE WHEN {taken} THEN with_digest(source.id, uri) ELSE source.id END, "
                f"number FROM {_NEW}"
            )
        except sqlite3.IntegrityError as error:
            raise ValueError("two new sources would get the same id; rename one of their files") from error
        twice = self._db.execute(
            "SELECT todo.id, source.uri FROM todo JOIN known ON known.id = todo.id "
            "JOIN source ON source.number = todo.number LIMIT 1"
        ).fetchone()
        if twice is not None:
            raise ValueError(f"the id {twice[0]!r} for {twice[1]} is taken by another video; rename the file")

    def add_failed(self) -> None:
        """What failed then is to be tried again, under the id that it had."""
        self._db.execute(f"INSERT INTO todo SELECT known.id, source.number FROM {_FAILED}")

    def todo(self, after: str = "") -> Iterator[StoredSource]:
        """What is to be ingested behind an id, ordered by id."""
        return self._store.select("todo", after)

    def identities(self) -> Iterator[tuple[Any, ...]]:
        """What tells one source that is to be ingested from another, ordered by id."""
        return self._store.identities("todo")

    def num_todo(self) -> int:
        """How many sources are to be ingested."""
        return int(self._store.value("SELECT count(*) FROM todo"))

    def goes_on(self, after: str) -> bool:
        """Whether anything is to be ingested behind an id."""
        return self._store.value("SELECT 1 FROM todo WHERE id > ? LIMIT 1", [after]) is not None

    def is_todo(self, name: str) -> bool:
        """Whether a source with this id is to be ingested."""
        return self._store.value("SELECT 1 FROM todo WHERE id = ?", [name]) is not None

    def inputs(self) -> Iterator[InputColumns]:
        """What the dataset will have been asked to hold: id, uri and digest of each, ordered by uri."""
        return self._db.execute(
            "SELECT todo.id, source.uri AS uri, source.digest FROM todo JOIN source ON source.number = todo.number "
            "UNION ALL SELECT id, uri, digest FROM known WHERE NOT EXISTS ("
            "SELECT 1 FROM source JOIN todo ON todo.number = source.number WHERE source.uri = known.uri) ORDER BY uri"
        )

    def num_inputs(self) -> int:
        """How many inputs that are."""
        both = (
            "SELECT count(*) FROM todo JOIN source ON source.number = todo.number JOIN known ON known.uri = source.uri"
        )
        return self.num_todo() + int(self._store.value(f"SELECT (SELECT count(*) FROM known) - ({both})"))

    def _some(self, what: str, order: str) -> Some:
        column = "known.uri" if what is _MISSING else "source.uri"
        count = int(self._store.value(f"SELECT count(*) FROM {what}"))
        first = self._store.value(f"SELECT {column} FROM {what} ORDER BY {order} LIMIT 1") if count else ""
        return Some(count=count, first=str(first))
