"""The safetensors files of a directory as names, types and byte ranges, without reading a tensor.

    model.safetensors, or those of the index ──read_header──> StoredTensor (where it lies) ──pieces──> bytes, 16 MiB at a time

A header is JSON behind its own length: {name: {"dtype", "shape", "data_offsets"}}, then the tensors' bytes without gaps.
Everything a damaged or foreign file can do wrong is found in the headers and named. Pickled weights are never opened.
"""  # noqa: E501

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PIECE_BYTES = 1 << 24
LENGTH_BYTES = 8
"""Of the little-endian number that opens a file: the header's length."""
_MOST_HEADER_BYTES = 100_000_000
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
NUM_NAMED = 20
"""Names that an error lists before it only counts."""

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Names of types in a header, and torch's."""
WEIGHT_DTYPES = ("F64", "F32", "F16", "BF16")
"""Types that a parameter of this model can have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """One tensor of a file, by its place."""

    name: str
    path: Path
    dtype: str
    """As the header names it: one of `DTYPES`."""
    shape: tuple[int, ...]
    start: int
    """Position of the first byte in the file."""

    @property
    def num_values(self) -> int:
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        return self.num_values * DTYPES[self.dtype].itemsize

    def pieces(self) -> Iterator[memoryview]:
        """The tensor's bytes in order; a piece is overwritten by the next. ValueError where the file ends early."""
        buffer = memoryview(bytearray(min(PIECE_BYTES, self.size_bytes)))
        left = self.size_bytes
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.start)
            while left:
                count = file.readinto(buffer[: min(left, len(buffer))])
                if not count:
                    raise ValueError(f"{self.path} is damaged: it ends inside {self.name}")
                yield buffer[:count]
                left -= count


def stored_tensors(directory: str | Path) -> dict[str, StoredTensor]:
    """Every tensor of a directory by name. ValueError names the file and what is wrong with it."""
    found: dict[str, StoredTensor] = {}
    for path in weight_files(directory):
        for tensor in read_header(path):
            if tensor.name in found:
                raise ValueError(f"{tensor.name} is in two files: {found[tensor.name].path.name} and {path.name}")
            found[tensor.name] = tensor
    index = Path(directory) / INDEX_FILE
    if index.is_file():
        absent = [
            f"{name} ({file})"
            for name, file in _weight_map(index).items()
            if name not in found or found[name].path.name != file
        ]
        if absent:
            raise ValueError(f"{index} names {len(absent)} tensors that are not in their files: {listed(absent)}")
    return found


def same_bytes(first: StoredTensor, second: StoredTensor) -> bool:
    """Whether two tensors are of one type and shape and equal bit by bit."""
    if (first.dtype, first.shape) != (second.dtype, second.shape):
        return False
    return all(mine == other for mine, other in zip(first.pieces(), second.pieces(), strict=True))


def weight_files(directory: str | Path) -> list[Path]:
    """The safetensors files of a directory; ValueError where there are none or the index names one that is absent."""
    root = Path(directory)
    index = root / INDEX_FILE
    if index.is_file():
        names = sorted(set(_weight_map(index).values()))
        outside = [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]
        if outside:
            raise ValueError(
                f"{index} names {listed(outside)}; an index may name safetensors files of its own directory alone"
            )
        absent = [name for name in names if not (root / name).is_file()]
        if absent:
            raise ValueError(f"{index} names {len(absent)} files that are not there: {listed(absent)}")
        return [root / name for name in names]
    if not (root / WEIGHTS_FILE).is_file():
        pickled = sorted(path.name for pattern in _PICKLED for path in root.glob(pattern))
        reason = "" if not pickled else (
            f". {listed(pickled)}: opening pickled weights can run code they carry; save them as safetensors where you "
            "trust them"
        )  # fmt: skip
        raise ValueError(
            f"{root} holds neither {WEIGHTS_FILE} nor {INDEX_FILE}; other weight formats are not read{reason}"
        )
    return [root / WEIGHTS_FILE]


def read_header(path: Path) -> list[StoredTensor]:
    """The tensors of one file in the order of their bytes. ValueError says how the file is damaged."""
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if size_bytes < LENGTH_BYTES or length > min(size_bytes - LENGTH_BYTES, _MOST_HEADER_BYTES):
            raise _damaged(path, f"its {size_bytes} bytes don't hold the header they announce")
        raw = file.read(length)
    try:
        header = json.loads(raw)
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        tensors = [_stored(path, name, entry, LENGTH_BYTES + length) for name, entry in entries.items()]
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise _damaged(path, f"its header can't be read ({error})") from error
    tensors.sort(key=lambda tensor: (tensor.start, tensor.size_bytes))
    end = LENGTH_BYTES + length
    for tensor in tensors:
        if tensor.start != end:
            raise _damaged(path, f"{tensor.name} does not begin where the tensor before it ends")
        end += tensor.size_bytes
    if end != size_bytes:
        raise _damaged(path, f"it has {size_bytes} bytes; its header describes {end}")
    return tensors


def listed(names: list[str]) -> str:
    """The first names, and how many are left out."""
    more = f" and {len(names) - NUM_NAMED} more" if len(names) > NUM_NAMED else ""
    return ", ".join(names[:NUM_NAMED]) + more


def _stored(path: Path, name: str, entry: dict[str, Any], base: int) -> StoredTensor:
    begin, end = entry["data_offsets"]
    shape, dtype = tuple(entry["shape"]), entry["dtype"]
    if dtype not in DTYPES:
        raise ValueError(f"{name} is of the unknown type {dtype!r}")
    if not all(isinstance(number, int) and number >= 0 for number in (*shape, begin, end)):
        raise ValueError(f"{name} has shape {list(shape)} at {begin} to {end}")
    tensor = StoredTensor(name=name, path=path, dtype=dtype, shape=shape, start=base + begin)
    if end - begin != tensor.size_bytes:
        raise ValueError(f"{name} of shape {list(shape)} and type {dtype} can't have {end - begin} bytes")
    return tensor


def _weight_map(index: Path) -> dict[str, str]:
    try:
        placed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if isinstance(placed, dict) and placed and all(isinstance(file, str) for file in placed.values()):
            return placed
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{index} is damaged: {error!r}") from error
    raise ValueError(f"{index} is damaged: its weight_map must say which file holds each tensor")


def _damaged(path: Path, reason: str) -> ValueError:
    return ValueError(f"{path} is damaged or no safetensors file: {reason}")
