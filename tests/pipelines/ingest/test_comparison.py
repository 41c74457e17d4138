"""Sources beside the inputs of a dataset: the answers of plain Python on small cases."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.ingest.comparison import Comparison, InputColumns
from pipelines.ingest.store import Entry, SourceStore

NAMES = st.sampled_from("abcdefgh")


def make_store(sizes: dict[str, int]) -> SourceStore:
    store = SourceStore()
    store.add(
        (Entry(uri=f"/{n}.mp4", relative=f"{n}.mp4", media="video", size_bytes=s) for n, s in sizes.items()),
        lambda _: None,
    )
    store.seal()
    return store


def inputs_of(sizes: dict[str, int]) -> list[InputColumns]:
    store = make_store(sizes)
    return [(item.source.id, item.source.uri, item.digest) for item in store.sources()]


@settings(max_examples=60, deadline=None)
@given(
    now=st.dictionaries(NAMES, st.integers(1, 2)),
    then=st.dictionaries(NAMES, st.integers(1, 2)),
    complete=st.sets(NAMES),
    append=st.booleans(),
    retry=st.booleans(),
)
def test_the_answers_of_sets(
    now: dict[str, int], then: dict[str, int], complete: set[str], append: bool, retry: bool
) -> None:
    complete &= set(then)
    store = make_store(now)
    # Twice: a comparison replaces the one before.
    for _ in range(2):
        comparison = Comparison(store, inputs_of(then), [f"/{name}.mp4" for name in complete])
    new, failed = sorted(set(now) - set(then)), sorted(set(now) & set(then) - complete)
    different = sorted(name for name in now if name in then and now[name] != then[name])
    for some, names in (
        (comparison.new, new),
        (comparison.missing, sorted(set(then) - set(now))),
        (comparison.changed, [name for name in different if name in complete]),
        (comparison.repaired, [name for name in different if name not in complete]),
    ):
        assert (some.count, some.first) == (len(names), f"/{names[0]}.mp4" if names else "")
    if append:
        comparison.add_new()
    if retry:
        comparison.add_failed()
    todo = sorted((new if append else []) + (failed if retry else []))
    assert [item.source.id for item in comparison.todo()] == todo
    assert comparison.num_todo() == len(todo)
    assert [item.source.id for item in comparison.todo("c")] == [name for name in todo if name > "c"]
    assert comparison.goes_on("c") == any(name > "c" for name in todo)
    sizes = then | {name: now[name] for name in todo}
    assert list(comparison.inputs()) == inputs_of(sizes)
    assert comparison.num_inputs() == len(sizes)
    store.close()


def test_a_new_source_whose_id_is_taken_gets_a_digest(tmp_path: Path) -> None:
    store = make_store({"a": 1, "b": 1})
    known = [("a", "/elsewhere/a.mp4", "")]
    comparison = Comparison(store, known, ["/elsewhere/a.mp4"])
    assert (comparison.new_with_taken_id.count, comparison.new_with_taken_id.first) == (1, "/a.mp4")
    comparison.add_new()
    one, two = (item.source.id for item in comparison.todo())
    assert one.startswith("a-") and two == "b"
    comparison = Comparison(store, [*known, (one, "/elsewhere/c.mp4", "")], [])
    with pytest.raises(ValueError, match="is taken by another video; rename"):
        comparison.add_new()


def test_without_recorded_digests_the_path_alone_counts() -> None:
    comparison = Comparison(make_store({"a": 1}), [("a", "/a.mp4", "")], [])
    assert not comparison.changed and not comparison.repaired and not comparison.new
