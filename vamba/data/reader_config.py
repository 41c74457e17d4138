"""What the reader makes of a sample, and what that costs: known from the manifest alone, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from vamba.data.frames import FrameProcessing, bound_edges, num_video_tokens
from vamba.data.plan import PlanItems
from vamba.data.sample_table import Placed, SampleTable
from vamba.data.sampling import auto_num_frames

_MANY = 1 << 40  # more frames than a video has

ResizeOn = Literal["device", "host"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderConfig:
    """How samples become batches.

    frames: size of the frames that the vision tower sees.
    max_frames: frames used of one sample; of longer ones, the middles of that many equal spans.
    max_patches: patches used of one sample, counted before merging, at two frames each; fewer frames are used of larger
        ones. The published training allows 120000. None for no limit but `max_frames`.
    text_tokens_per_conversation: the plan's estimate of the text cost, which is planned before any text is read.
    resize_on: where frames are resized to the model's size, with the same result. "device", where batches go, costs the
        host nothing; where that is a CPU, "host", on the threads that decode, is meant.
    prefetch_steps: steps read and decoded ahead of training, as far as `prefetch_bytes` allows: stored bytes and
        decoded pixels of the steps ahead, together. A step that is larger than that is prepared alone.
    read_workers: threads that wait for storage; neighbours in a shard are read at once, up to `max_read_bytes`.
    decode_workers: threads that decode. 0 reads and decodes on the training thread, for debugging.
    retry_reads_for_s: how long a read that fails for a passing reason is tried again.
    max_unreadable_samples: samples of a run that may turn out unreadable. They are left out of their pack, recorded,
        and never exchanged for others; one more ends the run.
    cache_bytes: encoded samples kept in memory per worker. Worth it where the whole split fits.
    """

    frames: FrameProcessing = FrameProcessing()
    max_frames: int = 64
    max_patches: int | None = None
    text_tokens_per_conversation: int = 64
    resize_on: ResizeOn = "device"
    prefetch_steps: int = 2
    prefetch_bytes: int = 1 << 30
    read_workers: int = 4
    max_read_bytes: int = 32 << 20
    decode_workers: int = 1
    retry_reads_for_s: float = 300.0
    max_unreadable_samples: int = 0
    cache_bytes: int = 256 << 20

    def __post_init__(self) -> None:
        for name in ("max_frames", "prefetch_steps", "prefetch_bytes", "read_workers", "max_read_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"reader.{name} is {getattr(self, name)}, but it must be at least 1.")
        for name in ("decode_workers", "retry_reads_for_s", "max_unreadable_samples", "cache_bytes"):
            if getattr(self, name) < 0:
                raise ValueError(f"reader.{name} is {getattr(self, name)}, but it must be at least 0.")
        if self.resize_on not in get_args(ResizeOn):
            raise ValueError(f"reader.resize_on is {self.resize_on!r}; it must be one of {get_args(ResizeOn)}.")
        if self.max_patches is not None and self.max_patches < 1:
            raise ValueError(f"reader.max_patches is {self.max_patches}; it must be at least 1, or null for no limit.")

    def resizes_on_device(self, device: str) -> bool:
        """Whether frames reach `device` ("cpu", "cuda", …) as stored, to be resized there."""
        return self.resize_on == "device" and device != "cpu"

    def num_frames(self, num_stored: int, width: int, height: int) -> int:
        """Frames used of a sample that stores `num_stored` of `width` x `height` pixels."""
        most = min(num_stored, self.max_frames)
        if self.max_patches is None:
            return most
        new_width, new_height = bound_edges(width, height, self.frames)
        return min(most, auto_num_frames(self.max_patches, new_height, new_width))


def plan_items(rows: Sequence[Placed], config: ReaderConfig) -> PlanItems:
    """Cost of every sample in tokens: its video tokens after the frame cap, plus the estimated text."""
    table = rows if isinstance(rows, SampleTable) else SampleTable(rows)
    sizes, size_of = np.unique(np.stack([table.width, table.height], 1), axis=0, return_inverse=True)
    limits = [config.num_frames(_MANY, int(width), int(height)) for width, height in sizes]
    tokens = [num_video_tokens(1, int(width), int(height), config.frames) for width, height in sizes]
    num_frames = np.minimum(table.num_frames, np.asarray(limits, np.int64)[size_of])
    num_pairs = np.maximum(1, num_frames // config.frames.temporal_patch_size)
    video = num_pairs * np.asarray(tokens, np.int64)[size_of]
    text = table.num_conversations.astype(np.int64) * config.text_tokens_per_conversation
    return PlanItems(table.ids, table.media, video + text)
