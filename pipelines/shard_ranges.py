"""Byte ranges of a dataset's shards, as the training reader asks for them: by shard name, from any storage."""

from __future__ import annotations

from collections.abc import Callable

from pipelines.manifest_io import SHARDS_PREFIX
from pipelines.storage import LocalStorage, Storage


class ShardRanges:
    """`ranges(shard, offset, length)` gives bytes. `read_into` fills memory that is there, where the storage can."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.read_into: Callable[[str, int, memoryview], None] | None = (
            self._read_into if isinstance(storage, LocalStorage) else None
        )

    def __call__(self, shard: str, offset: int, length: int) -> bytes:
        return self._storage.read_range(f"{SHARDS_PREFIX}/{shard}", offset, length)

    def _read_into(self, shard: str, offset: int, target: memoryview) -> None:
        assert isinstance(self._storage, LocalStorage)
        self._storage.read_into(f"{SHARDS_PREFIX}/{shard}", offset, target)
