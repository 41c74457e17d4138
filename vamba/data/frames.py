"""Frames in, pixel patches out: JPEG bytes -> uint8 frames -> resized -> laid out as rows of the vision tower.

    decode_jpegs, stack_frames ──> uint8[N, H, W, 3] ──frames_to_patches──> uint8[P, C]

Pixels stay uint8 until the tower normalises them on its own device (`vamba.data.normalise`), so that a cache, a batch
and a copy hold a quarter of what float32 would take. Arrays and tensors take one path; a tensor stays on its device.

Two resizes follow each other, both bicubic: `shortest_edge`/`longest_edge` bound the sides, then the area is rounded to
whole merge cells of 28 x 28 pixels between `min_pixels` and `max_pixels` (Qwen2-VL's rule). A patch row is
(channel, 2 frames, 14, 14) flattened; rows are ordered (frame pair, cell row, cell column, 2, 2), so that four
consecutive rows make one video token.

Sizes and counts are pure arithmetic, so that a plan can be made from stored widths and heights alone.
Shapes: N frames, H height, W width (pixels), P patches, C = 3 * 2 * 14 * 14 values per patch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from vamba.data.resize import Pixels

Empty = Callable[[tuple[int, ...], Any], np.ndarray]
"""(shape, dtype) -> an array of any content, as `np.empty`."""

_MAX_ASPECT = 200
_PAIRS_AT_ONCE = 8  # 11 MB of frames of 640x360


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
    return round_to_cells(*bound_edges(width, height, cfg), cfg)


def num_frame_pairs(num_frames: int, cfg: FrameProcessing) -> int:
    """Frame pairs of a video: an odd last frame is dropped, a single frame is shown twice."""
    if num_frames < 1:
        raise ValueError(f"num_frames is {num_frames}; at least one frame is needed")
    return max(1, num_frames // cfg.temporal_patch_size)


def num_video_tokens(num_frames: int, width: int, height: int, cfg: FrameProcessing) -> int:
    """Video tokens of `num_frames` frames stored at `width` x `height` pixels."""
    new_width, new_height = output_size(width, height, cfg)
    return num_frame_pairs(num_frames, cfg) * (new_width // cfg.cell_size) * (new_height // cfg.cell_size)


def frame_grid(num_frames: int, width: int, height: int, cfg: FrameProcessing) -> tuple[int, int, int]:
    """(t, h, w) in frame pairs and patches of `num_frames` frames stored at `width` x `height` pixels."""
    new_width, new_height = output_size(width, height, cfg)
    return num_frame_pairs(num_frames, cfg), new_height // cfg.patch_size, new_width // cfg.patch_size


def recorded_tokens(num_frames: int, width: int, height: int) -> int:
    """`num_tokens` of a manifest: of all stored frames at the published model's resolution, 0 if it can't take them."""
    try:
        return num_video_tokens(num_frames, width, height, FrameProcessing())
    except ValueError:
        return 0


def decode_jpegs(frames: Sequence[bytes], empty: Empty = np.empty) -> np.ndarray:
    """JPEG files of one size -> uint8[N, H, W, 3], RGB, in memory from `empty`. ValueError names what fails."""
    import simplejpeg

    stacked: np.ndarray | None = None
    for index, data in enumerate(frames):
        try:
            height, width, _, _ = simplejpeg.decode_jpeg_header(data)
            if stacked is None:
                stacked = empty((len(frames), height, width, 3), np.uint8)
            if (height, width) == stacked.shape[1:3]:
                # In place: memory for a picture by itself costs a fifth of the time that decoding takes.
                simplejpeg.decode_jpeg(data, colorspace="RGB", buffer=stacked[index])
        except ValueError as error:
            raise ValueError(f"frame {index} is not a readable JPEG: {error}") from error
        _check_size(index, (height, width), stacked)
    return _whole(stacked)


def stack_frames(images: Sequence[np.ndarray]) -> np.ndarray:
    """RGB pictures uint8[H, W, 3] of one size -> uint8[N, H, W, 3]. ValueError names the frame that does not fit."""
    return _stacked(images, len(images))


def frames_to_patches(frames_NHWC: Pixels, cfg: FrameProcessing) -> tuple[Pixels, tuple[int, int, int]]:
    """uint8[N, H, W, 3] -> (uint8[P, C] patches, grid (t, h, w) in frame pairs and patches), on the same device."""
    _check_frames(frames_NHWC)
    num_frames = int(frames_NHWC.shape[0])
    pairs, step = num_frame_pairs(num_frames, cfg), cfg.temporal_patch_size
    shown_NHWC = frames_NHWC[: pairs * step] if num_frames >= step else frames_NHWC[[0] * step]
    resized_NHWC = resize_frames(shown_NHWC, cfg)
    patch, merge = cfg.patch_size, cfg.merge_size
    grid = (pairs, int(resized_NHWC.shape[1]) // patch, int(resized_NHWC.shape[2]) // patch)
    cells = resized_NHWC.reshape(pairs, step, grid[1] // merge, merge, patch, grid[2] // merge, merge, patch, 3)
    order = (0, 2, 5, 3, 6, 8, 1, 4, 7)
    ordered = cells.transpose(order) if isinstance(cells, np.ndarray) else cells.permute(order)
    return ordered.reshape(math.prod(grid), 3 * step * patch * patch), grid


def resize_frames(frames_NHWC: Pixels, cfg: FrameProcessing) -> Pixels:
    """uint8[N, H, W, 3] after both resizes, on the same device. Resized again without edges, it stays as it is."""
    from vamba.data.resize import resize

    height, width = (int(n) for n in frames_NHWC.shape[1:3])
    bounded = bound_edges(width, height, cfg)
    return resize(resize(frames_NHWC, bounded), round_to_cells(*bounded, cfg))


def fill_patches(patches_PC: Pixels, frames_NHWC: Pixels, cfg: FrameProcessing) -> None:
    """`frames_to_patches` into uint8[P, C] that is there, frames moved to its device: a few at a time, so that little
    memory is needed beside it."""
    pair = cfg.temporal_patch_size
    num_frames = num_frame_pairs(len(frames_NHWC), cfg) * pair
    filled = 0
    for begin in range(0, num_frames, _PAIRS_AT_ONCE * pair):
        part_NHWC = frames_NHWC[begin : min(begin + _PAIRS_AT_ONCE * pair, num_frames)]
        if not isinstance(part_NHWC, np.ndarray):
            part_NHWC = part_NHWC.to(patches_PC.device, non_blocking=True)
        part_PC, _ = frames_to_patches(part_NHWC, cfg)
        patches_PC[filled : filled + len(part_PC)] = part_PC
        filled += len(part_PC)


def patchify(frames_NHWC: Pixels, cfg: FrameProcessing) -> tuple[Pixels, tuple[int, int, int]]:
    """`frames_to_patches`, normalised: (float32[P, C], grid), as transformers' processors hand them to a model."""
    import torch

    from vamba.data.normalise import normalise_patches

    patches, grid = frames_to_patches(frames_NHWC, cfg)
    if isinstance(patches, np.ndarray):
        return normalise_patches(torch.from_numpy(patches)).numpy(), grid
    return normalise_patches(patches), grid


