"""The frames of a clip on their way to the model: from the cache, or decoded, resized, and kept there.

    ShownClip ──found in the cache──────────────────────────────> pieces of resized frames
              └─clip_pixels ──resize (on the model's device)──┬─> pieces of resized frames
                                                              └─> the cache

Resizing is the same to the last bit on every device, so it makes no difference where a frame comes from.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipelines.evaluation.clips import JPEG_QUALITY, ShownClip, clip_pixels
from pipelines.evaluation.frame_cache import FrameCache, cache_key
from pipelines.storage import vamba_home

if TYPE_CHECKING:
    import numpy as np

    from vamba.data.frames import FrameProcessing

CacheUse = Literal["", "hit", "miss"]
_POLICY = "uniform-1"
"""How the frames of a clip are chosen and decoded; another name where that changes, so that old entries are not taken."""  # noqa: E501


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownPixels:
    """pieces: uint8[N, H, W, 3] of consecutive frames; to be closed. num_frames: of all of them.

    processing: what is left to be done to them. cache: whether they come from it; "" where none is used.
    """

    pieces: Generator[np.ndarray, None, None]
    num_frames: int
    processing: FrameProcessing
    cache: CacheUse


def shown_pixels(
    shown: ShownClip, processing: FrameProcessing, *, cache: FrameCache | None, device: str, num_processes: int
) -> ShownPixels:
    """The frames of a clip. processing: the model's; the clip's own rule says how large they are. Raises as
    `clip_pixels`."""
    # The protocol's size of frames, the same for every clip of an evaluation.
    processing = replace(processing, shortest_edge=shown.frames.shortest_edge, longest_edge=shown.frames.longest_edge)
    if cache is None or shown.clip.pictures_per_s or not shown.clip.exists:
        clip = clip_pixels(shown, num_processes=num_processes)
        return ShownPixels(pieces=clip.pieces, num_frames=clip.num_frames, processing=processing, cache="")
    resized = replace(processing, shortest_edge=None, longest_edge=None)
    key = cache_key(Path(shown.clip.path), _how(shown, processing))
    entry = cache.find(key)
    if entry is not None:
        return ShownPixels(pieces=entry.pieces(), num_frames=entry.num_frames, processing=resized, cache="hit")
    clip = clip_pixels(shown, num_processes=num_processes)
    pieces = cache.keep(key, _resized(clip.pieces, processing, device), clip.num_frames)
    return ShownPixels(pieces=pieces, num_frames=clip.num_frames, processing=resized, cache="miss")


def open_cache(limit_gb: float) -> FrameCache | None:
    """The cache of this machine; None where the limit leaves no room for any."""
    return FrameCache(vamba_home() / "cache" / "frames", int(limit_gb * 1e9)) if limit_gb > 0 else None


def _how(shown: ShownClip, processing: FrameProcessing) -> dict[str, object]:
    return {
        "policy": _POLICY,
        "num_frames": shown.frames.num_frames,
        "start_s": shown.clip.start_s,
        "end_s": shown.clip.end_s,
        "jpeg_quality": JPEG_QUALITY,
        "processing": processing.to_dict(),
    }


def _resized(
    pieces: Generator[np.ndarray, None, None], processing: FrameProcessing, device: str
) -> Generator[np.ndarray, None, None]:
    import torch

    from vamba.data.frames import resize_frames

    with closing(pieces):
        for piece in pieces:
            if device == "cpu":
                yield resize_frames(piece, processing)
            else:
                yield resize_frames(torch.from_numpy(piece).to(device), processing).cpu().numpy()
