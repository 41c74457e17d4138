"""From the plan to batches: reads, decodes and packs ahead of training, in plan order.

    DataPlan + rank ──> steps that fit the window ── Fetcher ──> bytes ── Encoder ──> EncodedSample ── collate ──> Batch
                          one thread (pump)        read threads   decode threads                    pump

The training thread only takes finished steps. What comes out is `(StepInput, PlanState)`: the state is the position
**after** the step and is all that is needed to continue, on any number of workers. Each byte of the split is read once
an epoch, by the one rank whose pack it belongs to.

A sample that can't be read is left out of its pack, named in the step's record and counted. A pack that has lost all
its samples, like one that only keeps a rank in step with the others, is a placeholder that counts nothing.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from vamba.data.batch import Batch, EncodedSample, collate
from vamba.data.encode import Encoder
from vamba.data.fetch import Fetcher, ReadCounts, ReadRange, UnreadableSampleError
from vamba.data.memory_pool import MemoryPool
from vamba.data.plan import DataPlan, Pack, PlannedStep, PlanState
from vamba.data.prefetch_window import PrefetchWindow
from vamba.data.reader_config import ReaderConfig
from vamba.data.sample_cache import SampleCache
from vamba.data.sample_table import Placed

INTERRUPTIBLE_EVERY_S = 1.0

OnUnreadable = Callable[[UnreadableSampleError, int], None]
"""(error, number of the step that goes without the sample), called on a thread of the reader."""


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
    unreadable: ids that this rank had to leave out. abandoned: the samples did not come in time, placeholders stand in
    their place, and the step must change nothing.
    """

    micro_batches: tuple[MicroBatch, ...]
    sample_ids: tuple[str, ...]
    epoch: int
    media: str
    unreadable: tuple[str, ...] = ()
    abandoned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderStats:
    """What a reader did and holds.

    reads: of the storage. wait_s: time that the caller has waited for steps. num_steps_ahead, bytes_ahead: on their
    way.
    """

    reads: ReadCounts
    wait_s: float
    num_steps_ahead: int
    bytes_ahead: int
    cache_bytes: int


@dataclass(slots=True, kw_only=True)
class _Step:
    """A step on its way. packs: pack, whether it counts, and its samples as they come."""

    planned: PlannedStep
    before: PlanState
    packs: tuple[tuple[Pack, bool], ...]
    stored_bytes: int
    pixel_bytes: int
    samples: dict[int, Future[EncodedSample]]


