"""Encoded samples in, one packed batch out: everything a forward pass needs, laid out once, on the host.

Samples are concatenated without padding. Three sequences run through the model:
    text    T tokens, in S segments (one conversation each): positions restart and attention stays inside a segment;
    video   M tokens, in one run per sample: convolution and state restart at each sample (`seq_idx_M`), several media
            of a sample follow each other in one run; all its conversations read that run, which is encoded once;
    patches P rows for the vision tower, grouped into frame pairs.

Pixels come as patches, resized on the host, or as the frames that were stored. `Batch.to` makes those the same patches
on the device it moves the batch to, where resizing costs the host nothing.

Shapes: T text tokens, M video tokens, P patches, C values per patch, N labelled tokens, S conversations, I media items.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from vamba.data.frames import FrameProcessing, fill_patches, frame_grid
from vamba.data.text import IGNORE_LABEL, EncodedText
from vamba.ops.attention.layout import CrossLayout, Segments, cross_layout, segments

Grid = tuple[int, int, int]
"""(t, h, w) of one media item: frame pairs, patch rows, patch columns."""

_Layout = TypeVar("_Layout")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedSample:
    """One sample as arrays: its media once, its conversations all."""

    id: str
    patches: np.ndarray | None
    """[P, C] of all media in order, uint8 pixels or normalised floats; None for text alone."""
    grid_thws: tuple[Grid, ...]
    texts: tuple[EncodedText, ...]
    frames: tuple[np.ndarray, ...] = ()
    """uint8[N, H, W, 3] of each of the media, as stored, in place of patches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerLayout:
    """How patch rows form frame pairs. Attention in the tower stays inside one frame pair."""

    positions_P2: Tensor
    """int64[P, 2] row and column of each patch in its frame, in tower order."""
    buckets: tuple[tuple[int, int], ...]
    """(pairs, patches per pair) of each run of equally sized pairs, in tower order."""
    order_P: Tensor | None
    """int64[P] patch rows in tower order; None where that is the given order."""
    restore_M: Tensor | None
    """int64[M] merged tokens back in the given order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoLayout:
    """The packed video sequence."""

    grid_thws: tuple[Grid, ...]
    cu_seqlens: Tensor
    """int32: token offset of each sample that has a video, and the end."""
    seq_idx_M: Tensor
    """int32[M] number of the sample a token belongs to; convolution and state restart at every change."""
    position_ids_3M: Tensor
    """int64[3, M] frame pair, row and column of each token, from 0 in every item."""
    tower: TowerLayout


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherRows:
    """What a teacher thought at labelled positions, for distillation."""

    positions_R: Tensor
    """int64[R] text positions: the labelled ones themselves, not those before them."""
    token_ids_Rk: Tensor
    """int64[R, k] the teacher's k likeliest tokens."""
    logits_Rk: Tensor
    """float[R, k] its logits of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Packed samples. Immutable; `to` gives the same batch on a device."""

    sample_ids: tuple[str, ...]
    input_ids_T: Tensor
    """int64[T]"""
    labels_T: Tensor
    """int64[T], -100 where no loss is taken, not shifted."""
    position_ids_T: Tensor
    """int64[T], from 0 in every conversation."""
    segment_sample_S: Tensor
    """int64[S] index of the sample of each conversation."""
    loss_positions_N: Tensor
    """int64[N] text positions whose logits are scored."""
    loss_targets_N: Tensor
    """int64[N] the token each of them must predict."""
    text: Segments
    """Conversations, for self-attention."""
    cross: CrossLayout | None
    """Which text reads which video; None when no sample has one."""
    video: VideoLayout | None
    teacher: TeacherRows | None
    """Of the conversations that have one; None when none has."""
    patches_PC: Tensor | None
    """[P, C] uint8 pixels, which the tower normalises on its device, or normalised floats."""
    num_samples: int
    num_text_tokens: int
    num_loss_tokens: int
    num_video_tokens: int
    frames_NHWC: tuple[Tensor, ...] = ()
    """uint8[N, H, W, 3] of each of the media, as stored, until `to` has made patches of them."""
    processing: FrameProcessing | None = None
    """How frames become patches; None when there are none."""

    @property
    def text_cu_seqlens(self) -> Tensor:
        """int32[S + 1] token offset of each conversation, and the end."""
        return self.text.cu_seqlens

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """The same batch with every tensor on `device`, and its frames, if it has some, made patches there."""
        if self.processing is None:
            return to_device(self, device, non_blocking=non_blocking)
        rest = replace(self, frames_NHWC=(), processing=None)
        patches_PC = _patches_on(device, self.frames_NHWC, self.processing)
        return replace(to_device(rest, device, non_blocking=non_blocking), patches_PC=patches_PC)

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, for an asynchronous copy."""
        return _map_tensors(self, lambda tensor: tensor.pin_memory())


def to_device(layout: _Layout, device: torch.device | str, *, non_blocking: bool = False) -> _Layout:
    """A batch or one of its layouts with every tensor on `device`."""
    return _map_tensors(layout, lambda tensor: tensor.to(device, non_blocking=non_blocking))


def collate(
    samples: Sequence[EncodedSample], *, merge_size: int = 2, processing: FrameProcessing | None = None
) -> Batch:
    """Pack samples into one batch. `processing` says how frames become patches, where samples come with frames.

    Raises ValueError when grids and patches disagree, a sample has no text, pixels and normalised patches are mixed, or
    frames and patches.
    """
    if not samples:
        raise ValueError("a batch needs at least one sample")
    for sample in samples:
        _check(sample, merge_size, processing)
    _check_patch_types(samples)
    texts = [text for sample in samples for text in sample.texts]
    lengths = [len(text.input_ids) for text in texts]
    ids = np.concatenate([text.input_ids for text in texts])
    labels = np.concatenate([text.labels for text in texts])
    starts = np.cumsum([0, *lengths[:-1]])
    positions = np.arange(len(ids)) - np.repeat(starts, lengths)
    scored = labels != IGNORE_LABEL
    scored[starts] = False
    targets = np.flatnonzero(scored)
    cell = merge_size**2
    video_lengths = [sum(math.prod(grid) for grid in sample.grid_thws) // cell for sample in samples]
    text_lengths = [sum(len(text.input_ids) for text in sample.texts) for sample in samples]
    patches = [sample.patches for sample in samples if sample.patches is not None]
    frames = tuple(torch.from_numpy(media) for sample in samples for media in sample.frames)
    if frames and patches:
        raise ValueError("a batch has frames or patches; encode all samples with the same `reader.resize_on`")
    return Batch(
        sample_ids=tuple(sample.id for sample in samples),
        input_ids_T=torch.from_numpy(ids),
        labels_T=torch.from_numpy(labels),
        position_ids_T=torch.from_numpy(positions),
        segment_sample_S=torch.from_numpy(np.repeat(np.arange(len(samples)), [len(s.texts) for s in samples])),
        loss_positions_N=torch.from_numpy(targets - 1),
        loss_targets_N=torch.from_numpy(labels[targets]),
        text=segments(lengths),
        cross=cross_layout(text_lengths, video_lengths),
        teacher=_teacher_rows(texts, starts),
        video=video_layout([sample.grid_thws for sample in samples if sample.grid_thws], merge_size=merge_size),
        patches_PC=_joined(patches) if patches else None,
        num_samples=len(samples),
        num_text_tokens=len(ids),
        num_loss_tokens=len(targets),
        num_video_tokens=sum(video_lengths),
        frames_NHWC=frames,
        processing=processing if frames else None,
    )


def video_layout(grids_of_samples: Sequence[Sequence[Grid]], *, merge_size: int = 2) -> VideoLayout | None:
    """The layout of the given media items, grouped by sample; None when there are none."""
    grids = [grid for group in grids_of_samples for grid in group]
    if not grids:
        return None
    cell = merge_size**2
    tokens = [sum(math.prod(grid) for grid in group) // cell for group in grids_of_samples]
    return VideoLayout(
        grid_thws=tuple(grids),
        cu_seqlens=torch.from_numpy(np.cumsum([0, *tokens]).astype(np.int32)),
        seq_idx_M=torch.from_numpy(np.repeat(np.arange(len(tokens), dtype=np.int32), tokens)),
        position_ids_3M=torch.from_numpy(np.concatenate([_token_positions(g, merge_size) for g in grids], axis=1)),
        tower=tower_layout(grids, merge_size=merge_size),
    )


def tower_layout(grids: Sequence[Grid], *, merge_size: int = 2) -> TowerLayout:
    """Frame pairs of the given items, sorted into buckets of equal size, so that the tower needs no mask."""
    cell = merge_size**2
    sizes = np.concatenate([np.full(t, h * w) for t, h, w in grids])
    order = np.argsort(sizes, kind="stable")
    ordered = sizes[order]
    lengths, counts = np.unique(ordered, return_counts=True)
    positions = np.concatenate([_patch_positions(grid, merge_size) for grid in grids])
    buckets = tuple((int(n), int(size)) for n, size in zip(counts, lengths, strict=True))
    if bool((order == np.arange(len(order))).all()):
        return TowerLayout(positions_P2=torch.from_numpy(positions), buckets=buckets, order_P=None, restore_M=None)
    patch_order = _expand(order, sizes)
    token_order = _expand(order, sizes // cell)
    return TowerLayout(
        positions_P2=torch.from_numpy(positions[patch_order]),
        buckets=buckets,
        order_P=torch.from_numpy(patch_order),
        restore_M=torch.from_numpy(np.argsort(token_order)),
    )


def _expand(order: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Row numbers of whole pairs in the given order of pairs."""
    starts = np.cumsum(sizes) - sizes
    chosen = sizes[order]
    ends = np.cumsum(chosen)
    return np.arange(int(ends[-1])) + np.repeat(starts[order] - (ends - chosen), chosen)


