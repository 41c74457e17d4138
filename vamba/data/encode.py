"""One stored sample in, arrays out: the only place where training decodes frames and tokenises conversations.

    bytes ── members ──> Sample ── frames that are used, decoded ──> patches, or frames for the device ──┐
                            └────── conversations ── tokenizer ──> ids and labels ─────────────────────┴─> EncodedSample

Pure: equal bytes give equal arrays in every process. JPEG decoding and resizing run outside the GIL, so threads
suffice.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import numpy as np

from vamba.data.batch import EncodedSample
from vamba.data.frames import Empty, FrameProcessing, fill_patches, frame_grid
from vamba.data.members import members
from vamba.data.memory_pool import MemoryPool
from vamba.data.reader_config import ReaderConfig
from vamba.data.sample import Sample
from vamba.data.sample_table import Placed
from vamba.data.sampling import uniform_indices
from vamba.data.stored_frames import stored_frames
from vamba.data.text import IGNORE_LABEL, EncodedText, TeacherLogits, Tokenizer, encode_conversation

_CHANNELS = 3

TeachersOf = Callable[[str], tuple[TeacherLogits, ...]]
"""Sample id -> the teacher of each of its conversations."""


class Encoder(Protocol):
    """What the reader asks of whoever turns samples into arrays."""

    processing: FrameProcessing

    def __call__(self, content: memoryview, memory: MemoryPool | None = None) -> EncodedSample:
        """Raises ValueError when the bytes are not a whole sample. Pixels may be put in `memory`."""

    def num_bytes(self, row: Placed) -> int:
        """Size of the sample's encoded pixels, known before it is read."""

    def placeholder(self) -> EncodedSample:
        """The least a pack can hold, for a pack that counts nothing."""


class SampleEncoder:
    """Bytes of a sample's tar members -> EncodedSample."""

    teachers: TeachersOf | None = None

    def __init__(self, tokenizer: Tokenizer, config: ReaderConfig, *, device: str = "cpu") -> None:
        """device: where the batches go ("cpu", "cuda", …)."""
        self.tokenizer = tokenizer
        self.config = config
        self.processing = config.frames
        self.keeps_frames = config.resizes_on_device(device)

    def taught_by(self, teachers: TeachersOf) -> SampleEncoder:
        """The same encoder, with a teacher's logits beside every conversation."""
        taught = copy.copy(self)
        taught.teachers = teachers
        return taught

    def __call__(self, content: bytes | memoryview, memory: MemoryPool | None = None) -> EncodedSample:
        """Raises ValueError when the bytes are not a whole sample. Pixels are put in `memory`."""
        empty: Empty = np.empty if memory is None else memory.empty
        sample = parse_sample(content)
        num_frames = self.config.num_frames(sample.num_frames, sample.width, sample.height)
        frames_NHWC = stored_frames(sample).decode(uniform_indices(num_frames, sample.num_frames), empty)
        height, width = frames_NHWC.shape[1:3]
        if (width, height) != (sample.width, sample.height):
            raise ValueError(f"its frames are {width}x{height} pixels, its JSON says {sample.width}x{sample.height}")
        texts = tuple(encode_conversation(self.tokenizer, c, media=True) for c in sample.conversations)
        if self.teachers is not None:
            pairs = zip(texts, self.teachers(sample.id), strict=True)
            texts = tuple(replace(text, teacher=teacher) for text, teacher in pairs)
        grid = frame_grid(num_frames, sample.width, sample.height, self.processing)
        if self.keeps_frames:
            return EncodedSample(id=sample.id, patches=None, frames=(frames_NHWC,), grid_thws=(grid,), texts=texts)
        patches_PC = empty((math.prod(grid), self._values_per_patch), np.uint8)
        fill_patches(patches_PC, frames_NHWC, self.processing)
        return EncodedSample(id=sample.id, patches=patches_PC, grid_thws=(grid,), texts=texts)

    def num_bytes(self, row: Placed) -> int:
        num_frames = self.config.num_frames(row.num_frames, row.width, row.height)
        if self.keeps_frames:
            return num_frames * row.width * row.height * _CHANNELS
        pairs, height, width = frame_grid(num_frames, row.width, row.height, self.processing)
        return pairs * height * width * self._values_per_patch

    def placeholder(self) -> EncodedSample:
        merge = self.processing.merge_size
        patches_PC = np.zeros((merge * merge, self._values_per_patch), np.uint8)
        ids = np.array([self.tokenizer.im_start_id, self.tokenizer.im_end_id])
        text = EncodedText(input_ids=ids, labels=np.array([IGNORE_LABEL, self.tokenizer.im_end_id]))
        return EncodedSample(id="placeholder", patches=patches_PC, grid_thws=((1, merge, merge),), texts=(text,))

    @property
    def _values_per_patch(self) -> int:
        return _CHANNELS * self.processing.temporal_patch_size * self.processing.patch_size**2


def parse_sample(content: bytes | memoryview) -> Sample:
    """The sample in these members; its frames are views of `content`. ValueError when the bytes are not one."""
    named = [(name, bytes(data) if name.endswith(".json") else data) for name, data in members(content)]
    try:
        return Sample.from_members(named)  # type: ignore[arg-type]  # frames stay views
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"its JSON lacks something or holds another type: {error!r}") from error
