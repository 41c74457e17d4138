"""Frames and text of any length, made where they are needed: never more than a few frame pairs of pixels at once.

Shapes: N frames, H height, W width (pixels), P patches, C values per patch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.hour_presets import PROCESSING, Preset
from vamba.data.batch import Batch, EncodedSample, Grid, collate, video_layout
from vamba.data.frames import frame_grid, frames_to_patches
from vamba.data.text import IGNORE_LABEL, EncodedText
from vamba.ops.attention.layout import cross_layout


class SeededFrames:
    """Frames [N, H, W, 3] that look like a tensor to who cuts pieces of whole pairs: noise, of a seed per pair."""

    def __init__(self, num_frames: int, height: int, width: int, device: torch.device) -> None:
        self.shape = (num_frames, height, width, 3)
        self._generator = torch.Generator(device)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: slice) -> Tensor:
        """uint8 on the device, the same however the frames are cut."""
        start, stop, step = part.indices(len(self))
        assert step == 1 and start % 2 == stop % 2 == 0, part
        made_NHWC = torch.empty((stop - start, *self.shape[1:]), dtype=torch.uint8, device=self._generator.device)
        for pair_2HWC, first in zip(made_NHWC.split(2), range(start, stop, 2), strict=True):
            self._generator.manual_seed(first)
            pair_2HWC.random_(0, 256, generator=self._generator)
        return made_NHWC


def grid_of(preset: Preset, num_frames: int) -> Grid:
    """The grid of a video of the preset's size."""
    return frame_grid(num_frames, preset.width, preset.height, PROCESSING)


def pieces(preset: Preset, num_frames: int, device: torch.device) -> Iterator[tuple[Tensor, Grid]]:
    """(uint8[P, C], grid) of one video, about a chunk at a time, as a decoder would hand it over."""
    frames = SeededFrames(num_frames, preset.height, preset.width, device)
    at_once = 2 * max(1, preset.chunk_tokens // preset.tokens_per_pair)
    for start in range(0, num_frames, at_once):
        yield frames_to_patches(frames[start : min(start + at_once, num_frames)], PROCESSING)


def text_batch(preset: Preset, num_tokens: int, num_labelled: int) -> Batch:
    """One conversation of random tokens, the last of which are scored."""
    ids = np.random.default_rng(0).integers(0, min(preset.exact_vocab, preset.model.vocab_size), num_tokens)
    labels = np.full(num_tokens, IGNORE_LABEL)
    labels[num_tokens - num_labelled :] = ids[num_tokens - num_labelled :]
    sample = EncodedSample(id="0", patches=None, grid_thws=(), texts=(EncodedText(input_ids=ids, labels=labels),))
    return collate([sample])


def video_batch(preset: Preset, num_frames: int, device: torch.device) -> Batch:
    """A conversation about a video, on the host but for its frames."""
    text = text_batch(preset, preset.text_tokens, preset.loss_tokens)
    grid, num_tokens = grid_of(preset, num_frames), preset.tokens(num_frames)
    return replace(
        text,
        video=video_layout([[grid]]),
        cross=cross_layout([text.num_text_tokens], [num_tokens]),
        num_video_tokens=num_tokens,
        frames_NHWC=(SeededFrames(num_frames, preset.height, preset.width, device),),  # type: ignore[arg-type]
        processing=PROCESSING,
    )