def bound_edges(width: int, height: int, cfg: FrameProcessing) -> tuple[int, int]:
    """(width, height) after the first resize, by `longest_edge` and `shortest_edge`."""
    long_side, short_side = max(width, height), min(width, height)
    if cfg.longest_edge is not None and long_side > cfg.longest_edge:
        shrunk = int(cfg.longest_edge / (long_side / short_side))
        width, height = (cfg.longest_edge, shrunk) if width >= height else (shrunk, cfg.longest_edge)
    floor = cfg.shortest_edge or 0
    return max(width, floor), max(height, floor)


def round_to_cells(width: int, height: int, cfg: FrameProcessing) -> tuple[int, int]:
    """(width, height) after the second resize, in whole cells; ValueError for what Qwen2-VL does not take."""
    cell = cfg.cell_size
    if min(width, height) < cell:
        raise ValueError(
            f"a frame of {width}x{height} pixels has a side below {cell}, one video token's; raise frames.shortest_edge"
        )
    if max(width, height) / min(width, height) > _MAX_ASPECT:
        raise ValueError(
            f"a frame of {width}x{height} pixels has an aspect ratio above {_MAX_ASPECT}, the most the model takes; "
            "crop it, or raise frames.shortest_edge"
        )
    new_width, new_height = round(width / cell) * cell, round(height / cell) * cell
    if new_width * new_height > cfg.max_pixels:
        scale = math.sqrt(width * height / cfg.max_pixels)
        new_width, new_height = (max(cell, math.floor(side / scale / cell) * cell) for side in (width, height))
    elif new_width * new_height < cfg.min_pixels:
        scale = math.sqrt(cfg.min_pixels / (width * height))
        new_width, new_height = (math.ceil(side * scale / cell) * cell for side in (width, height))
    return new_width, new_height


def _stacked(images: Iterable[np.ndarray], num_frames: int) -> np.ndarray:
    stacked: np.ndarray | None = None
    for index, image in enumerate(images):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(
                f"frame {index} is {image.dtype} {image.shape}; a frame is RGB, uint8 of shape (height, width, 3): "
                "convert grayscale or transparent pictures first"
            )
        if stacked is None:
            stacked = np.empty((num_frames, *image.shape), np.uint8)
        _check_size(index, image.shape[:2], stacked)
        stacked[index] = image
    return _whole(stacked)


def _check_size(index: int, size: tuple[int, ...], stacked: np.ndarray) -> None:
    first = stacked.shape[1:3]
    if size != first:
        raise ValueError(
            f"frame {index} is {size[1]}x{size[0]} pixels, the first is {first[1]}x{first[0]}; the frames of a video "
            "have one size"
        )


def _whole(stacked: np.ndarray | None) -> np.ndarray:
    if stacked is None:
        raise ValueError("there are no frames; a video has at least one")
    return stacked


def _check_frames(frames_NHWC: np.ndarray | Tensor) -> None:
    dtype, shape = str(frames_NHWC.dtype).removeprefix("torch."), tuple(frames_NHWC.shape)
    if dtype == "uint8" and len(shape) == 4 and shape[3] == 3:
        return
    remedy = ""
    if shape[3:] in ((1,), (2,), (4,)):
        remedy = "; convert grayscale or transparent pictures to RGB first"
    elif len(shape) == 3:
        remedy = "; a single picture is frames[None]"
    raise ValueError(f"frames must be RGB, uint8 of shape (frames, height, width, 3); got {dtype} {shape}{remedy}")
