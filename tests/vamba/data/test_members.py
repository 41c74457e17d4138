"""The members of a sample, walked in its bytes."""

from __future__ import annotations

import io
import tarfile

import pytest

from tests.distributed.dataset import make_sample, tar_bytes
from tests.vamba.data.shards import tar_members
from vamba.data.members import members


def test_they_are_what_tarfile_reads() -> None:
    content = tar_bytes(make_sample(3, num_frames=5))
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        expected = [(info.name, archive.extractfile(info).read()) for info in archive]  # type: ignore[union-attr]
    assert [(name, bytes(data)) for name, data in members(content)] == expected


def test_contents_are_views() -> None:
    content = bytearray(tar_members(make_sample(3)))
    _, view = list(members(memoryview(content)))[-1]
    before = view[0]
    content[:] = bytes(255 - byte for byte in content)
    assert view[0] == 255 - before


@pytest.mark.parametrize("cut", [1, 511, 513, 1000])
def test_a_cut_sample_is_refused(cut: int) -> None:
    content = tar_members(make_sample(3))
    with pytest.raises(ValueError, match="no tar header|of which|belongs"):
        list(members(content[:-600]))
    with pytest.raises(ValueError, match="no tar header|of which|belongs"):
        list(members(content[cut:]))


def test_anything_but_a_regular_file_is_refused() -> None:
    header = tarfile.TarInfo("link")
    header.type = tarfile.SYMTYPE
    with pytest.raises(ValueError, match="no tar header of a regular file at byte 0"):
        list(members(header.tobuf(tarfile.USTAR_FORMAT)))
