"""Lines are appended whole or not at all, on a full disk too."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pipelines.training.json_lines import append_line, count_damaged, read_lines
from pipelines.training.line_follower import LineFollower


def test_a_line_cut_by_a_full_disk_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lines.jsonl"
    append_line(path, {"a": 1})
    write = os.write

    def fills_up(descriptor: int, data: bytes) -> int:
        if len(data) > 5:
            return write(descriptor, data[:5])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(os, "write", fills_up)
        with pytest.raises(OSError, match=r"No space left on device: .*lines.jsonl"):
            append_line(path, {"bb": 2})
    assert list(read_lines(path)) == [{"a": 1}] and path.read_bytes().count(b"\n") == 1
    append_line(path, {"c": 3})
    assert list(read_lines(path)) == [{"a": 1}, {"c": 3}]


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    append_line(tmp_path / "lines.jsonl", {"key": "value"})
    assert list(read_lines(tmp_path / "lines.jsonl")) == [{"key": "value"}]


def test_a_line_torn_by_a_kill_is_closed_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"whole": 1}\n{"to')
    append_line(path, {"next": 2})
    assert list(read_lines(path)) == [{"whole": 1}, {"next": 2}]


def test_a_line_that_was_changed_is_skipped_wherever_it_was_changed(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    values = [{"step": 1, "loss": 2.5}, {"step": 2, "loss": 1.5, "name": "ä"}, {}]
    for value in values:
        append_line(path, value)
    whole = path.read_bytes()
    assert list(read_lines(path)) == values and count_damaged(path) == 0
    for place in range(whole.index(b"\n")):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        found = list(read_lines(path))
        assert found == list(LineFollower(path).read_new())
        # Where the checksum itself was hit, the values are whole.
        assert found[-2:] == values[1:] and [{**values[0], **line} == line for line in found[:-2]] in ([], [True]), (
            place
        )
        assert count_damaged(path) == 3 - len(found)
