"""Finding videos: folders, globs, listings, ids."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from pipelines.ingest import store
from pipelines.ingest.sources import find_sources


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def ids(*sources: Path | str, conversations: Path | None = None) -> dict[str, str]:
    found = find_sources([str(source) for source in sources], str(conversations) if conversations else None)
    return {video.uri: video.id for video in found.videos()}


def test_folder_is_recursive_and_ignores_other_files(tmp_path: Path) -> None:
    touch(tmp_path, "b/Two Words.MP4", "a.mkv", "notes.txt", ".hidden.mp4", ".git/x.mp4")
    found = find_sources([str(tmp_path)])
    assert [video.id for video in found.videos()] == ["a", "b-two-words"]
    assert found.counts.num_ignored_files == 1


def test_images_are_sources_too(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.JPG", "c/d.webp", "e.psd")
    found = find_sources([str(tmp_path)])
    assert {video.id: video.media for video in found.videos()} == {"a": "video", "b": "image", "c-d": "image"}
    counts = found.counts
    assert (counts.num_videos, counts.num_images, counts.num_ignored_files) == (1, 2, 1)


def test_a_named_file_is_taken_whatever_its_ending(tmp_path: Path) -> None:
    touch(tmp_path, "video")
    assert list(ids(tmp_path / "video").values()) == ["video"]


def test_ids_that_would_collide_get_a_digest_and_do_not_depend_on_order(tmp_path: Path) -> None:
    touch(tmp_path, "a b.mp4", "a-b.mp4", "日本.mp4", "中国.mp4", "x" * 120 + ".mp4")
    found = ids(tmp_path)
    assert len(set(found.values())) == 5
    assert all(re.fullmatch(r"[a-z0-9_-]{1,80}", value) for value in found.values())
    files = sorted(tmp_path.iterdir(), reverse=True)
    assert ids(*files) == found == ids(*reversed(files))


def test_same_relative_path_in_two_folders(tmp_path: Path) -> None:
    touch(tmp_path, "one/a.mp4", "two/a.mp4")
    found = ids(tmp_path / "one", tmp_path / "two")
    assert len(set(found.values())) == 2 and all(value.startswith("a-") for value in found.values())


def test_overlapping_sources_give_a_video_once(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    assert len(find_sources([str(tmp_path), str(tmp_path / "a.mp4"), str(tmp_path / "*.mp4")])) == 1


def test_glob(tmp_path: Path) -> None:
    touch(tmp_path, "x/1.mp4", "y/2.mp4", "y/3.mkv")
    assert set(ids(f"{tmp_path}/*/*.mp4").values()) == {"x-1", "y-2"}
    assert set(ids(f"{tmp_path}/**/*.mkv").values()) == {"y-3"}


def test_links_back_to_a_folder_above_end(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    os.symlink(tmp_path, tmp_path / "loop")
    assert list(ids(tmp_path).values()) == ["a"]


def row(video: str, **more: object) -> dict[str, object]:
    turns = [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "A"}]
    return {"id": "q", "video": video, "conversations": turns, **more}


def write_listing(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(json.dumps(item) for item in rows) if path.suffix == ".jsonl" else json.dumps(rows))
    return path


@pytest.mark.parametrize("name", ["l.jsonl", "l.json"])
def test_listing_as_source_groups_conversations_by_video(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "clips/a.mp4", "clips/b.mp4")
    rows = [row("clips/a.mp4", split="test", id="1"), row("clips/b.mp4"), row(str(tmp_path / "clips/a.mp4"), id="2")]
    found = find_sources([str(write_listing(tmp_path / name, *rows))])
    by_id = {video.id: video for video in found.videos()}
    assert [conversation.id for conversation in by_id["clips-a"].conversations] == ["1", "2"]
    assert by_id["clips-a"].split == "test" and by_id["clips-b"].split is None


def test_listed_video_that_is_missing_stays_to_fail_as_a_row(tmp_path: Path) -> None:
    found = find_sources([str(write_listing(tmp_path / "l.jsonl", row("gone.mp4")))])
    assert next(found.videos()).size_bytes == -1


def test_conversations_are_added_and_unmatched_ones_told(tmp_path: Path) -> None:
    touch(tmp_path, "v/a.mp4")
    listing = write_listing(tmp_path / "l.jsonl", row("v/a.mp4"), row("v/other.mp4"))
    found = find_sources([str(tmp_path / "v")], str(listing))
    assert len(next(found.videos()).conversations) == 1
    assert (found.counts.num_unmatched, found.first_unmatched) == (1, str(tmp_path / "v/other.mp4"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "x"}], "line 1"),
        ([row("a.mp4", split="dev")], "split"),
        ([row("a.mp4", split="train"), row("a.mp4", split="test")], "two splits"),
        ([row("a.mp4", conversations=[{"from": "robot", "value": ""}])], "human"),
    ],
)
def test_bad_listing_is_explained(tmp_path: Path, rows: list[object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_sources([str(write_listing(tmp_path / "l.jsonl", *rows))])


def test_bad_sources_are_explained(tmp_path: Path) -> None:
    (tmp_path / "broken.jsonl").write_text("{")
    (tmp_path / "empty").mkdir()
    for source, message in (
        (tmp_path / "gone.mp4", "does not exist"),
        (tmp_path / "broken.jsonl", "not valid JSON"),
        (tmp_path / "empty", "holds no video"),
        ("gs://bucket/x", "pip install gcsfs"),
    ):
        with pytest.raises(ValueError, match=message):
            find_sources([str(source)])


def test_a_name_that_no_reader_could_be_told_is_refused(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.mp4")).write_bytes(b"x")
    with pytest.raises(ValueError, match=r"caf\\xe9.mp4' is not in UTF-8.*rename"):
        find_sources([str(tmp_path)])


def test_half_a_character_is_refused(tmp_path: Path) -> None:
    (tmp_path / "l.jsonl").write_text('{"video": "a.mp4", "caption": "\\ud83d"}')
    with pytest.raises(ValueError, match="a.mp4 holds half of a character"):
        find_sources([str(tmp_path / "l.jsonl")])


def test_a_glob_of_listings(tmp_path: Path) -> None:
    for number in range(3):
        write_listing(tmp_path / f"l{number}.jsonl", row(f"{number}.mp4"))
    assert len(find_sources([f"{tmp_path}/*.jsonl"])) == 3


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_what_is_found_does_not_depend_on_how_much_is_stored_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    names = ["a b.mp4", "a-b.mp4", "x/c.mp4", "y/c.mp4", "日本.mp4", "中国.mp4", "c.mp4"]
    touch(tmp_path, *names)
    turns = [row(name, id=str(number)) for number, name in enumerate(names * 2)]
    turns[3]["split"] = turns[10]["split"] = "test"
    listing = write_listing(tmp_path / "l.jsonl", *turns)
    expected = list(find_sources([str(tmp_path), str(listing)], str(listing)).videos())
    monkeypatch.setattr(store, "_CHUNK_ROWS", chunk)
    found = find_sources([str(tmp_path), str(listing)], str(listing))
    assert list(found.videos()) == expected
    assert [len(video.conversations) for video in expected] == [4] * 7
    assert [video.split for video in expected if video.uri.endswith("y/c.mp4")] == ["test"]
