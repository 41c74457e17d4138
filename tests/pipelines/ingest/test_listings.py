"""The forms of listings: one written rule for their columns, errors that name row, column and remedy."""

from __future__ import annotations

import csv
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.ingest import listing_files, store
from pipelines.ingest.listings import CAPTION_INSTRUCTIONS, ListingRow, listing_rows
from pipelines.ingest.sources import find_sources

TURNS = [{"from": "human", "value": '<video>\nWhat, "exactly"?\nA. x'}, {"from": "gpt", "value": "A"}]
LLAVA = [
    {"id": "1", "video": "clips/a.mp4", "conversations": TURNS, "data_source": "0_30_s_youtube"},
    {"id": "2", "video": "clips/b.mp4", "conversations": TURNS, "data_source": "0_30_s_youtube"},
]


def write(path: Path, rows: list[dict[str, Any]], *, as_text: bool = False, row_group_size: int = 2) -> Path:
    if as_text or path.suffix == ".csv":
        rows = [
            {key: json.dumps(value) if isinstance(value, list) else value for key, value in row.items()} for row in rows
        ]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=row_group_size)
    elif path.suffix == ".csv":
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        path.write_text(json.dumps(rows))
    return path


def read(path: Path) -> list[ListingRow]:
    return list(listing_rows(str(path)))


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize("name", ["l.jsonl", "l.json", "l.csv", "l.parquet"])
def test_llava_rows_are_the_same_in_every_form(tmp_path: Path, name: str, as_text: bool) -> None:
    rows = read(write(tmp_path / name, LLAVA, as_text=as_text))
    assert [row.uri for row in rows] == [str(tmp_path / "clips/a.mp4"), str(tmp_path / "clips/b.mp4")]
    conversations = [row.conversation.to_json() for row in rows if row.conversation is not None]
    assert conversations == [
        {"id": number, "category": "0_30_s_youtube", "conversations": TURNS} for number in ("1", "2")
    ]


@pytest.mark.parametrize("video", ["video", "path", "url", "file"])
@pytest.mark.parametrize("caption", ["caption", "text"])
@pytest.mark.parametrize("name", ["l.jsonl", "l.csv", "l.parquet"])
def test_a_caption_answers_a_fixed_instruction(tmp_path: Path, name: str, video: str, caption: str) -> None:
    (row,) = read(
        write(tmp_path / name, [{video: str(tmp_path / "a.mp4"), caption: "A cat,\nasleep.", "split": "test"}])
    )
    assert row.uri == str(tmp_path / "a.mp4") and row.split == "test" and row.conversation is not None
    turns = [(turn.speaker, turn.value) for turn in row.conversation.turns]
    assert turns == [("human", CAPTION_INSTRUCTIONS["video"]), ("gpt", "A cat,\nasleep.")]


def test_the_rule_prefers_video_and_conversations_and_takes_null_for_absent(tmp_path: Path) -> None:
    rows = [
        {"video": "a.mp4", "path": "b.mp4", "conversations": TURNS, "caption": "c", "id": "1"},
        {"video": None, "path": "b.mp4", "conversations": None, "caption": "c", "id": None},
        {"video": None, "path": "file://c.mp4", "conversations": None, "caption": None, "id": None},
    ]
    for name in ("l.jsonl", "l.parquet"):
        one, two, three = read(write(tmp_path / name, rows))
        assert [Path(str(row.uri)).name for row in (one, two, three)] == ["a.mp4", "b.mp4", "c.mp4"]
        assert one.conversation is not None and len(one.conversation.turns) == 2 and one.conversation.id == "1"
        assert two.conversation is not None and two.conversation.turns[1].value == "c" and two.conversation.id == ""
        assert three.conversation is None


IMAGE_TURNS = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A"}]
TEXT_TURNS = [{"from": "human", "value": "What is 2 + 2?"}, {"from": "gpt", "value": "4"}]


@pytest.mark.parametrize("name", ["l.jsonl", "l.json", "l.parquet"])
def test_a_mix_of_images_videos_and_text(tmp_path: Path, name: str) -> None:
    """As LLaVA-OneVision has it, with a row of several images."""
    rows: list[dict[str, Any]] = [
        {"id": "i", "image": ["a.jpg"], "video": None, "conversations": IMAGE_TURNS},
        {"id": "t", "image": None, "video": None, "conversations": TEXT_TURNS},
        {"id": "e", "image": [], "video": None, "conversations": TEXT_TURNS},
        {"id": "v", "image": None, "video": "a.mp4", "conversations": TURNS},
        {"id": "m", "image": ["a.jpg", "b.jpg"], "video": None, "conversations": IMAGE_TURNS},
    ]
    listing = write(tmp_path / name, rows)
    image, text, empty, video, several = read(listing)
    assert (image.uri, image.media) == (str(tmp_path / "a.jpg"), "image")
    assert text.uri is None and empty.uri is None
    assert (video.uri, video.media) == (str(tmp_path / "a.mp4"), "video")
    assert several.problem is not None and "names 2 files in column 'image'" in several.problem.message
    with find_sources([str(listing)]) as found:
        items = {item.source.id: item for item in found.store.sources()}
        counts = found.counts
        assert (counts.num_images, counts.num_videos, counts.num_unusable, counts.num_text_only_rows) == (1, 1, 1, 2)
    (failed,) = (item for item in items.values() if item.problem is not None)
    place = "line-5" if name == "l.jsonl" else "row-5"
    assert failed.source.uri == f"{listing}#{place}"
    assert failed.source.id == f"{name.replace('.', '-')}-{place}"
    assert failed.problem is not None and failed.problem.error_class == "unsupported"


