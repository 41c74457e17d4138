"""Local storage: whole or absent, ranges exact, exclusive creation."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.storage import LocalStorage, open_storage, vamba_home


def test_write_read_list_delete(tmp_path: Path) -> None:
    storage = open_storage(tmp_path / "data")
    assert storage.list() == []
    storage.write_atomic("a/b.bin", b"0123456789")
    storage.write_atomic("c.bin", b"x")
    assert storage.read_bytes("a/b.bin") == b"0123456789"
    assert storage.read_range("a/b.bin", 3, 4) == b"3456"
    assert [(entry.path, entry.size_bytes) for entry in storage.list()] == [("a/b.bin", 10), ("c.bin", 1)]
    assert storage.exists("c.bin") and not storage.exists("a")
    storage.delete("c.bin")
    storage.delete("c.bin")
    storage.delete_tree("a")
    assert storage.list() == []


def test_range_beyond_the_end_raises(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    storage.write_atomic("a", b"0123")
    with pytest.raises(EOFError):
        storage.read_range("a", 2, 3)
    with pytest.raises(FileNotFoundError):
        storage.read_bytes("b")


def test_failed_write_leaves_nothing(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    with pytest.raises(TypeError):
        storage.write_atomic("a", "text")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_temporary_files_are_not_listed(tmp_path: Path) -> None:
    (tmp_path / ".a.0123.tmp").write_bytes(b"half")
    assert open_storage(tmp_path).list() == []


def test_create_is_exclusive(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    assert storage.create("lock", b"first")
    assert not storage.create("lock", b"second")
    assert storage.read_bytes("lock") == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_put_file_moves(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    local = storage.scratch_dir("_work") / "part"
    local.write_bytes(b"data")
    storage.put_file("shards/x.tar", local)
    assert storage.read_bytes("shards/x.tar") == b"data" and not local.exists()


def test_unknown_scheme_is_named() -> None:
    with pytest.raises(ValueError, match="gopher"):
        open_storage("gopher://x")
    assert open_storage("file:///tmp/x").uri == "/tmp/x"


def test_home_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VAMBA_HOME", str(tmp_path))
    assert vamba_home() == tmp_path
    monkeypatch.delenv("VAMBA_HOME")
    monkeypatch.chdir(tmp_path)
    assert vamba_home() == tmp_path / ".vamba"
