"""An ingest in this process, without Ray, that dies at a chosen storage operation.

`Faults` wraps the operations of a storage class that change something and counts them. At the chosen one it dies:
before it, in the middle of it (a half-written temporary file, a half-removed folder), or after it. From then on no
storage answers, as for a process that SIGKILL has ended: nothing the program does on its way out takes effect.
"""

from __future__ import annotations

import functools
import itertools
import pickle
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.ingest import job, lock, stages
from pipelines.ingest.sandbox import DecoderProcess
from pipelines.storage import LocalStorage

CHANGES = ("write_atomic", "put_file", "create", "replace", "delete", "delete_version", "delete_tree")
READS = ("read_bytes", "read_range", "read_version", "exists", "walk", "list")
HALF_WRITES = ("write_atomic", "create", "replace")


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the product catches it."""


class Faults:
    """Where the running ingest dies. `at` is the number of the operation, from 0; None: it does not.

    With `meanwhile` it only sleeps, after that operation, while something else happens.
    """

    def __init__(self, patch: pytest.MonkeyPatch, storage: type = LocalStorage) -> None:
        self.at: int | None = None
        self.moment = "before"
        self.operations: list[str] = []
        self.meanwhile: Callable[[], None] | None = None
        self._dead = False
        self._inside = False
        for name in (*CHANGES, *READS):
            patch.setattr(storage, name, self._wrap(name, getattr(storage, name)))

    def start(self, at: int | None, moment: str = "before") -> None:
        """A new process begins."""
        self.at, self.moment, self.operations, self._dead = at, moment, [], False

    def _wrap(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def operation(storage: Any, *arguments: Any) -> Any:
            if self._dead:
                raise Killed
            if self._inside or name in READS:
                return original(storage, *arguments)
            number = len(self.operations)
            self.operations.append(f"{name} {Path(arguments[0]).name}")
            self._inside = True
            try:
                if number != self.at:
                    return original(storage, *arguments)
                if self.moment == "within":
                    self._half(storage, name, arguments)
                elif self.moment == "after":
                    original(storage, *arguments)
                if self.meanwhile is not None:
                    result = original(storage, *arguments)
                    self.meanwhile()
                    return result
            finally:
                self._inside = False
            self._dead = True
            raise Killed

        return operation

    def _half(self, storage: Any, name: str, arguments: tuple[Any, ...]) -> None:
        if name == "delete_tree":
            entries = storage.list(arguments[0])
            for entry in entries[: (len(entries) + 1) // 2]:
                storage.delete(entry.path)
        elif name in HALF_WRITES and isinstance(storage, LocalStorage):
            target = Path(storage.uri, arguments[0])
            target.parent.mkdir(parents=True, exist_ok=True)
            (target.parent / f".{target.name}.0123456789ab.tmp").write_bytes(b"half")
        elif name == "put_file":
            shutil.copy(arguments[1], f"{arguments[1]}.left")  # the program removes its scratch file on its way out


class OneProcess:
    """Runs the stages of an ingest here, one task after the other, in an order drawn from a seed.

    Decoded frames are remembered, so that a second run costs no decoding. Each `life` is another process to the lock.
    """

    def __init__(self, patch: pytest.MonkeyPatch, seed: int = 0) -> None:
        self._draw = random.Random(seed)
        self._lives = itertools.count(1)
        self._patch = patch
        self._decoder = _Remembering()
        patch.setattr(job, "run_stage", self._run_stage)
        patch.setattr(job, "ray_session", lambda *_: nullcontext())
        patch.setattr(stages, "_worker_decoder", lambda _: self._decoder)
        patch.setattr("os.fsync", lambda _: None)
        self.life()

    def life(self) -> None:
        """The process that held a lock until now is gone."""
        number = next(self._lives)
        self._patch.setattr(lock, "start_ticks", lambda _: number)

    def forget(self) -> None:
        """Files are others by now."""
        self._decoder.answers.clear()

    def close(self) -> None:
        self._decoder.process.close()

    def _run_stage(self, tasks: Sequence[pa.Table], work: Callable[[pa.Table], pa.Table]) -> Iterator[pa.Table]:
        for task in self._draw.sample(list(tasks), len(tasks)):
            yield work(task)


class _Remembering:
    def __init__(self) -> None:
        self.process = DecoderProcess(max_rss_bytes=1 << 30)
        self.answers: dict[bytes, Any] = {}

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*request: Any, **limits: Any) -> Any:
            key = pickle.dumps((name, request, limits.get("sequentially")))
            if key not in self.answers:
                try:
                    self.answers[key] = getattr(self.process, name)(*request, **limits)
                except Exception as error:
                    self.answers[key] = error
            if isinstance(self.answers[key], Exception):
                raise self.answers[key]
            return self.answers[key]

        return call
