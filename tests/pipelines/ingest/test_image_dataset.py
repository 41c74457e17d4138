"""Captioned pictures through the stages of an ingest, and out again as a batch of the first training stage."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pyarrow as pa
from PIL import Image

from pipelines.datasets.statistics import statistics
from pipelines.datasets.verify import verify
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.job import _decode_tasks
from pipelines.ingest.plan import plan_shards
from pipelines.ingest.rows import SOURCE_SCHEMA, probed_from_table, source_row
from pipelines.ingest.stages import decode_task, probe_task
from pipelines.ingest.staging import Staging
from pipelines.ingest.types import PlannedVideo, ShardCommit, VideoSource
from pipelines.manifest_io import build_manifest, write_failures, write_manifest
from pipelines.storage import open_storage
from tests.pipelines.ingest.media import make_video
from vamba.assets.paths import TINY_TOKENIZER
from vamba.data.frames import FrameProcessing
from vamba.data.manifest import Failure
from vamba.data.plan import DataPlan, PlanConfig
from vamba.data.reader import PackReader, SampleEncoder
from vamba.data.reader_config import ReaderConfig, plan_items
from vamba.data.sample import Conversation, Media, Sample, Turn
from vamba.data.text import load_tokenizer


def source(path: Path, media: Media, caption: str = "") -> VideoSource:
    turns = (Turn(speaker="human", value="<image>\nDescribe."), Turn(speaker="gpt", value=caption))
    return VideoSource(
        id=path.stem,
        uri=str(path),
        size_bytes=path.stat().st_size,
        mtime_ns=0,
        split="train",
        conversations=(Conversation(id="c", turns=turns),) if caption else (),
        media=media,
    )


def ingested(sources: list[VideoSource], out: Path) -> tuple[list[ShardCommit], list[Failure]]:
    """The stages of an ingest, in this process."""
    config = IngestConfig(sources=("-",), out=str(out))
    table = pa.Table.from_pylist([{"source": source_row(item)} for item in sources], schema=SOURCE_SCHEMA)
    results = probed_from_table(probe_task(table, config=config))
    planned = [item for item in results if isinstance(item, PlannedVideo)]
    staging = Staging(str(out), "sha256:" + "0" * 64)
    shards = plan_shards(planned, config.target_shard_bytes)
    staging.write_plan(planned, shards)
    for task in _decode_tasks(config, shards, set(), set()):
        decode_task(task, config=config, staging_key=staging.key)
    commits = [staging.read_commit(shard.name) for shard in shards]
    failures = [item for item in results if isinstance(item, Failure)]
    failures += [failure for commit in commits for failure in commit.failures]
    manifest = build_manifest(
        [commit.shard for commit in commits if commit.shard],
        [row for commit in commits for row in commit.samples],
        config_digest=config.digest,
        inputs_digest="sha256:" + "1" * 64,
        version=1,
    )
    staging.remove_all()
    write_failures(str(out), failures)
    write_manifest(str(out), manifest)
    return commits, failures


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
    content = open_storage(str(tmp_path / "out")).read_range(f"shards/{row.shard}", row.offset_bytes, row.size_bytes)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        sample = Sample.from_members([(info.name, tar.extractfile(info).read()) for info in tar])  # type: ignore[union-attr]
    assert (sample.media, sample.timestamps_ns, sample.probe["codec"]) == ("image", (0,), "png")
    assert Image.open(io.BytesIO(sample.frames[0])).getpixel((50, 50))[2] > 250  # type: ignore[index]
