"""The contact sheet: whole in one file, escaped, bounded, and the same for the same seed."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from pipelines.datasets.preview import clock, preview, spread
from tests.pipelines.datasets.pictures import film, jpegs, sample_of, talk
from tests.pipelines.evaluation.needle_data import write_dataset

EVIL = "<script>alert('x')</script> & \"quoted\""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("preview") / "data"
    conversations = [talk(f"<video>\n{EVIL}", "long " * 2000)] + [talk("Next?", name=f"q{n}") for n in range(30)]
    samples = [sample_of("clip-0", jpegs(film(0, 20, 640, 360)), conversations=conversations, split="test")]
    samples += [sample_of(f"clip-{index}", jpegs(film(index, 3))) for index in range(1, 6)]
    write_dataset(root, samples)
    return str(root)


class Page(HTMLParser):
    """Ids, tags and what the page refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.sources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        values = dict(attrs)
        self.sources += [values[key] or "" for key in ("src", "href") if key in values]
        if tag == "article":
            self.ids.append(values["id"] or "")


def test_the_page_refers_to_nothing_and_escapes_text(data: str) -> None:
    text = preview(data, ids=["clip-0"], num_frames=4)
    page = Page(text)
    assert "script" not in page.tags and "&lt;script&gt;alert(" in text
    assert len(page.sources) == 4 and all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    with Image.open(io.BytesIO(base64.b64decode(page.sources[0].partition(",")[2]))) as image:
        assert image.size == (240, 135)
    assert re.findall(r"<figcaption>(.*?)</figcaption>", text) == ["0:00:02.0", "0:00:07.0", "0:00:12.0", "0:00:17.0"]
    assert "<span>test</span>" in text and "0:00:20.0" in text and "20 frames of 640x360" in text


def test_long_conversations_are_cut_with_a_note(data: str) -> None:
    text = preview(data, ids=["clip-0"], num_frames=1)
    assert "(and 8000 more characters)" in text and "… and 11 more conversations" in text
    assert text.count("<details") == 20


def test_a_seed_draws_the_samples_and_ids_name_them(data: str) -> None:
    drawn = [Page(preview(data, num_samples=3, num_frames=1, seed=seed)).ids for seed in (0, 0, 1, 2)]
    assert drawn[0] == drawn[1] and len({tuple(ids) for ids in drawn}) > 1
    assert all(len(ids) == 3 and ids == sorted(ids) for ids in drawn)
    assert Page(preview(data, ids=["clip-3", "clip-1", "clip-3"])).ids == ["clip-3", "clip-1"]
    assert len(Page(preview(data)).ids) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ids": ["nobody"]}, "no sample 'nobody'"),
        ({"num_samples": 0}, "--samples is 0"),
        ({"num_frames": 1000}, "--frames is 1000"),
    ],
)
def test_mistakes_are_named(data: str, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        preview(data, **arguments)


def test_a_broken_sample_is_a_card_that_says_so(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", [sample_of(f"clip-{index}", jpegs(film(index, 3))) for index in range(2)])
    path = tmp_path / "data" / "shards" / "shard-000000.tar"
    path.write_bytes(path.read_bytes().replace(b"clip-0.000001.jpg", b"clip-0.00000x.jpg"))
    text = preview(str(tmp_path / "data"))
    assert Page(text).ids == ["clip-0", "clip-1"] and text.count("be read: ") == 1 and "vamba data verify" in text


def test_frames_are_spread_evenly_and_times_are_exact() -> None:
    assert spread(4, 20) == [2, 7, 12, 17] and spread(8, 3) == [0, 1, 2] and spread(1, 1) == [0]
    assert clock(2_527_399_999_999) == "0:42:07.3" and clock(36_000_000_000_000) == "10:00:00.0"
