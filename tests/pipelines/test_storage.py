"""Local storage: whole or absent, ranges exact, conditional writes exclusive."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
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


def test_replace_and_delete_only_a_known_state(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    storage.write_atomic("lock", b"1")
    data, first = storage.read_version("lock")
    second = storage.replace("lock", b"2", first)
    assert data == b"1" and second is not None and storage.read_version("lock") == (b"2", second)
    assert storage.replace("lock", b"3", first) is None and not storage.delete_version("lock", first)
    assert storage.read_bytes("lock") == b"2"
    assert storage.delete_version("lock", second) and not storage.delete_version("lock", second)
    assert storage.replace("lock", b"4", second) is None and storage.list() == []
    assert storage.replace("no/folder/lock", b"4", second) is None


def test_of_many_who_replace_one_state_one_wins(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    for round_ in range(5):
        storage.write_atomic("lock", b"start %d" % round_)
        state = storage.read_version("lock")[1]
        with ThreadPoolExecutor(16) as pool:
            states = list(pool.map(lambda n, state=state: storage.replace("lock", b"%d" % n, state), range(16)))
        assert sum(state is not None for state in states) == 1
    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(lambda n: storage.create("other", b"%d" % n), range(16))) == 1


def test_leftovers_of_killed_writers_go_and_nothing_else(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    names = {".manifest.parquet.0123456789ab.tmp": False, ".mine.tmp": True, "a.0123456789ab.tmp": True, "b": True}
    for name in names:
        (tmp_path / name).write_bytes(b"half")
    storage.remove_leftovers()
    assert {name: (tmp_path / name).exists() for name in names} == names
    open_storage(tmp_path / "none").remove_leftovers()