class PackReader:
    """Iterates over the steps of a plan from a position on, for one rank. Endless: epochs follow each other."""

    def __init__(
        self,
        plan: DataPlan,
        rows: Sequence[Placed],
        read_range: ReadRange,
        encode: Encoder,
        *,
        state: PlanState,
        rank: int = 0,
        world_size: int = 1,
        config: ReaderConfig = ReaderConfig(),  # noqa: B008  (frozen)
        unreadable: Collection[str] = (),
        on_unreadable: OnUnreadable | None = None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        """Raises ValueError when `state` is of another plan.

        rows: the plan's items, in the same order. unreadable: ids that the run has already found so. interrupted: asked
        every second while a step is waited for; True has an abandoned step come at once, and the real one next time.
        """
        plan.step_at(state)
        assert len(rows) == len(plan.items)
        self._plan, self._rows, self._encode, self._config = plan, rows, encode, config
        self._rank, self._world_size = rank, world_size
        self._unreadable, self._on_unreadable = set(unreadable), on_unreadable
        self._cache = SampleCache(config.cache_bytes)
        self._window = PrefetchWindow(config.prefetch_steps, config.prefetch_bytes)
        threaded = config.decode_workers > 0
        self._readers = _pool(config.read_workers if threaded else 0, "read")
        self._decoders = _pool(config.decode_workers, "decode")
        self._memory = MemoryPool(keep_bytes=config.prefetch_bytes // 4)
        self._fetcher = Fetcher(
            read_range,
            self._readers,
            memory=self._memory,
            max_read_bytes=config.max_read_bytes,
            retry_for_s=config.retry_reads_for_s,
        )
        self._state, self._next, self._wait_s = state, state, 0.0
        self._interrupted = interrupted
        self._ready: queue.SimpleQueue[tuple[StepInput, _Step] | BaseException] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._pump, name="pack-reader", daemon=True) if threaded else None
        if self._thread is not None:
            self._thread.start()

    def __enter__(self) -> PackReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[tuple[StepInput, PlanState]]:
        return self

    def __next__(self) -> tuple[StepInput, PlanState]:
        """The next step. Raises what reading or decoding it raised, at the step where it happened."""
        started = time.perf_counter()
        if self._thread is None:
            self._prepare_one()
        ready = self._await_ready()
        self._wait_s += time.perf_counter() - started
        if ready is None:
            return self._abandoned(), self._next
        if isinstance(ready, BaseException):
            self._ready.put(ready)
            raise ready
        inputs, step = ready
        self._window.leave(step.pixel_bytes)
        self._next = self._plan.advance(step.before)
        return inputs, self._next

    @property
    def stats(self) -> ReaderStats:
        return ReaderStats(
            reads=self._fetcher.counts,
            wait_s=self._wait_s,
            num_steps_ahead=self._window.num_steps,
            bytes_ahead=self._window.used_bytes,
            cache_bytes=self._cache.used_bytes,
        )

    def close(self) -> None:
        """Stop reading and decoding; what is on its way is dropped."""
        self._window.close()
        self._fetcher.close()
        if self._thread is not None:
            self._thread.join()
        for pool in (self._readers, self._decoders):
            pool.shutdown()

    def _await_ready(self) -> tuple[StepInput, _Step] | BaseException | None:
        """The next step, or None when its wait was interrupted."""
        while True:
            try:
                return self._ready.get(timeout=INTERRUPTIBLE_EVERY_S)
            except queue.Empty:
                if self._interrupted():
                    return None

    def _abandoned(self) -> StepInput:
        """What keeps the other ranks' collective operations going where this rank has no samples to train on."""
        planned, processing = self._plan.step_at(self._next), self._encode.processing
        packs = planned.share(self._rank, self._world_size)
        empty = collate([self._encode.placeholder()], merge_size=processing.merge_size, processing=processing)
        return StepInput(
            micro_batches=tuple(MicroBatch(batch=empty, pack_index=pack.index, counts=False) for pack, _ in packs),
            sample_ids=tuple(self._rows[item].id for pack in planned.packs for item in pack.items),
            epoch=self._next.epoch,
            media=planned.media,
            abandoned=True,
        )

    def _pump(self) -> None:
        """Keep the window full and hand over its first step when that is complete."""
        ahead: deque[_Step] = deque()
        try:
            step = self._step_at(self._state)
            while True:
                while self._window.enter(step.stored_bytes + step.pixel_bytes, wait=not ahead):
                    ahead.append(step)
                    self._start(step)
                    step = self._step_at(self._plan.advance(step.before))
                if not ahead:
                    return
                self._ready.put((self._finish(ahead[0]), ahead.popleft()))
        except BaseException as error:  # handed to the training thread, which raises it
            self._ready.put(error)

    def _prepare_one(self) -> None:
        step = self._step_at(self._state)
        self._window.enter(step.stored_bytes + step.pixel_bytes, wait=True)
        self._start(step)
        self._ready.put((self._finish(step), step))
        self._state = self._plan.advance(step.before)

    def _step_at(self, state: PlanState) -> _Step:
        planned = self._plan.step_at(state)
        packs = planned.share(self._rank, self._world_size)
        rows = [self._rows[item] for pack, counts in packs if counts for item in pack.items]
        return _Step(
            planned=planned,
            before=state,
            packs=packs,
            stored_bytes=sum(row.size_bytes for row in rows),
            pixel_bytes=sum(self._encode.num_bytes(row) for row in rows),
            samples={},
        )

    def _start(self, step: _Step) -> None:
        """Have the step's samples read and decoded."""
        items = [item for pack, counts in step.packs if counts for item in pack.items]
        rows = {item: self._rows[item] for item in items}
        cached = {item: self._cache.get(row.id) for item, row in rows.items()}
        reads = self._fetcher.fetch([row for item, row in rows.items() if cached[item] is None])
        for item, row in rows.items():
            known = cached[item]
            if known is None:
                step.samples[item] = self._decoders.submit(self._decode, row, reads[row.id])
            else:
                step.samples[item] = Future()
                step.samples[item].set_result(known)
                self._window.shrink(row.size_bytes)

    def _decode(self, row: Placed, read: Future[memoryview]) -> EncodedSample:
        try:
            content = read.result()
            try:
                encoded = self._encode(content, self._memory)
                self._check(encoded, row)
            except ValueError as error:
                raise UnreadableSampleError(row, error) from error
        finally:
            self._window.shrink(row.size_bytes)
        self._cache.put(encoded)
        return encoded

    def _check(self, encoded: EncodedSample, row: Placed) -> None:
        pixels = encoded.frames if encoded.patches is None else (encoded.patches,)
        if encoded.id != row.id:
            raise ValueError(f"sample {encoded.id!r} stands there")
        if sum(array.nbytes for array in pixels) != self._encode.num_bytes(row):
            raise ValueError(
                f"its frames are not the {row.num_frames} of {row.width}x{row.height} pixels that the manifest says"
            )

    def _finish(self, step: _Step) -> StepInput:
        """Wait for the step's samples and pack them."""
        unreadable: list[str] = []
        micro_batches = []
        for pack, counts in step.packs:
            samples = []
            for item in pack.items if counts else ():
                try:
                    samples.append(step.samples.pop(item).result())
                except UnreadableSampleError as error:
                    unreadable.append(error.row.id)
                    self._leave_out(error, step.before.step + 1)
            processing = self._encode.processing
            batch = collate(
                samples or [self._encode.placeholder()], merge_size=processing.merge_size, processing=processing
            )
            micro_batches.append(MicroBatch(batch=batch, pack_index=pack.index, counts=bool(samples)))
        return StepInput(
            micro_batches=tuple(micro_batches),
            sample_ids=tuple(self._rows[item].id for pack in step.planned.packs for item in pack.items),
            epoch=step.before.epoch,
            media=step.planned.media,
            unreadable=tuple(unreadable),
        )

    def _leave_out(self, error: UnreadableSampleError, step: int) -> None:
        """Record that the sample is missing from `step`. Raises `error` when one too many is."""
        self._unreadable.add(error.row.id)
        if self._on_unreadable is not None:
            self._on_unreadable(error, step)
        allowed = self._config.max_unreadable_samples
        if len(self._unreadable) > allowed:
            error.add_note(f"Unreadable samples so far: {len(self._unreadable)}; {allowed} are allowed.")
            raise error


class _InlineExecutor(Executor):
    """Runs what is submitted at once, on the caller's thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def _pool(num_threads: int, name: str) -> Executor:
    return ThreadPoolExecutor(num_threads, thread_name_prefix=name) if num_threads else _InlineExecutor()
