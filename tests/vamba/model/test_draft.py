"""A directory that is replaced by several processes at once is always a whole one, and none of them fails."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from vamba.model.draft import replacing

_TIMES = 60


def _replace_often(target: Path, word: str) -> None:
    for _ in range(_TIMES):
        with replacing(target) as draft:
            for name in ("a", "b"):
                (draft / name).write_text(word)


def test_two_processes_replace_the_same_directory(tmp_path: Path) -> None:
    target = tmp_path / "model"
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=_replace_often, args=(target, word)) for word in ("one", "two")]
    for process in both:
        process.start()
    for process in both:
        process.join(timeout=120)
    assert [process.exitcode for process in both] == [0, 0]
    assert {(target / name).read_text() for name in ("a", "b")} in ({"one"}, {"two"})
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "model"
    _replace_often(target, "one")
    with pytest.raises(ZeroDivisionError), replacing(target) as draft:
        (draft / "a").write_text("half")
        raise ZeroDivisionError
    assert (target / "a").read_text() == "one" and [path.name for path in tmp_path.iterdir()] == ["model"]
