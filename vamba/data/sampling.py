"""Which frames of a video stand for it: pure functions from presentation times, or a frame count, to frame indices.

Ingest selects by time (`fps`), by count (`uniform`, `middle`), by a budget of patches (`auto`) or what decodes cheaply
(`keyframes`). The rule at time t is the frame on screen: the last one presented at or before t, counted from the first
frame's presentation. All arithmetic on time is rational, so that a frame is never missed by a rounding error.
Evaluation selects by index, with the formulas of the Vamba scripts (`middle`, `uniform`, centred fps, `auto`), which
the golden tables pin down. Indices refer to frames in presentation order.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

import numpy as np

Policy = Literal["fps", "fps_centered", "uniform", "middle", "auto", "keyframes"]

MAX_FPS = 1000.0

# The fields that only some policies read, with their defaults. One that is set for a policy that ignores it is refused.
_READERS: dict[str, tuple[tuple[Policy, ...], object]] = {
    "fps": (("fps", "fps_centered"), 1.0),
    "num_frames": (("uniform", "middle"), None),
    "max_patches": (("auto",), 120_000),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameSampling:
    """How frames are chosen.

    Raises:
        ValueError: a field is outside its range, missing for a policy that needs it, or set for one that ignores it.
    """

    # fps: t = k/fps; fps_centered: t = (k + 1/2)/fps; uniform, middle: num_frames spread evenly;
    # auto: as many as max_patches holds, spread as by middle; keyframes: all of them
    policy: Policy = "fps"
    fps: float = 1.0  # frames per second of media, for the two fps policies; taken as the decimal number written
    num_frames: int | None = None  # frames per video, for uniform and middle
    max_frames: int | None = None  # upper limit per video; more are thinned evenly
    max_patches: int = 120_000  # patches per video before merging, at two frames each, for auto; see `auto_num_frames`

    def __post_init__(self) -> None:
        if self.policy not in get_args(Policy):
            raise ValueError(f"sampling.policy is {self.policy!r}; it must be one of {', '.join(get_args(Policy))}")
        if not 0 < self.fps <= MAX_FPS:
            raise ValueError(f"sampling.fps is {self.fps}; it must be above 0 and at most {MAX_FPS:g} frames/s")
        for name, value in (("num_frames", self.num_frames), ("max_frames", self.max_frames)):
            if value is not None and value < 1:
                raise ValueError(f"sampling.{name} is {value}; it must be at least 1, or null")
        if self.max_patches < 1:
            raise ValueError(f"sampling.max_patches is {self.max_patches}; it must be at least 1")
        if self.policy in ("uniform", "middle") and self.num_frames is None:
            raise ValueError(f"sampling.policy {self.policy!r} needs sampling.num_frames; set it")
        for name, (policies, default) in _READERS.items():
            if self.policy not in policies and getattr(self, name) != default:
                raise ValueError(
                    f"sampling.{name} is {getattr(self, name)}, but sampling.policy {self.policy!r} does not read it; "
                    f"leave it out, or choose the policy {' or '.join(policies)}"
                )


def select_frames(
    sampling: FrameSampling,
    pts: Sequence[int],
    end_pts: int,
    time_base: Fraction,
    *,
    is_key: Sequence[bool] | None = None,
    stored_size: tuple[int, int] | None = None,
) -> list[int]:
    """Indices of the frames to store, strictly increasing, at least one.

    Args:
        sampling: the policy.
        pts: presentation times of all frames, in units of `time_base`, strictly increasing, not empty.
        end_pts: when the last frame leaves the screen.
        time_base: seconds per unit.
        is_key: whether each frame is a keyframe; for the policy `keyframes`.
        stored_size: width and height of the stored frames, pixels; for the policy `auto`.

    A frame that is on screen at several of the asked times (a slide shown for ten seconds) is stored once. Where no
    frame answers (a video shorter than half a step, or without a keyframe that is shown), the first stands for it.

    Raises:
        ValueError: by `auto`, if a frame of that size makes no patch, or more than the budget.
    """
    if sampling.policy in ("fps", "fps_centered"):
        indices = _on_grid(pts, end_pts, time_base, sampling.fps, centered=sampling.policy == "fps_centered")
    elif sampling.policy == "keyframes":
        assert is_key is not None and len(is_key) == len(pts)
        indices = [index for index, key in enumerate(is_key) if key] or [0]
    elif sampling.policy == "auto":
        assert stored_size is not None
        num_frames = auto_num_frames(sampling.max_patches, height=stored_size[1], width=stored_size[0])
        indices = middle_indices(min(num_frames, len(pts)), len(pts))
    else:
        assert sampling.num_frames is not None
        choose = uniform_indices if sampling.policy == "uniform" else middle_indices
        indices = choose(sampling.num_frames, len(pts))
    unique = list(dict.fromkeys(indices))
    if sampling.max_frames is not None and len(unique) > sampling.max_frames:
        unique = [unique[i * len(unique) // sampling.max_frames] for i in range(sampling.max_frames)]
    return unique


def _on_grid(pts: Sequence[int], end_pts: int, time_base: Fraction, fps: float, *, centered: bool) -> list[int]:
    half_step = 1 / (2 * Fraction(str(fps)) * time_base)  # half the time between two targets, in pts units
    duration = end_pts - pts[0]
    first = 1 if centered else 0
    num_targets = max(0, math.ceil((duration / half_step - first) / 2))
    if num_targets == 0:
        return [0]  # shorter than half a step: its first frame stands for it
    indices = []
    position = k = 0
    while k < num_targets:
        target = pts[0] + math.floor((2 * k + first) * half_step)
        position = bisect.bisect_right(pts, target, lo=position) - 1
        indices.append(position)
        if position + 1 == len(pts):
            break
        # On to the first target that the next frame answers: a frame may stay for days, by a damaged timestamp.
        k = max(k + 1, math.ceil(((pts[position + 1] - pts[0]) / half_step - first) / 2))
    return indices


def uniform_indices(num_frames: int, num_source_frames: int) -> list[int]:
    """Middles of equal parts, as the Vamba evaluation scripts compute them; all frames where fewer exist."""
    if num_frames >= num_source_frames:
        return list(range(num_source_frames))
    edges = np.linspace(0, num_source_frames, num_frames + 1, dtype=int)
    return [int(index) for index in (edges[:-1] + edges[1:]) // 2]


def middle_indices(num_frames: int, num_source_frames: int) -> list[int]:
    """Middles of equal parts, as the Vamba training data computes them; the last frame repeats where fewer exist."""
    edges = np.linspace(0, num_source_frames, min(num_frames, num_source_frames) + 1).astype(int)
    indices = [int(index) for index in (edges[:-1] + edges[1:] - 1) // 2]
    return indices + [num_source_frames - 1] * (num_frames - len(indices))


def fps_centered_indices(
    rate: float, num_source_frames: int, source_fps: float, max_frames: int | None = None
) -> list[int]:
    """Indices nearest to the centres (k + 1/2)/rate seconds, as the Vamba training data computes them.

    `max_frames` keeps the first ones. Empty where the video is shorter than the first centre.
    """
    centres = np.arange(0.5 / rate, num_source_frames / source_fps, 1 / rate)
    indices = [int(index) for index in np.around(centres * source_fps) if index < num_source_frames]
    return indices if max_frames is None else indices[:max_frames]


def auto_num_frames(max_img_seq_len: int, height: int, width: int) -> int:
    """Frames of `height` x `width` pixels that a budget of patches holds, as the Vamba training data computes them.

    The sides are those after `shortest_edge` and `longest_edge`; a patch is 14 x 14 pixels of two frames, not merged.
    Raises ValueError when not one frame fits.
    """
    patches_per_frame = (height // 14) * (width // 14) // 2
    if not 0 < patches_per_frame <= max_img_seq_len:
        raise ValueError(
            f"a frame of {width}x{height} pixels makes {patches_per_frame} patches; it must make one at least and "
            f"{max_img_seq_len} at most, the limit of a video: raise the limit, or bound the frames "
            "(frames.longest_edge in training, frames.long_edge in an ingest)"
        )
    return max_img_seq_len // patches_per_frame
