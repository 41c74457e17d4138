"""What the reader makes of a sample, and what that costs: known from the manifest alone, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vamba.data.frames import FrameProcessing, bound_edges, num_video_tokens
from vamba.data.manifest import SampleRow
from vamba.data.plan import PlanItem
from vamba.data.sampling import auto_num_frames


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderConfig:
    """How samples become batches.

    frames: size of the frames that the vision tower sees.
    max_frames: frames used of one sample; of longer ones, the middles of that many equal spans.
    max_patches: patches used of one sample, counted before merging, at two frames each; fewer frames are used of larger
        ones. The published training allows 120000. None for no limit but `max_frames`.
    text_tokens_per_conversation: the plan's estimate of the text cost, which is planned before any text is read.
    prefetch_steps: steps decoded ahead of training. cache_bytes: encoded samples kept in memory per worker.
    """

    frames: FrameProcessing = FrameProcessing()
    max_frames: int = 64
    max_patches: int | None = None
    text_tokens_per_conversation: int = 64
    prefetch_steps: int = 2
    cache_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        for name in ("max_frames", "prefetch_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"reader.{name} is {getattr(self, name)}, but it must be at least 1.")
        if self.max_patches is not None and self.max_patches < 1:
            raise ValueError(f"reader.max_patches is {self.max_patches}; it must be at least 1, or null for no limit.")

    def num_frames(self, num_stored: int, width: int, height: int) -> int:
        """Frames used of a sample that stores `num_stored` of `width` x `height` pixels."""
        most = min(num_stored, self.max_frames)
        if self.max_patches is None:
            return most
        new_width, new_height = bound_edges(width, height, self.frames)
        return min(most, auto_num_frames(self.max_patches, new_height, new_width))


def plan_items(rows: Sequence[SampleRow], config: ReaderConfig) -> list[PlanItem]:
    """Cost of every sample in tokens: its video tokens after the frame cap, plus the estimated text."""

    def cost_tokens(row: SampleRow) -> int:
        num_frames = config.num_frames(row.num_frames, row.width, row.height)
        video = num_video_tokens(num_frames, row.width, row.height, config.frames)
        return video + row.num_conversations * config.text_tokens_per_conversation

    return [PlanItem(id=row.id, media=row.media, cost_tokens=cost_tokens(row)) for row in rows]
