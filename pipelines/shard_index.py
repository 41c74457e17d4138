"""The index of a shard: where the bytes of each member are, so that one frame is one small range read.

`shards/shard-000000.idx` beside `shard-000000.tar` is a text in the form that NVIDIA DALI reads (its `wds2idx`, version
1.2), so that one program more can use the dataset as it is: a line `v1.2 <number of samples>`, then one line per sample
with `<extension> <offset> <size> <name>` of each member. Offsets are those of the content, behind the tar header. It
follows from the shard's bytes alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipelines.manifest_io import SHARDS_PREFIX
from pipelines.storage import Storage

_VERSION = "v1.2"
_FIELDS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRange:
    """A member of a tar: its content is the bytes `[offset_bytes, offset_bytes + size_bytes)` of the shard."""

    name: str
    offset_bytes: int
    size_bytes: int


def index_name(shard: str) -> str:
    """ "shard-000000.tar" → "shard-000000.idx", where DALI looks for it, too."""
    return shard.removesuffix(".tar") + ".idx"


def format_index(samples: Sequence[Sequence[MemberRange]]) -> bytes:
    """The index of these samples, each with its members in the order of the tar."""
    lines = [f"{_VERSION} {len(samples)}"]
    lines += [
        " ".join(f"{_extension(item.name)} {item.offset_bytes} {item.size_bytes} {item.name}" for item in members)
        for members in samples
    ]
    return ("\n".join(lines) + "\n").encode()


def parse_index(data: bytes) -> dict[str, tuple[MemberRange, ...]]:
    """Members by sample id, in the order of the tar.

    Raises:
        ValueError: it is not such an index.
    """
    lines = data.decode().splitlines()
    header = lines[0].split() if lines else []
    if len(header) != 2 or header[0] != _VERSION or header[1] != str(len(lines) - 1):
        raise ValueError(f"it does not begin with '{_VERSION} <number of its other lines>'")
    samples = {}
    for number, line in enumerate(lines[1:], start=2):
        fields = line.split(" ")
        if len(fields) % _FIELDS:
            raise ValueError(f"line {number} is not made of '<extension> <offset> <size> <name>'")
        members = tuple(
            MemberRange(name=name, offset_bytes=int(offset), size_bytes=int(size))
            for offset, size, name in zip(fields[1::4], fields[2::4], fields[3::4], strict=True)
        )
        samples[members[0].name.partition(".")[0]] = members
    return samples


def read_index(storage: Storage, shard: str) -> dict[str, tuple[MemberRange, ...]]:
    """The index of a shard.

    Raises:
        FileNotFoundError: it has none; datasets from before there were indexes don't.
        ValueError: the file is damaged.
    """
    path = f"{SHARDS_PREFIX}/{index_name(shard)}"
    data = storage.read_bytes(path)
    try:
        return parse_index(data)
    except ValueError as error:
        raise ValueError(f"{storage.uri}/{path} is not an index: {error}; `vamba data verify` tells more") from error


def names_beside(shards: Iterable[str]) -> set[str]:
    """The files that may stand in `shards/`: the shards and their indexes."""
    return {name for shard in shards for name in (shard, index_name(shard))}


def _extension(name: str) -> str:
    return name.partition(".")[2]
