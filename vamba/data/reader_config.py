"""What the reader makes of a sample, and what that costs: known from the manifest alone, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vamba.data.frames import FrameProcessing, num_video_tokens
from vamba.data.manifest import SampleRow
from vamba.data.plan import PlanItem


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderConfig:
    """How samples become batches.

    frames: size of the frames that the vision tower sees.
    max_frames: frames used of one sample; of longer ones, the middles of that many equal spans.
    text_tokens_per_conversation: the plan's estimate of the text cost, which is planned before any text is read.
    prefetch_steps: steps decoded ahead of training. cache_bytes: encoded samples kept in memory per worker.
    """

    frames: FrameProcessing = FrameProcessing()
    max_frames: int = 64
    text_tokens_per_conversation: int = 64
    prefetch_steps: int = 2
    cache_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        for name in ("max_frames", "prefetch_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"reader.{name} is {getattr(self, name)}, but it must be at least 1.")


def plan_items(rows: Sequence[SampleRow], config: ReaderConfig) -> list[PlanItem]:
    """Cost of every sample in tokens: its video tokens after the frame cap, plus the estimated text."""
    return [
        PlanItem(
            id=row.id,
            media=row.media,
            cost_tokens=num_video_tokens(min(row.num_frames, config.max_frames), row.width, row.height, config.frames)
            + row.num_conversations * config.text_tokens_per_conversation,
        )
        for row in rows
    ]