def _patch_positions(grid: Grid, merge_size: int) -> np.ndarray:
    t, h, w = grid
    cells = np.indices((h, w)).reshape(2, h // merge_size, merge_size, w // merge_size, merge_size)
    return np.tile(cells.transpose(1, 3, 2, 4, 0).reshape(-1, 2), (t, 1))


def _token_positions(grid: Grid, merge_size: int) -> np.ndarray:
    t, h, w = grid
    return np.indices((t, h // merge_size, w // merge_size)).reshape(3, -1)


def _teacher_rows(texts: Sequence[EncodedText], starts: np.ndarray) -> TeacherRows | None:
    taught = [
        (start, text, text.teacher) for start, text in zip(starts, texts, strict=True) if text.teacher is not None
    ]
    if not taught:
        return None
    sizes = {teacher.token_ids.shape[1] for _, _, teacher in taught}
    if len(sizes) > 1:
        raise ValueError(f"teachers give {sorted(sizes)} logits per token; all of a batch must give the same number")
    positions = [start + np.flatnonzero(text.labels != IGNORE_LABEL) for start, text, _ in taught]
    return TeacherRows(
        positions_R=torch.from_numpy(np.concatenate(positions)),
        token_ids_Rk=torch.from_numpy(np.concatenate([teacher.token_ids for _, _, teacher in taught])),
        logits_Rk=torch.from_numpy(np.concatenate([teacher.logits for _, _, teacher in taught])),
    )


def _joined(patches: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(patches[0] if len(patches) == 1 else np.concatenate(patches))


def _patches_on(device: torch.device | str, media_NHWC: Sequence[Tensor], processing: FrameProcessing) -> Tensor:
    """uint8[P, C] on `device`."""
    sizes = [math.prod(_grid(frames_NHWC, processing)) for frames_NHWC in media_NHWC]
    num_values = 3 * processing.temporal_patch_size * processing.patch_size**2
    patches_PC = torch.empty((sum(sizes), num_values), dtype=torch.uint8, device=device)
    for part_PC, frames_NHWC in zip(patches_PC.split(sizes), media_NHWC, strict=True):
        fill_patches(part_PC, frames_NHWC, processing)
    return patches_PC


def _grid(frames_NHWC: np.ndarray | Tensor, processing: FrameProcessing) -> Grid:
    num_frames, height, width = (int(n) for n in frames_NHWC.shape[:3])
    return frame_grid(num_frames, width, height, processing)


def _check(sample: EncodedSample, merge_size: int, processing: FrameProcessing | None) -> None:
    if not sample.texts or any(len(text.input_ids) == 0 for text in sample.texts):
        raise ValueError(f"sample {sample.id!r} has an empty conversation or none; each sample needs text")
    if sample.frames:
        _check_frames(sample, processing)
        return
    rows = 0 if sample.patches is None else len(sample.patches)
    expected = sum(math.prod(grid) for grid in sample.grid_thws)
    if rows != expected:
        raise ValueError(f"sample {sample.id!r}: {rows} patches, but its grids {sample.grid_thws} need {expected}")
    if any(t < 1 or h % merge_size or w % merge_size or min(h, w) < 1 for t, h, w in sample.grid_thws):
        raise ValueError(f"sample {sample.id!r}: grids {sample.grid_thws} are not multiples of {merge_size} patches")


def _check_frames(sample: EncodedSample, processing: FrameProcessing | None) -> None:
    if processing is None or sample.patches is not None:
        raise ValueError(f"sample {sample.id!r} has frames: it needs `processing`, and no patches beside them")
    grids = tuple(_grid(media, processing) for media in sample.frames)
    if grids != sample.grid_thws:
        raise ValueError(f"sample {sample.id!r}: its frames make the grids {grids}, not {sample.grid_thws}")


def _check_patch_types(samples: Sequence[EncodedSample]) -> None:
    types: dict[np.dtype[Any], str] = {}
    for sample in samples:
        if sample.patches is None:
            continue
        dtype = sample.patches.dtype
        if dtype != np.uint8 and not np.issubdtype(dtype, np.floating):
            raise ValueError(
                f"sample {sample.id!r}: patches are {dtype}; they must be uint8 pixels or normalised floating point"
            )
        types.setdefault(dtype, sample.id)
    if np.dtype(np.uint8) in types and len(types) > 1:
        found = ", ".join(f"{dtype} in sample {name!r}" for dtype, name in types.items())
        raise ValueError(f"a batch has one kind of patches, pixels (uint8) or normalised ones; found {found}")


def _map_tensors(layout: _Layout, move: Any) -> _Layout:
    changed: dict[str, Any] = {}
    for field in fields(layout):  # type: ignore[arg-type]
        value = getattr(layout, field.name)
        if isinstance(value, Tensor):
            changed[field.name] = move(value)
        elif is_dataclass(value):
            changed[field.name] = _map_tensors(value, move)
        elif isinstance(value, tuple) and value and isinstance(value[0], Tensor):
            changed[field.name] = tuple(move(tensor) for tensor in value)
    return replace(layout, **changed)  # type: ignore[type-var]
