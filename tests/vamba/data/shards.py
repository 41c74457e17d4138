"""Small real shards on disk, for tests of the reader: clips and pictures of several sizes, in three tar files."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipelines.storage import LocalStorage
from tests.distributed.dataset import make_sample
from vamba.data.encode import SampleEncoder
from vamba.data.frames import FrameProcessing
from vamba.data.manifest import SampleRow
from vamba.data.plan import DataPlan, PlanConfig
from vamba.data.reader_config import ReaderConfig, plan_items
from vamba.data.sample import Sample
from vamba.data.text import load_tokenizer

TOKENIZER = Path(__file__).parents[3] / "vamba" / "assets" / "tiny_tokenizer"
CONFIG = ReaderConfig(frames=FrameProcessing(), max_frames=4, cache_bytes=0, retry_reads_for_s=0.0)


@dataclass
class Shards:
    """Shards below a folder, and every read of them."""

    folder: Path
    rows: list[SampleRow]
    reads: list[tuple[str, int, int]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def read_range(self, shard: str, offset: int, length: int) -> bytes:
        with self.lock:
            self.reads.append((shard, offset, length))
        return LocalStorage(self.folder).read_range(shard, offset, length)

    def plan(self, *, tokens_per_pack: int = 220, packs_per_step: int = 3, seed: int = 5) -> DataPlan:
        config = PlanConfig(tokens_per_pack=tokens_per_pack, packs_per_step=packs_per_step)
        return DataPlan(plan_items(self.rows, CONFIG), config, seed=seed)

    def damage(self, row: SampleRow, at: int = 0, what: bytes = b"\0" * 600) -> None:
        """Overwrite bytes of a sample, from byte `at` of it on."""
        with (self.folder / row.shard).open("r+b") as file:
            file.seek(row.offset_bytes + at)
            file.write(what)


def encoder(config: ReaderConfig = CONFIG, *, device: str = "cpu") -> SampleEncoder:
    return SampleEncoder(load_tokenizer(TOKENIZER), config, device=device)


def write_shards(folder: Path, num_samples: int = 24, num_shards: int = 3) -> Shards:
    """Sample i goes to shard i % num_shards; every fourth is a picture."""
    rows = []
    for shard in range(num_shards):
        content = bytearray()
        for number in range(shard, num_samples, num_shards):
            sample = make_sample(number, num_frames=2 + number % 5)
            if number % 4 == 3:
                sample = replace(
                    sample, media="image", frames=sample.frames[:1], timestamps_ns=sample.timestamps_ns[:1]
                )
            member_bytes = tar_members(sample)
            rows.append(row_of(sample, f"shard-{shard:06d}.tar", len(content), len(member_bytes)))
            content += member_bytes
        (folder / f"shard-{shard:06d}.tar").write_bytes(content + bytes(1024))
    return Shards(folder=folder, rows=rows)


def tar_members(sample: Sample) -> bytes:
    """The sample's members as they stand in a shard: headers, contents, padding, and no end mark."""
    import tarfile

    content = b""
    for name, data in sample.to_members():
        header = tarfile.TarInfo(name)
        header.size = len(data)
        content += header.tobuf(tarfile.USTAR_FORMAT) + data + b"\0" * (-len(data) % 512)
    return content


def row_of(sample: Sample, shard: str, offset: int, size: int) -> SampleRow:
    return SampleRow(
        id=sample.id, shard=shard, offset_bytes=offset, size_bytes=size, split=sample.split, media=sample.media,
        duration_ns=sample.duration_ns, num_frames=len(sample.frames), width=sample.width, height=sample.height,
        num_conversations=1, source_uri=sample.source_uri, source_digest=sample.source_digest,
    )  # fmt: skip
