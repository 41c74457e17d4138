"""The members of one sample, found in its bytes: tar headers are walked, contents are views and never copied.

    bytes of a sample ── members ──> (name, view of the content), …

A sample's bytes are plain ustar members, headers and padding included (docs/shard-format.md). tarfile reads them too,
but spends more time on a header than it takes to read the frame behind it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

_BLOCK_BYTES = 512
_HEADER = struct.Struct("100s24x11s21x1s100x5s250x")  # name, size in octal digits, type, magic
_REGULAR = (b"0", b"\0")


def members(content: bytes | memoryview) -> Iterator[tuple[str, memoryview]]:
    """(name, content) of each member, in order, up to the end or the tar's end mark. Views that keep `content` alive.

    Raises:
        ValueError: the bytes are not whole members of a plain tar.
    """
    view = memoryview(content)
    position, end = 0, len(view)
    while position < end:
        if end - position < _BLOCK_BYTES:
            raise ValueError(f"{end - position} bytes stand where a tar header belongs, which has {_BLOCK_BYTES}")
        name, octal, kind, magic = _HEADER.unpack_from(view, position)
        if magic != b"ustar" or kind not in _REGULAR:
            if not any(view[position : position + _BLOCK_BYTES]):
                return
            raise ValueError(f"there is no tar header of a regular file at byte {position} of the sample")
        size_bytes = int(octal, 8)
        position += _BLOCK_BYTES
        if position + size_bytes > end:
            raise ValueError(f"member {name!r} has {size_bytes} bytes, of which {max(0, end - position)} are there")
        yield name.rstrip(b"\0").decode("ascii"), view[position : position + size_bytes]
        position += size_bytes + -size_bytes % _BLOCK_BYTES
