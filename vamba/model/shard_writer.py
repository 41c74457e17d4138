"""Safetensors files written as the tensors come: one tensor's bytes after the other, the header last.

    add(name, dtype, shape, pieces) ──> shard-0, shard-1, … ──close──> model-00001-of-0000n.safetensors, index

The header stands before the bytes it describes, so its room is reserved: the caller knows every name and shape, hence the
longest header there can be, and what is left of the room is filled with spaces, as the format allows. So memory holds a
piece of a tensor, however large tensor and file are.
"""  # noqa: E501

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import torch
from torch import Tensor

from vamba.model.tensor_files import DTYPES, INDEX_FILE, LENGTH_BYTES, PIECE_BYTES, WEIGHTS_FILE

_METADATA = {"__metadata__": {"format": "pt"}}
_MOST_BYTES = 10**15
_UNITS = {"B": 1, **{f"{unit}B": 1000**power for power, unit in enumerate("KMGT", start=1)}}
_UNITS |= {f"{unit}IB": 1024**power for power, unit in enumerate("KMGT", start=1)}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class ShardWriter:
    """Writes tensors to files of at most `max_bytes` each (more where one tensor is larger), below `directory`.

    `shapes` names every tensor that will come. Used as a context: left without an error, the files have their final names
    and are on the disk.
    """  # noqa: E501

    def __init__(self, directory: Path, shapes: Mapping[str, tuple[int, ...]], max_bytes: int) -> None:
        self.total_bytes = 0
        self._left = dict(shapes)
        self._directory, self._max_bytes = directory, _at_least_one(max_bytes)
        longest = {name: _entry("F8_E4M3", shape, _MOST_BYTES, _MOST_BYTES) for name, shape in shapes.items()}
        # A multiple of 8, so that the tensors behind it lie aligned.
        self._header_bytes = math.ceil(len(_json({**_METADATA, **longest})) / 8) * 8
        self._file: BinaryIO | None = None
        self._entries: dict[str, Any] = {}
        self._used = 0
        self._shards: list[list[str]] = []

    def __enter__(self) -> ShardWriter:
        return self

    def add(self, name: str, dtype: torch.dtype, shape: tuple[int, ...], pieces: Iterable[memoryview]) -> None:
        """Append a tensor whose bytes come in pieces."""
        announced = self._left.pop(name, None)
        assert announced == shape, f"{name} of shape {shape} is not a tensor that was announced"
        size = math.prod(shape) * dtype.itemsize
        if self._file is not None and starts_shard(self._used, size, dtype.itemsize, self._max_bytes):
            self._finish_shard()
        if self._file is None:
            self._file = (self._directory / _draft_name(len(self._shards))).open("wb")
            self._file.seek(LENGTH_BYTES + self._header_bytes)
        begin = self._used
        for piece in pieces:
            self._file.write(piece)
            self._used += len(piece)
        assert self._used - begin == size, f"{name}: {self._used - begin} bytes came, {size} were announced"
        self._entries[name] = _entry(_NAMES[dtype], shape, begin, self._used)
        self.total_bytes += size

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            if self._file is not None:
                self._file.close()
            return
        assert not self._left, f"announced, but not written: {list(self._left)}"
        self._finish_shard()
        count = len(self._shards)
        names = [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)] if count > 1 else [WEIGHTS_FILE]
        for index, name in enumerate(names):
            (self._directory / _draft_name(index)).rename(self._directory / name)
        if count > 1:
            placed = {tensor: name for name, held in zip(names, self._shards, strict=True) for tensor in held}
            content = {"metadata": {"total_size": self.total_bytes}, "weight_map": placed}
            (self._directory / INDEX_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def _finish_shard(self) -> None:
        assert self._file is not None, "a checkpoint holds at least one tensor"
        header = _json({**_METADATA, **self._entries})
        assert len(header) <= self._header_bytes, "the room for the header is the longest there can be"
        self._file.seek(0)
        self._file.write(self._header_bytes.to_bytes(LENGTH_BYTES, "little"))
        self._file.write(header.ljust(self._header_bytes))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._shards.append(list(self._entries))
        self._file, self._entries, self._used = None, {}, 0


def starts_shard(used: int, size: int, alignment: int, max_bytes: int) -> bool:
    """Whether a tensor of `size` bytes begins a new file: this one would grow too large, or leave it unaligned."""
    return used > 0 and (used + size > max_bytes or used % alignment != 0)


def tensor_pieces(tensor: Tensor, dtype: torch.dtype | None = None) -> Iterator[memoryview]:
    """The bytes of a tensor on any device, in another dtype if one is given, piece by piece."""
    flat = tensor.detach().reshape(-1)
    dtype = dtype or tensor.dtype
    for values in flat.split(max(1, PIECE_BYTES // dtype.itemsize)) if flat.numel() else ():
        yield memoryview(values.to("cpu", dtype).contiguous().view(torch.uint8).numpy())


def size_in_bytes(given: int | str) -> int:
    """A size given as bytes or as a text: "4GB" is 4 * 10**9 bytes, "4GiB" 4 * 2**30."""
    if isinstance(given, int):
        return _at_least_one(given)
    parts = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?i?B)\s*", given, re.IGNORECASE)
    if parts is None or parts[2].upper() not in _UNITS:
        raise ValueError(f"max_shard_size is {given!r}; it must be bytes or a text such as '5GB'")
    return _at_least_one(int(float(parts[1]) * _UNITS[parts[2].upper()]))


def _at_least_one(max_bytes: int) -> int:
    if max_bytes < 1:
        raise ValueError(f"max_shard_size is {max_bytes} bytes; it must be at least 1")
    return max_bytes


def _draft_name(index: int) -> str:
    return f"shard-{index}"


def _entry(dtype: str, shape: tuple[int, ...], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode("utf-8")
