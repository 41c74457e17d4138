"""From the plan to batches: reads, decodes and packs ahead of training, in plan order.

    DataPlan + rank ──> rows of a pack ── read_range ──> bytes ── SampleEncoder ──> EncodedSample ── collate ──> Batch

One background thread works `prefetch_steps` ahead; the training thread only takes finished steps. What comes out is
`(StepInput, PlanState)`: the state is the position **after** the step and is all that is needed to continue. Small
datasets are read again and again, so encoded samples may be kept, up to a number of bytes; the cache changes nothing
but time.
"""

from __future__ import annotations

import io
import queue
import tarfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from vamba.data.batch import Batch, EncodedSample, collate
from vamba.data.frames import frames_to_patches
from vamba.data.manifest import SampleRow
from vamba.data.plan import DataPlan, Pack, PlanState
from vamba.data.reader_config import ReaderConfig
from vamba.data.sample import Sample
from vamba.data.sampling import uniform_indices
from vamba.data.stored_frames import stored_frames
from vamba.data.text import Tokenizer, encode_conversation

ReadRange = Callable[[str, int, int], bytes]
"""(shard name, offset in bytes, length in bytes) -> exactly those bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """One pack, ready for a forward pass.

    counts: False for a pack that only keeps this rank in step with the others; its loss weighs nothing.
    """

    batch: Batch
    pack_index: int
    counts: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInput:
    """What one rank does in one optimizer step.

    sample_ids: of the whole global batch, all ranks, in plan order. epoch: which pass over the data this is.
    """

    micro_batches: tuple[MicroBatch, ...]
    sample_ids: tuple[str, ...]
    epoch: int
    media: str


class SampleEncoder:
    """Bytes of a sample's tar members -> EncodedSample."""

    def __init__(self, tokenizer: Tokenizer, config: ReaderConfig) -> None:
        self.tokenizer = tokenizer
        self.config = config

    def __call__(self, content: bytes) -> EncodedSample:
        """Raises ValueError when the bytes are not a whole sample."""
        sample = Sample.from_members(_members(content))
        num_frames = self.config.num_frames(sample.num_frames, sample.width, sample.height)
        pixels_NHWC = stored_frames(sample).decode(uniform_indices(num_frames, sample.num_frames))
        patches, grid_thw = frames_to_patches(pixels_NHWC, self.config.frames)
        return EncodedSample(
            id=sample.id,
            patches=patches,
            grid_thws=(grid_thw,),
            texts=tuple(encode_conversation(self.tokenizer, c, media=True) for c in sample.conversations),
        )


class PackReader:
    """Iterates over the steps of a plan from a position on, for one rank. Endless: epochs follow each other."""

    def __init__(
        self,
        plan: DataPlan,
        rows: Sequence[SampleRow],
        read_range: ReadRange,
        encode: Callable[[bytes], EncodedSample],
        *,
        state: PlanState,
        rank: int = 0,
        world_size: int = 1,
        prefetch_steps: int = 2,
        cache_bytes: int = 0,
    ) -> None:
        """`rows` are the plan's items, in the same order. Raises ValueError when `state` is of another plan."""
        plan.step_at(state)
        assert [row.id for row in rows] == [item.id for item in plan.items]
        self._plan, self._rows, self._read_range, self._encode = plan, rows, read_range, encode
        self._rank, self._world_size = rank, world_size
        self._cache = _ByteBoundedCache(cache_bytes)
        self._queue: queue.Queue[tuple[StepInput, PlanState] | BaseException] = queue.Queue(maxsize=prefetch_steps)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._produce, args=(state,), name="pack-reader", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[tuple[StepInput, PlanState]]:
        return self

    def __next__(self) -> tuple[StepInput, PlanState]:
        """The next step. Raises what reading or decoding it raised, at the step where it happened."""
        ready = self._queue.get()
        if isinstance(ready, BaseException):
            self._queue.put(ready)
            raise ready
        return ready

    def close(self) -> None:
        """Stop the background thread."""
        self._closing.set()
        self._thread.join(timeout=30)

    def _produce(self, state: PlanState) -> None:
        try:
            while not self._closing.is_set():
                step = self._plan.step_at(state)
                micro_batches = tuple(self._micro_batch(*share) for share in step.share(self._rank, self._world_size))
                ids = tuple(self._rows[item].id for pack in step.packs for item in pack.items)
                ready = StepInput(micro_batches=micro_batches, sample_ids=ids, epoch=state.epoch, media=step.media)
                state = self._plan.advance(state)
                self._put((ready, state))
        except BaseException as error:  # handed to the training thread, which raises it
            self._put(error)

    def _put(self, value: tuple[StepInput, PlanState] | BaseException) -> None:
        while not self._closing.is_set():
            try:
                return self._queue.put(value, timeout=0.2)
            except queue.Full:
                continue

    def _micro_batch(self, pack: Pack, counts: bool) -> MicroBatch:
        samples = [self._encoded(self._rows[item]) for item in pack.items]
        return MicroBatch(batch=collate(samples), pack_index=pack.index, counts=counts)

    def _encoded(self, row: SampleRow) -> EncodedSample:
        cached = self._cache.get(row.id)
        if cached is not None:
            return cached
        content = self._read_range(row.shard, row.offset_bytes, row.size_bytes)
        try:
            encoded = self._encode(content)
        except (ValueError, tarfile.TarError) as error:
            place = f"{row.shard} at byte {row.offset_bytes}, {row.size_bytes} bytes"
            raise ValueError(f"Sample {row.id!r} ({place}) can't be read: {error}") from error
        self._cache.put(row.id, encoded)
        return encoded


class _ByteBoundedCache:
    """Keeps what fits, first come first kept: with a fixed working set per epoch, evicting would only churn."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._used_bytes = 0
        self._samples: dict[str, EncodedSample] = {}

    def get(self, key: str) -> EncodedSample | None:
        return self._samples.get(key)

    def put(self, key: str, sample: EncodedSample) -> None:
        size = sum(text.input_ids.nbytes + text.labels.nbytes for text in sample.texts)
        size += 0 if sample.patches is None else sample.patches.nbytes
        if self._used_bytes + size <= self._limit_bytes:
            self._samples[key] = sample
            self._used_bytes += size


def _members(content: bytes) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None
            yield member.name, file.read()
