"""Captioned pictures through the stages of an ingest, and out again as a batch of the first training stage."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from pipelines.datasets.statistics import statistics
from pipelines.datasets.verify import verify
from pipelines.storage import open_storage
from tests.pipelines.ingest.in_process import ingested, sample_of, source
from tests.pipelines.ingest.media import make_video
from vamba.assets.paths import TINY_TOKENIZER
from vamba.data.frames import FrameProcessing
from vamba.data.plan import DataPlan, PlanConfig
from vamba.data.reader import PackReader, SampleEncoder
from vamba.data.reader_config import ReaderConfig, plan_items
from vamba.data.text import load_tokenizer


def test_captioned_pictures_become_a_batch(tmp_path: Path) -> None:
    captions = {"blue.png": "A blue field.", "green.jpg": "A green field.", "red.webp": "A red field."}
    for name in captions:
        Image.new("RGB", (112, 84), name.partition(".")[0]).save(tmp_path / name)
    (tmp_path / "text.jpg").write_text("no picture at all")
    Image.effect_noise((300, 300), 90).save(tmp_path / "cut.png")
    with open(tmp_path / "cut.png", "rb+") as file:
        file.truncate(20_000)
    film = make_video(tmp_path / "film.mp4", seconds=1)
    sources = [source(tmp_path / name, "image", caption) for name, caption in captions.items()]
    sources += [source(tmp_path / "text.jpg", "image"), source(tmp_path / "cut.png", "image"), source(film, "video")]
    out = tmp_path / "out"
    commits, failures = ingested(sources, out)

    assert {failure.id: (failure.stage, failure.error_class) for failure in failures} == {
        "text": ("probe", "not_an_image"),
        "cut": ("decode", "truncated"),
    }
    assert all(failure.command for failure in failures)
    rows = [row for commit in commits for row in commit.samples if row.media == "image"]
    assert [(row.id, row.num_frames, row.duration_ns, row.num_conversations) for row in rows] == [
        (name.partition(".")[0], 1, 0, 1) for name in captions
    ]
    assert not list(verify(str(out)).findings)
    assert len(statistics(str(out)).samples) == 4

    storage = open_storage(str(out))
    config = ReaderConfig(frames=FrameProcessing(), max_frames=4)

    def read_range(shard: str, offset: int, length: int) -> bytes:
        return storage.read_range(f"shards/{shard}", offset, length)

    plan = DataPlan(plan_items(rows, config), PlanConfig(tokens_per_pack=10_000, packs_per_step=1), seed=1)
    encode = SampleEncoder(load_tokenizer(TINY_TOKENIZER), config)
    reader = PackReader(plan, rows, read_range, encode, state=plan.start())
    step, _ = next(reader)
    reader.close()
    assert step.media == "image" and sorted(step.sample_ids) == [row.id for row in rows]
    batch = step.micro_batches[0].batch
    assert batch.patches_PC is not None and len(batch.patches_PC) == 3 * (112 // 14) * (84 // 14)


def test_a_stored_picture_is_a_sample_of_one_frame(tmp_path: Path) -> None:
    Image.new("RGB", (112, 84), "blue").save(tmp_path / "blue.png")
    (commit,), _ = ingested([source(tmp_path / "blue.png", "image")], tmp_path / "out")
    (row,) = commit.samples
    sample = sample_of(row, tmp_path / "out")
    assert (sample.media, sample.timestamps_ns, sample.probe["codec"]) == ("image", (0,), "png")
    assert Image.open(io.BytesIO(sample.frames[0])).getpixel((50, 50))[2] > 250  # type: ignore[index]
