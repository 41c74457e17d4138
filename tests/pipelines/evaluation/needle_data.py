"""Small datasets and models for tests of evaluation, registry and command: written directly, without Ray or ffmpeg.

The videos are plain pictures of changing colour; what the untrained model answers is arbitrary but always the same.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import simplejpeg

from pipelines.manifest_io import SHARDS_PREFIX, build_manifest, write_failures, write_manifest
from vamba.data.manifest import Failure, Manifest, SampleRow, ShardRow
from vamba.data.sample import Conversation, Sample, Turn

LETTERS = "ABCD"


def make_sample(name: str, *, num_frames: int, num_questions: int, split: str = "test", seed: int = 0) -> Sample:
    """A video of one frame per second with multiple-choice questions, and one free question that is no choice."""
    rng = np.random.default_rng([seed, *name.encode()])
    frames = tuple(
        simplejpeg.encode_jpeg(np.full((36, 64, 3), rng.integers(0, 256, 3), np.uint8), quality=85)
        for _ in range(num_frames)
    )
    questions = [
        Conversation(
            id=f"q{index}",
            category="colour" if index % 2 else "shape",
            turns=(
                Turn(speaker="human", value=f"<video>\nQuestion {index}?\nA. red\nB. green\nC. blue\nD. yellow"),
                Turn(speaker="gpt", value=LETTERS[int(rng.integers(4))]),
            ),
        )
        for index in range(num_questions)
    ]
    caption = Conversation(
        id="caption", turns=(Turn(speaker="human", value="<video>\nDescribe."), Turn(speaker="gpt", value="Colours."))
    )
    return Sample(
        id=name,
        media="video",
        split=split,  # type: ignore[arg-type]
        source_uri=f"/videos/{name}.mp4",
        source_digest="sha256:" + hashlib.sha256(name.encode()).hexdigest(),
        duration_ns=num_frames * 10**9,
        width=64,
        height=36,
        timestamps_ns=tuple(index * 10**9 for index in range(num_frames)),
        conversations=(*questions, caption),
        frames=frames,
    )


def write_dataset(root: Path, samples: Sequence[Sample], failures: Sequence[Failure] = ()) -> Manifest:
    """One shard with all samples, and its manifest."""
    buffer, rows = io.BytesIO(), []
    name = "shard-000000.tar"
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for sample in samples:
            begin = buffer.tell()
            for member, data in sample.to_members():
                header = tarfile.TarInfo(member)
                header.size = len(data)
                archive.addfile(header, io.BytesIO(data))
            rows.append((sample, begin, buffer.tell() - begin))
    data = buffer.getvalue()
    (root / SHARDS_PREFIX).mkdir(parents=True)
    (root / SHARDS_PREFIX / name).write_bytes(data)
    shard = ShardRow(name=name, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), num_samples=len(samples))
    manifest = build_manifest(
        [shard],
        [_row(sample, name, begin, size) for sample, begin, size in rows],
        config_digest="sha256:" + "0" * 64,
        inputs_digest="sha256:" + "1" * 64,
    )
    write_failures(root, failures)
    write_manifest(root, manifest)
    return manifest


def write_model(directory: Path, seed: int = 0) -> Path:
    """An untrained tiny model in release layout."""
    from vamba.data.frames import FrameProcessing
    from vamba.model.init import init_weights_
    from vamba.model.presets import PRESETS
    from vamba.model.pretrained import save_pretrained
    from vamba.model.vamba import Vamba

    tokenizer = Path(__file__).resolve().parents[3] / "vamba" / "assets" / "tiny_tokenizer"
    model = Vamba(PRESETS["tiny"])
    init_weights_(model, seed=seed)
    processing = FrameProcessing(shortest_edge=28, longest_edge=56)
    save_pretrained(model, directory, tokenizer_dir=tokenizer, processing=processing)
    return directory


def _row(sample: Sample, shard: str, offset_bytes: int, size_bytes: int) -> SampleRow:
    return SampleRow(
        id=sample.id,
        shard=shard,
        offset_bytes=offset_bytes,
        size_bytes=size_bytes,
        split=sample.split,
        media=sample.media,
        duration_ns=sample.duration_ns,
        num_frames=len(sample.frames),
        width=sample.width,
        height=sample.height,
        num_conversations=len(sample.conversations),
        source_uri=sample.source_uri,
        source_digest=sample.source_digest,
    )