def test_images_by_column_and_by_ending(tmp_path: Path) -> None:
    rows = [
        {"image": "scan", "caption": "c"},
        {"path": "a.PNG", "caption": "c"},
        {"url": "https://host/a.jpeg?w=600", "text": "c"},
        {"file": "a.webm", "text": "c"},
        {"video": "a.jpg", "text": "c"},
    ]
    read_rows = read(write(tmp_path / "l.jsonl", rows))
    assert [row.media for row in read_rows] == ["image", "image", "image", "video", "video"]
    asked = [row.conversation.turns[0].value for row in read_rows if row.conversation is not None]
    assert asked == [CAPTION_INSTRUCTIONS[row.media] for row in read_rows]
    assert asked[0] == "<image>\nDescribe this image in detail."


def test_pictures_inside_a_parquet_file_are_refused_with_the_remedy(tmp_path: Path) -> None:
    listing = write(tmp_path / "l.parquet", [{"id": "1", "image": {"bytes": b"x"}, "conversations": IMAGE_TURNS}])
    with pytest.raises(ValueError, match="hold paths: rename it, or write the files that it holds to a folder"):
        read(listing)


@pytest.mark.parametrize("window", [1, 7, 64])
def test_a_json_list_is_read_through_a_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    monkeypatch.setattr(listing_files, "_WINDOW_CHARS", window)
    rows = [{"video": f'{n} ]ä\\".mp4', "caption": "[{,}]" * n} for n in range(1, 6)]
    for indent in (None, 2):
        (tmp_path / "l.json").write_text(json.dumps(rows, indent=indent) + "\n ")
        texts = [row.conversation.turns[1].value for row in read(tmp_path / "l.json") if row.conversation is not None]
        assert texts == [row["caption"] for row in rows]


def test_a_json_list_is_read_as_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing_files, "_WINDOW_CHARS", 16)
    (tmp_path / "l.json").write_text('[{"video": "a.mp4"}, {"video": "b.mp4"}' + " " * 100 + "oops")
    rows = listing_rows(str(tmp_path / "l.json"))
    assert [str(next(rows).uri)[-5:], str(next(rows).uri)[-5:]] == ["a.mp4", "b.mp4"]
    with pytest.raises(ValueError, match="row 3 is not valid JSON.*comma is missing"):
        next(rows)


def test_parquet_reads_only_the_columns_of_the_rule_and_every_row_group(tmp_path: Path) -> None:
    rows = [{"video": f"{n}.mp4", "caption": "c", "image": {"bytes": b"x" * 100}} for n in range(7)]
    listing = write(tmp_path / "l.parquet", rows)
    assert pq.ParquetFile(listing).num_row_groups == 4
    assert [Path(str(row.uri)).stem for row in read(listing)] == [str(n) for n in range(7)]


def test_rows_are_read_as_they_are_asked_for(tmp_path: Path) -> None:
    for name, broken in (("l.jsonl", "\n{"), ("l.csv", "\n1,2,3")):
        listing = write(tmp_path / name, [{"video": "a.mp4"}])
        listing.write_text(listing.read_text().rstrip() + broken)
        rows = listing_rows(str(listing))
        assert next(rows).uri == str(tmp_path / "a.mp4")  # the broken line behind it has not been looked at
        with pytest.raises(ValueError, match="line"):
            next(rows)


