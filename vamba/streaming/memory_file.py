"""A safetensors file whose tensors grow together and carry digests: written in one pass, without holding any of them whole.

    groups of tensors ── part after part, each at its place ──> data; SHA-256 of each ──> header, written last
    header ── read_metadata ──> metadata, digests, where the header is what was written

All shapes are known before, so the header's length is, and every tensor's place.
"""  # noqa: E501

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from vamba.model.tensor_files import DTYPES, LENGTH_BYTES, read_header
from vamba.streaming.store import Place, TensorStore
from vamba.streaming.store_disk import bytes_of, write_at

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_NO_DIGEST = "0" * 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Tensors that grow together. rows: a tuple of the next rows of each, until their shapes are reached."""

    names: tuple[str, ...]
    dtypes: tuple[torch.dtype, ...]
    shapes: tuple[tuple[int, ...], ...]
    rows: Iterator[tuple[Tensor, ...]]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Group:
        """Whole tensors."""
        values = tuple(tensors.values())
        return cls(
            names=tuple(tensors),
            dtypes=tuple(tensor.dtype for tensor in values),
            shapes=tuple(tuple(tensor.shape) for tensor in values),
            rows=iter((values,)),
        )

    @classmethod
    def of_parts(cls, names: tuple[str, ...], store: TensorStore, places: Sequence[Place]) -> Group:
        """Parts of a store, equally long."""
        first = next(iter(store.read(places[:1])))
        return cls(
            names=names,
            dtypes=tuple(tensor.dtype for tensor in first),
            shapes=tuple((len(places) * len(tensor), *tensor.shape[1:]) for tensor in first),
            rows=store.read(places),
        )


def write_file(
    path: Path,
    groups: Sequence[Group],
    metadata: Mapping[str, str],
    shown: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """The file appears complete or not at all. shown: called with the bytes that are written, and with all of them."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with draft.open("wb", buffering=0) as file:
            _write(file, groups, metadata, shown)
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        with suppress(FileNotFoundError):
            draft.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_metadata(path: Path) -> tuple[Mapping[str, str], Mapping[str, str] | None]:
    """(metadata, SHA-256 by tensor); no digests where the header is not what was written.

    ValueError for a file that is damaged, cut off, or none of safetensors.
    """
    if not path.is_file():
        raise ValueError(f"there is no file at {path}")
    read_header(path)
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        header = json.loads(file.read(length))
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise ValueError(f"{path} is damaged or no safetensors file: its metadata are no names and values")
    seal = metadata.pop("seal", None)
    if seal is None or seal != _seal(header, metadata):
        return metadata, None
    digests: Mapping[str, str] = json.loads(metadata["sha256"])
    return metadata, digests


def _write(
    file: BinaryIO, groups: Sequence[Group], metadata: Mapping[str, str], shown: Callable[[int, int], None]
) -> None:
    entries: dict[str, Any] = {}
    end = 0
    for group in groups:
        for name, dtype, shape in zip(group.names, group.dtypes, group.shapes, strict=True):
            begin, end = end, end + math.prod(shape) * dtype.itemsize
            entries[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    base = LENGTH_BYTES + len(_header(entries, metadata, dict.fromkeys(entries, _NO_DIGEST)))
    digests: dict[str, str] = {}
    done = 0
    for group in groups:
        offsets = [base + entries[name]["data_offsets"][0] for name in group.names]
        hashes = [hashlib.sha256() for _ in group.names]
        for rows in group.rows:
            for index, tensor in enumerate(rows):
                held = tensor.detach().to("cpu").contiguous()
                write_at(file, offsets[index], held)
                hashes[index].update(bytes_of(held))
                offsets[index] += held.nbytes
                done += held.nbytes
                shown(done, end)
        for name, offset, digest in zip(group.names, offsets, hashes, strict=True):
            assert offset == base + entries[name]["data_offsets"][1], f"{name} did not come whole"
            digests[name] = digest.hexdigest()
    header = _header(entries, metadata, digests)
    assert LENGTH_BYTES + len(header) == base
    file.seek(0)
    file.write((base - LENGTH_BYTES).to_bytes(LENGTH_BYTES, "little") + header)


def _header(entries: Mapping[str, Any], metadata: Mapping[str, str], digests: Mapping[str, str]) -> bytes:
    whole = {**metadata, "sha256": json.dumps(digests)}
    text = json.dumps({"__metadata__": {**whole, "seal": _seal(entries, whole)}, **entries})
    encoded = text.encode()
    return encoded.ljust(math.ceil(len(encoded) / 8) * 8)


def _seal(entries: Mapping[str, Any], metadata: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps([entries, metadata], sort_keys=True).encode()).hexdigest()
