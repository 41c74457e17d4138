"""The pixels of a batch, a few frame pairs at a time: a long video's stay where the reader left them.

    Batch (patches, or frames as they were stored) ── patches(Frames) ──> uint8 or float rows on the device of the model

Shapes: P patches, C values per patch.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from vamba.data.batch import Batch
from vamba.data.frames import fill_patches
from vamba.streaming.chunks import Frames


def without_pixels(batch: Batch) -> Batch:
    """The rest of a batch, which is small."""
    return replace(batch, patches_PC=None, frames_NHWC=(), processing=None)


class Pixels:
    """Patches of any frame pairs of a batch with a video."""

    def __init__(self, batch: Batch, device: torch.device) -> None:
        assert batch.video is not None and (batch.patches_PC is not None or batch.processing is not None)
        self._batch, self._device = batch, device
        self.grids = batch.video.grid_thws

    def patches(self, frames: Frames) -> Tensor:
        """[P, C] of the given pairs, on the model's device."""
        batch = self._batch
        if batch.processing is None:
            assert batch.patches_PC is not None
            return batch.patches_PC[frames.rows[0] : frames.rows[1]].to(self._device, non_blocking=True)
        step = batch.processing.temporal_patch_size
        sizes = [math.prod(grid) for grid in frames.grids]
        num_values = 3 * step * batch.processing.patch_size**2
        patches_PC = torch.empty((sum(sizes), num_values), dtype=torch.uint8, device=self._device)
        parts = zip(patches_PC.split(sizes), frames.grids, frames.items, frames.pairs_before, strict=True)
        for part_PC, (pairs, _, _), item, before in parts:
            shown_NHWC = batch.frames_NHWC[item][before * step : (before + pairs) * step]
            fill_patches(part_PC, shown_NHWC, batch.processing)
        return patches_PC