def test_csv_of_a_spreadsheet(tmp_path: Path) -> None:
    listing = tmp_path / "L.CSV"
    listing.write_bytes("\ufeffvideo,caption,split\r\na.mp4,Ein Käfer,\r\n\r\nb.mp4,two,train\r\n".encode())
    assert [(Path(str(row.uri)).name, row.split) for row in read(listing)] == [("a.mp4", None), ("b.mp4", "train")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("l.csv", "", "no column names the videos.*rename.*columns\\s+are: none"),
        ("l.csv", "clip,caption\na,b\n", "no column names the videos.*rename.*'clip', 'caption'"),
        ("l.csv", "video,video\na,b\n", "two columns share a name"),
        ("l.csv", "video,caption\na.mp4,one\nb.mp4,two, three\n", r"row 2 \(line 3\): 3 cells under 2.*double quotes"),
        ("l.csv", "video,caption\na.mp4\n", r"row 1 \(line 2\): 1 cells"),
        ("l.csv", 'video,caption\na.mp4,"one\n', "line 2 is not valid CSV.*double quotes"),
        ("l.csv", "video,caption\na.mp4,\n", r"row 1 \(line 2\), column 'caption'.*remove the row"),
        (
            "l.csv",
            "video,caption\n,one\n",
            r"row 1 \(line 2\): no video or image is named; put its path into the column 'video'",
        ),
        ("l.csv", "video,conversations\na.mp4,hello\n", "row 1.*column 'conversations'.*or its JSON text"),
        ("l.csv", "url,text\ngs://x/a.mp4,one\n", "row 1.*column 'url'.*pip install gcsfs"),
        ("l.jsonl", '{"video": "a.mp4"}\n\n{"video": 3}', "line 3, column 'video': '3'.*as text"),
        ("l.jsonl", '{"video": "a.mp4"}\n{', "line 2 is not valid JSON.*correct or remove"),
        ("l.jsonl", '{"video": "a.mp4", "split": "dev"}', "line 1, column 'split': 'dev' must be one of train"),
        ("l.jsonl", '{"video": "a.mp4", "caption": ["x"]}', "line 1, column 'caption'.*write the text"),
        ("l.json", '{"video": "a.mp4"}', "must be a list of rows"),
        ("l.json", "[1]", "row 1: a row must be an object"),
        ("l.json", '[{"video": "a.mp4"},]', "row 2 is not valid JSON"),
        ("l.json", '[{"video": "a.mp4"}', "row 2 is not valid JSON"),
        ("l.json", '[{"video": "a.mp4"}] x', "text behind the list"),
        ("l.json", "", "must be a list of rows"),
        ("l.jsonl", '{"conversations": [{"from": "human", "value": "<image> What?"}]}', "no video or image is named"),
        ("l.parquet", "video", "cannot be read as Parquet"),
        ("l.txt", "video", "no known ending"),
    ],
)
def test_a_malformed_row_is_named_with_its_column_and_the_remedy(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / name)


def test_a_malformed_parquet_row_is_named(tmp_path: Path) -> None:
    robot = [{"from": "robot", "value": "x"}]
    listing = write(tmp_path / "l.parquet", [*LLAVA, {**LLAVA[0], "conversations": robot}])
    with pytest.raises(ValueError, match=r"row 3, column 'conversations', id '1': turn 'from' is 'robot'"):
        read(listing)


def test_other_encodings_are_named(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_bytes("video,caption\na.mp4,Käfer\n".encode("latin-1"))
    with pytest.raises(ValueError, match="not in UTF-8.*save the file as"):
        read(tmp_path / "l.csv")


@pytest.mark.parametrize("name", ["l.csv", "l.parquet"])
def test_any_form_is_a_source_and_a_list_of_conversations(tmp_path: Path, name: str) -> None:
    (tmp_path / "clips").mkdir()
    for video in ("a", "b"):
        (tmp_path / f"clips/{video}.mp4").write_bytes(b"x")
    listing = write(tmp_path / name, [*LLAVA, {**LLAVA[0], "id": "3"}])
    as_source = find_sources([str(listing)])
    assert [video.id for video in as_source.videos()] == ["clips-a", "clips-b"]
    assert [conversation.id for conversation in next(as_source.videos()).conversations] == ["1", "3"]
    added = find_sources([str(tmp_path / "clips/a.mp4")], str(listing))
    assert [len(video.conversations) for video in added.videos()] == [2]
    assert added.first_unmatched == str(tmp_path / "clips/b.mp4")


@pytest.mark.parametrize("name", ["l.jsonl", "l.json", "l.csv", "l.parquet"])
def test_a_longer_listing_takes_no_more_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(listing_files, "_WINDOW_CHARS", 1 << 14)
    monkeypatch.setattr(listing_files, "_BATCH_ROWS", 100)
    monkeypatch.setattr(store, "_CHUNK_ROWS", 100)

    def peak_bytes(num_rows: int) -> int:
        rows = [{"video": f"{number}.mp4", "caption": f"{number} " * 50} for number in range(num_rows)]
        listing = write(tmp_path / f"{num_rows}-{name}", rows, row_group_size=100)
        del rows
        tracemalloc.start()
        try:
            with find_sources([str(listing)]) as found:
                assert sum(1 for _ in found.videos()) == num_rows
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak_bytes(100)  # what the first use loads is no part of it
    assert peak_bytes(1600) < 1.5 * peak_bytes(400)
