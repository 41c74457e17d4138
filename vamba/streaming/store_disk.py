"""Parts in files: written behind the computation, read one part ahead of it, and never mapped into memory.

    append ── one thread, at most two parts waiting ──> a temporary file per slot ── read, one part ahead ──> the device

The files have no name: the system frees them when the store goes, whatever ended it. A part may also be a range of a file
that was there before (`adopt`): a saved memory is read in place. What has been read or written is dropped from the page
cache once it is used, so that an hour's keys do not push out what others cache.
"""  # noqa: E501

from __future__ import annotations

import math
import os
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from vamba.streaming.store import Place, Span

_WAITING = 2
"""Parts whose writing may be outstanding."""


class Region(NamedTuple):
    """One tensor, as bytes of a file."""

    file: BinaryIO
    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class DiskStore:
    """Temporary files in a directory, by default the system's own for them."""

    def __init__(self, device: torch.device, directory: str | None = None) -> None:
        self._device, self._directory = device, directory
        self._files: dict[str, BinaryIO] = {}
        self._ends: dict[str, int] = {}
        self._slots: dict[str, list[tuple[Span, tuple[Region, ...]]]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="disk-store")
        self._writing: deque[Future[None]] = deque()

    def append(self, slot: str, span: Span, tensors: tuple[Tensor, ...]) -> None:
        if slot not in self._files:
            self._files[slot], self._ends[slot] = self._open(), 0
        regions = []
        for tensor in tensors:
            regions.append(Region(self._files[slot], self._ends[slot], tuple(tensor.shape), tensor.dtype))
            self._ends[slot] += regions[-1].size_bytes
        self._write(regions, tensors)
        self._slots.setdefault(slot, []).append((span, tuple(regions)))

    def adopt(self, slot: str, span: Span, regions: tuple[Region, ...]) -> None:
        """Take ranges of an open file for a part; they must not change as long as the store is used."""
        self._slots.setdefault(slot, []).append((span, regions))

    def spans(self, slot: str) -> tuple[Span, ...]:
        return tuple(span for span, _ in self._slots.get(slot, ()))

    def read(self, places: Iterable[Place]) -> Iterator[tuple[Tensor, ...]]:
        coming: deque[Future[tuple[Tensor, ...]]] = deque()
        for slot, index in places:
            coming.append(self._thread.submit(_read_all, self._slots[slot][index][1]))
            if len(coming) > 1:
                yield self._moved(coming.popleft())
        while coming:
            yield self._moved(coming.popleft())

    def replace(self, place: Place, tensors: tuple[Tensor, ...]) -> None:
        slot, index = place
        _, regions = self._slots[slot][index]
        assert [(r.shape, r.dtype) for r in regions] == [(tuple(t.shape), t.dtype) for t in tensors], place
        assert all(region.file is self._files.get(slot) for region in regions), "an adopted part is read-only"
        self._write(regions, tensors)

    def drop(self, slot: str) -> None:
        self._settle(0)
        self._slots.pop(slot, None)
        if slot in self._files:
            self._files.pop(slot).close()

    def close(self) -> None:
        self._thread.shutdown()
        for file in self._files.values():
            file.close()
        self._slots.clear()
        self._files.clear()

    def _open(self) -> BinaryIO:
        try:
            return tempfile.TemporaryFile(dir=self._directory, buffering=0)
        except OSError as error:
            raise ValueError(
                f"no file for the encoded video can be made in {self._directory or tempfile.gettempdir()}: "
                f"{error.strerror}; name another `directory`, or keep it elsewhere (`kv`)"
            ) from error

    def _write(self, regions: Iterable[Region], tensors: Iterable[Tensor]) -> None:
        self._settle(_WAITING - 1)
        held = [
            (region, tensor.detach().to("cpu").contiguous()) for region, tensor in zip(regions, tensors, strict=True)
        ]
        self._writing.append(self._thread.submit(self._write_all, held))

    def _settle(self, most: int) -> None:
        """Wait until no more than so many parts are outstanding; an error of the thread comes out here."""
        while len(self._writing) > most:
            self._writing.popleft().result()

    def _moved(self, coming: Future[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        self._settle(0)  # first, so that what could not be written is told as that, and not as missing at the read
        tensors = coming.result()
        return tuple(tensor.to(self._device) for tensor in tensors)

    def _write_all(self, held: list[tuple[Region, Tensor]]) -> None:
        for region, tensor in held:
            try:
                write_at(region.file, region.offset, tensor)
            except OSError as error:
                raise OSError(
                    error.errno,
                    f"the encoded video can't be written to {self._directory or tempfile.gettempdir()} "
                    f"({error.strerror}); name a `directory` with more space, or keep it elsewhere (`kv`)",
                ) from error


def write_at(file: BinaryIO, offset: int, tensor: Tensor) -> None:
    """The bytes of a contiguous tensor on the host, from `offset` on; the file's own position stays where it is."""
    left = bytes_of(tensor)
    while left:
        count = os.pwrite(file.fileno(), left, offset)
        left, offset = left[count:], offset + count


def read_at(region: Region) -> Tensor:
    """A tensor on the host from its bytes. ValueError where the file ends before they do."""
    tensor = torch.empty(region.shape, dtype=region.dtype)
    left, offset = bytes_of(tensor), region.offset
    while left:
        count = os.preadv(region.file.fileno(), [left], offset)
        if count == 0:
            raise ValueError(f"{region.file.name} ends at byte {offset}, within what was kept in it: it was changed")
        left, offset = left[count:], offset + count
    os.posix_fadvise(region.file.fileno(), region.offset, region.size_bytes, os.POSIX_FADV_DONTNEED)
    return tensor


def bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the host."""
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy()) if tensor.numel() else memoryview(b"")  # type: ignore[arg-type]


def _read_all(regions: tuple[Region, ...]) -> tuple[Tensor, ...]:
    return tuple(read_at(region) for region in regions)
