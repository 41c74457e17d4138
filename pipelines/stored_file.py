"""What a listing of a storage consists of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """An entry of a listing."""

    path: str  # relative to the root
    size_bytes: int
