"""A small dataset on disk for training tests: clips of one colour, and the question which colour it is."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import simplejpeg

from pipelines.manifest_io import write_manifest
from vamba.data.manifest import Manifest, SampleRow, ShardRow
from vamba.data.sample import Conversation, Sample, Turn

COLORS = {"A": (200, 30, 30), "B": (30, 200, 30), "C": (30, 30, 200), "D": (200, 200, 30)}


def make_sample(number: int, *, num_frames: int = 4, side: int = 56, split: str = "train") -> Sample:
    """Clip `number`: deterministic, one of four colours with some noise."""
    letter = "ABCD"[number % 4]
    noise = np.random.default_rng(number).integers(-20, 20, (num_frames, side, side, 3))
    pixels = np.clip(np.array(COLORS[letter]) + noise, 0, 255).astype(np.uint8)
    frames = tuple(simplejpeg.encode_jpeg(np.ascontiguousarray(frame), quality=90) for frame in pixels)
    question = "<video>\nWhich colour?\nA. red\nB. green\nC. blue\nD. yellow"
    turns = (Turn(speaker="human", value=question), Turn(speaker="gpt", value=letter))
    return Sample(
        id=f"clip-{number:04d}",
        media="video",
        split=split,  # type: ignore[arg-type]
        source_uri=f"clip-{number}.mp4",
        source_digest="sha256:" + hashlib.sha256(str(number).encode()).hexdigest(),
        duration_ns=num_frames * 10**9,
        width=side,
        height=side,
        timestamps_ns=tuple(i * 10**9 for i in range(num_frames)),
        conversations=(Conversation(id=f"q-{number}", turns=turns, category="colour"),),
        frames=frames,
    )


def write_dataset(directory: Path, samples: list[Sample]) -> Manifest:
    """One shard and its manifest below `directory`."""
    shard = directory / "shards" / "shard-000000.tar"
    shard.parent.mkdir(parents=True)
    rows = []
    with shard.open("wb") as file:
        for sample in samples:
            offset = file.tell()
            for name, content in sample.to_members():
                header = tarfile.TarInfo(name)
                header.size = len(content)
                file.write(header.tobuf(tarfile.USTAR_FORMAT))
                file.write(content + b"\0" * (-len(content) % 512))
            rows.append(_row(sample, shard.name, offset, file.tell() - offset))
        file.write(b"\0" * 1024)
    digest = hashlib.sha256(shard.read_bytes()).hexdigest()
    table = ShardRow(name=shard.name, size_bytes=shard.stat().st_size, sha256=digest, num_samples=len(rows))
    manifest = Manifest(config_digest="sha256:" + "0" * 64, shards=(table,), samples=tuple(rows))
    write_manifest(str(directory), manifest)
    return manifest


def tar_bytes(sample: Sample) -> bytes:
    """The sample's members as a tar file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in sample.to_members():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return buffer.getvalue()


def _row(sample: Sample, shard: str, offset: int, size: int) -> SampleRow:
    return SampleRow(
        id=sample.id,
        shard=shard,
        offset_bytes=offset,
        size_bytes=size,
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
