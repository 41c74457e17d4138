"""Padded rows in, padded logits out: the interface of tools that know no packed batches.

Rows may be padded on either side. Their real tokens are packed, the packed model runs, and the logits are put back;
what stands at padding is zero. Media are handed out to rows in order.

Shapes: B rows, T padded length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vamba.data.batch import Batch, EncodedSample, Grid, collate
from vamba.data.text import IGNORE_LABEL, EncodedText

if TYPE_CHECKING:
    from vamba.model.vamba import VambaForConditionalGeneration

_Media = tuple[Tensor | None, Tensor | None]
"""(patches (P, C), grids (items, 3)) of one kind of media, both None when there are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddedOutput:
    logits_BTV: Tensor
    """float32 or wider; zero at padding."""
    loss: Tensor | None
    """Mean cross-entropy over labelled tokens; None without labels."""


def forward_padded(
    model: VambaForConditionalGeneration,
    input_ids_BT: Tensor,
    attention_mask_BT: Tensor | None,
    *,
    images: _Media,
    videos: _Media,
    media_per_row: Sequence[tuple[int, int]] | None,
    labels_BT: Tensor | None,
) -> PaddedOutput:
    """Run padded rows.

    `media_per_row` says how many images and videos each row has; by default a single row has all, and several rows have
    one item each. A row's images come before its videos in its stream. ValueError when the numbers don't fit.
    """
    mask = torch.ones_like(input_ids_BT) if attention_mask_BT is None else attention_mask_BT
    if mask.shape != input_ids_BT.shape:
        raise ValueError(f"attention_mask has shape {list(mask.shape)}; it must be {list(input_ids_BT.shape)}")
    real = mask.bool()
    batch = _pack(input_ids_BT, real, labels_BT, images, videos, media_per_row).to(model.device)
    packed_TV = model(batch)
    logits = packed_TV.new_zeros(*input_ids_BT.shape, packed_TV.shape[-1])
    logits[real] = packed_TV
    if labels_BT is None:
        return PaddedOutput(logits_BTV=logits, loss=None)
    scored = packed_TV.index_select(0, batch.loss_positions_N)
    return PaddedOutput(logits_BTV=logits, loss=F.cross_entropy(scored, batch.loss_targets_N))


def _pack(
    input_ids_BT: Tensor,
    real_BT: Tensor,
    labels_BT: Tensor | None,
    images: _Media,
    videos: _Media,
    media_per_row: Sequence[tuple[int, int]] | None,
) -> Batch:
    rows = len(input_ids_BT)
    image_items, video_items = _items(images), _items(videos)
    counts = _counts(rows, len(image_items), len(video_items), media_per_row)
    samples = []
    for row in range(rows):
        chosen = real_BT[row].cpu()
        ids = input_ids_BT[row].cpu()[chosen].numpy()
        labels = np.full_like(ids, IGNORE_LABEL) if labels_BT is None else labels_BT[row].cpu()[chosen].numpy()
        num_images, num_videos = counts[row]
        media = [image_items.pop(0) for _ in range(num_images)] + [video_items.pop(0) for _ in range(num_videos)]
        samples.append(
            EncodedSample(
                id=str(row),
                patches=np.concatenate([patches for patches, _ in media]) if media else None,
                grid_thws=tuple(grid for _, grid in media),
                texts=(EncodedText(input_ids=ids, labels=labels),),
            )
        )
    return collate(samples)


def _items(media: _Media) -> list[tuple[np.ndarray, Grid]]:
    patches, grids = media
    if patches is None or grids is None:
        return []
    shapes = [(int(t), int(h), int(w)) for t, h, w in grids.tolist()]
    sizes = [t * h * w for t, h, w in shapes]
    if sum(sizes) != len(patches):
        raise ValueError(f"{len(patches)} patches were given, but the grids {shapes} need {sum(sizes)}")
    parts = patches.detach().cpu().to(torch.promote_types(patches.dtype, torch.float32)).split(sizes)
    return [(part.numpy(), shape) for part, shape in zip(parts, shapes, strict=True)]


def _counts(rows: int, images: int, videos: int, given: Sequence[tuple[int, int]] | None) -> list[tuple[int, int]]:
    if given is not None:
        totals = tuple(sum(kind) for kind in zip(*given, strict=True)) if given else (0, 0)
        if len(given) != rows or totals != (images, videos):
            raise ValueError(
                f"media_per_row {list(given)} must have {rows} rows and add up to {images} images and {videos} videos"
            )
        return list(given)
    if rows == 1:
        return [(images, videos)]
    if (images, videos) in ((0, 0), (rows, 0), (0, rows)):
        return [(int(images > 0), int(videos > 0))] * rows
    raise ValueError(f"{rows} rows, {images} images, {videos} videos: say which row has which with media_per_row")
