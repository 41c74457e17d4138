"""Padded or packed rows in, a packed batch out: how other tools' tensors become what the model reads.

A row is one sample, padded on either side, or several samples one after the other, told apart by position ids that
restart at 0. Real tokens are packed, the packed model runs, and `spread` puts its answers back in their places.

Shapes: B rows, T padded length, P patches, C values per patch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vamba.data.batch import Batch, EncodedSample, Grid, collate
from vamba.data.text import IGNORE_LABEL, EncodedText, TeacherLogits

Media = tuple[Tensor | None, Tensor | None]
"""(patches (P, C), grids (items, 3)) of one kind of media, both None when there are none."""
TeacherCache = Mapping[str, Tensor]
"""A sample's cached teacher, in the release's keys: `top_k_values` and `top_k_indices`, (labelled tokens, k) each."""


def pack_rows(
    input_ids_BT: Tensor,
    real_BT: Tensor,
    *,
    position_ids_BT: Tensor | None,
    labels_BT: Tensor | None,
    images: Media,
    videos: Media,
    media_per_sample: Sequence[tuple[int, int]] | None,
    teachers: Sequence[TeacherCache | None] | None,
    merge_size: int,
) -> Batch:
    """The packed batch of all samples in the rows, row by row.

    `media_per_sample` says how many images and videos each sample has; by default a single sample has all, and several
    samples have one item each. Media are handed out in order, a sample's images before its videos. Raises ValueError when
    the numbers don't fit, or position ids do more than count and restart.
    """  # noqa: E501
    texts = _texts(input_ids_BT, real_BT, position_ids_BT, labels_BT, teachers)
    samples, patches = [], []
    media_of_samples = deal_media(len(texts), images, videos, media_per_sample)
    for number, (text, media) in enumerate(zip(texts, media_of_samples, strict=True)):
        patches += [rows for rows, _ in media]
        # The layout needs the number of patches, not their values: those stay on the device they came on.
        num_patches = sum(len(rows) for rows, _ in media)
        samples.append(
            EncodedSample(
                id=str(number),
                patches=np.empty((num_patches, 0), np.float32) if media else None,
                grid_thws=tuple(grid for _, grid in media),
                texts=(text,),
            )
        )
    batch = collate(samples, merge_size=merge_size)
    return replace(batch, patches_PC=torch.cat(patches) if patches else None)


def deal_media(
    samples: int, images: Media, videos: Media, media_per_sample: Sequence[tuple[int, int]] | None
) -> list[list[tuple[Tensor, Grid]]]:
    """(patches, grid) of each sample's items; see `pack_rows` for who gets what."""
    dtypes = sorted({str(patches.dtype) for patches, _ in (images, videos) if patches is not None})
    if len(dtypes) > 1:
        raise ValueError(f"images and videos of one call have patches of {' and '.join(dtypes)}; give all the same way")
    grids = [_grids(kind) for kind in (images, videos)]
    counts = _counts(samples, len(grids[0]), len(grids[1]), media_per_sample)
    items = [iter(_items(kind, shapes)) for kind, shapes in zip((images, videos), grids, strict=True)]
    return [
        [next(queue) for queue, count in zip(items, wanted, strict=True) for _ in range(count)] for wanted in counts
    ]


def spread(packed_TX: Tensor, real_BT: Tensor) -> Tensor:
    """Values of packed tokens back in their rows, (B, T, X); zero at padding."""
    rows = packed_TX.new_zeros(*real_BT.shape, packed_TX.shape[-1])
    return rows.masked_scatter(real_BT[..., None].to(rows.device), packed_TX)


def _texts(
    input_ids_BT: Tensor,
    real_BT: Tensor,
    position_ids_BT: Tensor | None,
    labels_BT: Tensor | None,
    teachers: Sequence[TeacherCache | None] | None,
) -> list[EncodedText]:
    pieces = []
    for row in range(len(input_ids_BT)):
        chosen = real_BT[row].cpu().numpy()
        ids = input_ids_BT[row].cpu().numpy()[chosen]
        labels = np.full_like(ids, IGNORE_LABEL) if labels_BT is None else labels_BT[row].cpu().numpy()[chosen]
        positions = None if position_ids_BT is None else position_ids_BT[row].cpu().numpy()[chosen]
        pieces += [(ids[part], labels[part]) for part in _samples_of_row(len(ids), positions, row)]
    if teachers is None:
        teachers = [None] * len(pieces)
    if len(teachers) != len(pieces):
        raise ValueError(f"{len(teachers)} cached teachers were given for {len(pieces)} samples")
    return [
        EncodedText(input_ids=ids, labels=labels, teacher=_teacher(cache))
        for (ids, labels), cache in zip(pieces, teachers, strict=True)
    ]


def _samples_of_row(length: int, positions: np.ndarray | None, row: int) -> list[slice]:
    if positions is None:
        return [slice(0, length)]
    starts = np.flatnonzero(positions == 0)
    ends = [*starts[1:], length]
    sizes = ends - starts if len(starts) else np.zeros(0, int)
    counted = np.arange(length) - np.repeat(starts, sizes) if sizes.sum() == length else np.full(length, -1)
    if not np.array_equal(positions, counted):
        raise ValueError(
            f"position_ids of row {row} must count 0, 1, 2, … and restart at 0 where a new sample begins (the video "
            f"takes no text positions); they are {positions[:12].tolist()}…"
        )
    return [slice(int(start), int(end)) for start, end in zip(starts, ends, strict=True)]


def _teacher(cache: TeacherCache | None) -> TeacherLogits | None:
    if cache is None:
        return None
    token_ids, logits = (cache[key].detach().cpu() for key in ("top_k_indices", "top_k_values"))
    wide = torch.promote_types(logits.dtype, torch.float32)
    return TeacherLogits(token_ids=token_ids.long().numpy(), logits=logits.to(wide).numpy())


def _grids(media: Media) -> list[Grid]:
    patches, grids = media
    if (patches is None) != (grids is None):
        raise ValueError("patches and their grids (pixel_values*, *_grid_thw) must be given together")
    return [] if grids is None else [(int(t), int(h), int(w)) for t, h, w in grids.tolist()]


def _items(media: Media, grids: Sequence[Grid]) -> list[tuple[Tensor, Grid]]:
    patches, _ = media
    if patches is None:
        return []
    sizes = [math.prod(grid) for grid in grids]
    if sum(sizes) != len(patches):
        raise ValueError(f"{len(patches)} patches were given, but the grids {list(grids)} need {sum(sizes)}")
    return list(zip(patches.split(sizes), grids, strict=True))


def _counts(samples: int, images: int, videos: int, given: Any) -> list[tuple[int, int]]:
    if given is not None:
        counts = [(int(i), int(v)) for i, v in given]
        totals = (sum(i for i, _ in counts), sum(v for _, v in counts))
        if len(counts) != samples or totals != (images, videos):
            raise ValueError(
                f"media_per_sample {counts} must have {samples} entries and add up to {images} images and "
                f"{videos} videos"
            )
        return counts
    if samples == 1:
        return [(images, videos)]
    if (images, videos) in ((0, 0), (samples, 0), (0, samples)):
        return [(int(images > 0), int(videos > 0))] * samples
    raise ValueError(
        f"{samples} samples, {images} images, {videos} videos: say which sample has which with media_per_sample"
    )
