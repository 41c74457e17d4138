"""Frames in, pixel patches out: JPEG bytes -> uint8 frames -> resized -> normalised patches of the vision tower.

Two resizes follow each other, both bicubic: `shortest_edge`/`longest_edge` bound the sides, then the area is rounded to
whole merge cells of 28 x 28 pixels between `min_pixels` and `max_pixels` (Qwen2-VL's rule). A patch row is
(channel, 2 frames, 14, 14) flattened; rows are ordered (frame pair, cell row, cell column, 2, 2), so that four
consecutive rows make one video token.

Sizes and counts are pure arithmetic, so that a plan can be made from stored widths and heights alone.
Shapes: N frames, H height, W width (pixels), P patches, C = 3 * 2 * 14 * 14 values per patch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], dtype=np.float32)
_STD = np.array([0.26862954, 0.26130258, 0.27577711], dtype=np.float32)
_MAX_ASPECT = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameProcessing:
    """How frames become patches. The defaults are the published model's."""

    shortest_edge: int | None = None
    """Pixels; each side is raised to at least this, without keeping the aspect."""
    longest_edge: int | None = None
    """Pixels; a longer side shrinks to this, keeping the aspect."""
    min_pixels: int = 56 * 56
    """Least area of a resized frame, pixels."""
    max_pixels: int = 12_845_056
    """Greatest area of a resized frame, pixels."""
    patch_size: int = 14
    """Side of a patch, pixels."""
    temporal_patch_size: int = 2
    """Frames per patch."""
    merge_size: int = 2
    """Side, in patches, of the square that becomes one video token."""

    def __post_init__(self) -> None:
        for name in ("min_pixels", "max_pixels", "patch_size", "temporal_patch_size", "merge_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"frames.{name} is {getattr(self, name)}; it must be at least 1")
        if self.min_pixels > self.max_pixels:
            raise ValueError(f"frames.min_pixels ({self.min_pixels}) is greater than max_pixels ({self.max_pixels})")

    @property
    def cell_size(self) -> int:
        """Side of the square of pixels behind one video token."""
        return self.patch_size * self.merge_size

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FrameProcessing:
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"frame processing has no option {unknown}; options: {sorted(known)}")
        return cls(**values)


def output_size(width: int, height: int, cfg: FrameProcessing) -> tuple[int, int]:
    """(width, height) in pixels of the frames the tower sees, after both resizes.

    Raises ValueError for a side below one cell (28 pixels) or an aspect above 200, as Qwen2-VL does.
    """
    return _round_to_cells(*_bound_edges(width, height, cfg), cfg)


def num_frame_pairs(num_frames: int, cfg: FrameProcessing) -> int:
    """Frame pairs of a video: an odd last frame is dropped, a single frame is shown twice."""
    if num_frames < 1:
        raise ValueError(f"num_frames is {num_frames}; at least one frame is needed")
    return max(1, num_frames // cfg.temporal_patch_size)


def num_video_tokens(num_frames: int, width: int, height: int, cfg: FrameProcessing) -> int:
    """Video tokens of `num_frames` frames stored at `width` x `height` pixels."""
    new_width, new_height = output_size(width, height, cfg)
    return num_frame_pairs(num_frames, cfg) * (new_width // cfg.cell_size) * (new_height // cfg.cell_size)


def decode_jpegs(frames: Sequence[bytes]) -> np.ndarray:
    """JPEG files of one size -> uint8[N, H, W, 3], RGB. ValueError names the frame that fails."""
    import simplejpeg

    if not frames:
        raise ValueError("no frames to decode")
    decoded: np.ndarray | None = None
    for index, data in enumerate(frames):
        try:
            image = simplejpeg.decode_jpeg(data, colorspace="RGB")
        except ValueError as error:
            raise ValueError(f"frame {index} is not a readable JPEG: {error}") from error
        if decoded is None:
            decoded = np.empty((len(frames), *image.shape), np.uint8)
        if image.shape != decoded.shape[1:]:
            raise ValueError(f"frame {index} is {image.shape[:2]} pixels, the first is {decoded.shape[1:3]}")
        decoded[index] = image
    assert decoded is not None
    return decoded


def patchify(frames_NHWC: np.ndarray, cfg: FrameProcessing) -> tuple[np.ndarray, tuple[int, int, int]]:
    """uint8[N, H, W, 3] -> (float32[P, C] patches, grid (t, h, w) in frame pairs and patches)."""
    if frames_NHWC.dtype != np.uint8 or frames_NHWC.ndim != 4 or frames_NHWC.shape[3] != 3:
        raise ValueError(f"frames must be uint8 of shape (N, H, W, 3); got {frames_NHWC.dtype} {frames_NHWC.shape}")
    num_frames, height, width = frames_NHWC.shape[:3]
    bounded = _bound_edges(width, height, cfg)
    final = _round_to_cells(*bounded, cfg)
    pairs, step = num_frame_pairs(num_frames, cfg), cfg.temporal_patch_size
    kept = frames_NHWC[: pairs * step] if num_frames >= step else np.repeat(frames_NHWC, step, axis=0)[:step]
    frames = _resize(_resize(kept, bounded), final)
    patch, merge = cfg.patch_size, cfg.merge_size
    grid = (pairs, final[1] // patch, final[0] // patch)
    cells = frames.reshape(pairs, step, grid[1] // merge, merge, patch, grid[2] // merge, merge, patch, 3)
    rows = np.ascontiguousarray(cells.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7)).reshape(math.prod(grid), 3, -1)
    patches = np.multiply(rows, (1.0 / (255.0 * _STD))[:, None], dtype=np.float32)
    patches -= (_MEAN / _STD)[:, None]
    return patches.reshape(len(rows), -1), grid


def _bound_edges(width: int, height: int, cfg: FrameProcessing) -> tuple[int, int]:
    long_side, short_side = max(width, height), min(width, height)
    if cfg.longest_edge is not None and long_side > cfg.longest_edge:
        shrunk = int(cfg.longest_edge / (long_side / short_side))
        width, height = (cfg.longest_edge, shrunk) if width >= height else (shrunk, cfg.longest_edge)
    floor = cfg.shortest_edge or 0
    return max(width, floor), max(height, floor)


def _round_to_cells(width: int, height: int, cfg: FrameProcessing) -> tuple[int, int]:
    cell = cfg.cell_size
    if min(width, height) < cell:
        raise ValueError(
            f"a frame of {width}x{height} pixels has a side below {cell}, one video token's; raise frames.shortest_edge"
        )
    if max(width, height) / min(width, height) > _MAX_ASPECT:
        raise ValueError(f"a frame of {width}x{height} pixels has an aspect ratio above {_MAX_ASPECT}")
    new_width, new_height = round(width / cell) * cell, round(height / cell) * cell
    if new_width * new_height > cfg.max_pixels:
        scale = math.sqrt(width * height / cfg.max_pixels)
        new_width, new_height = (max(cell, math.floor(side / scale / cell) * cell) for side in (width, height))
    elif new_width * new_height < cfg.min_pixels:
        scale = math.sqrt(cfg.min_pixels / (width * height))
        new_width, new_height = (math.ceil(side * scale / cell) * cell for side in (width, height))
    return new_width, new_height


def _resize(frames_NHWC: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if (frames_NHWC.shape[2], frames_NHWC.shape[1]) == size:
        return frames_NHWC
    from PIL import Image

    bicubic = Image.Resampling.BICUBIC
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, bicubic)) for frame in frames_NHWC])
