"""The packed layout, by hand on small samples."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch

from vamba.data.batch import EncodedSample, Grid, collate, tower_layout
from vamba.data.text import EncodedText


def text(*labels: int) -> EncodedText:
    return EncodedText(input_ids=np.arange(100, 100 + len(labels)), labels=np.asarray(labels))


def sample(name: str, grids: tuple[Grid, ...], *texts: EncodedText) -> EncodedSample:
    rows = sum(t * h * w for t, h, w in grids)
    patches = np.full((rows, 1176), float(ord(name)), np.float32) if rows else None
    return EncodedSample(id=name, patches=patches, grid_thws=grids, texts=texts)


SAMPLES = [
    sample("a", ((2, 2, 4),), text(-100, 101, 102), text(-100, 101)),
    sample("b", (), text(7, -100, 102)),
    sample("c", ((1, 4, 2), (1, 2, 2)), text(-100, -100, -100, 103)),
]


def test_text() -> None:
    batch = collate(SAMPLES)
    assert batch.sample_ids == ("a", "b", "c")
    assert batch.text_cu_seqlens.tolist() == [0, 3, 5, 8, 12]
    assert batch.position_ids_T.tolist() == [0, 1, 2, 0, 1, 0, 1, 2, 0, 1, 2, 3]
    assert batch.segment_sample_S.tolist() == [0, 0, 1, 2]
    assert (batch.num_samples, batch.num_text_tokens, batch.num_video_tokens) == (3, 12, 7)


def test_loss_positions_predict_the_next_token_and_never_cross_a_conversation() -> None:
    batch = collate(SAMPLES)
    assert batch.loss_positions_N.tolist() == [0, 1, 3, 6, 10]
    assert batch.loss_targets_N.tolist() == [101, 102, 101, 102, 103]
    assert batch.num_loss_tokens == 5


def test_video() -> None:
    video = collate(SAMPLES).video
    assert video is not None
    assert video.cu_seqlens.tolist() == [0, 4, 7]
    assert video.seq_idx_M.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert video.position_ids_3M.tolist() == [[0, 0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1, 0], [0, 1, 0, 1, 0, 0, 0]]


def test_cross_attention_skips_text_without_video() -> None:
    cross = collate(SAMPLES).cross
    assert cross is not None
    assert cross.query_tokens is not None
    assert cross.query_tokens.tolist() == [0, 1, 2, 3, 4, 8, 9, 10, 11]
    assert cross.queries.cu_seqlens.tolist() == [0, 5, 9]
    assert cross.keys.cu_seqlens.tolist() == [0, 4, 7]


def test_tower_sorts_frame_pairs_by_size() -> None:
    layout = tower_layout([(1, 2, 4), (2, 2, 2), (1, 4, 2)])
    assert layout.buckets == ((2, 4), (2, 8))
    assert layout.order_P is not None
    assert layout.restore_M is not None
    assert layout.order_P.tolist() == [*range(8, 16), *range(8), *range(16, 24)]
    assert layout.restore_M.tolist() == [2, 3, 0, 1, 4, 5]
    assert layout.positions_P2[:4].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert layout.positions_P2[-4:].tolist() == [[2, 0], [2, 1], [3, 0], [3, 1]]


def test_one_frame_size_needs_no_sorting() -> None:
    layout = tower_layout([(3, 2, 4), (2, 2, 4)])
    assert layout.buckets == ((5, 8),)
    assert layout.order_P is None
    assert layout.restore_M is None


def test_text_alone() -> None:
    batch = collate(SAMPLES[1:2])
    assert batch.video is None
    assert batch.cross is None
    assert batch.patches_PC is None


def test_moving_and_immutability() -> None:
    batch = collate(SAMPLES)
    moved = batch.to("meta")
    assert moved.input_ids_T.device.type == "meta"
    assert moved.video is not None
    assert moved.video.tower.positions_P2.device.type == "meta"
    assert moved.cross is not None
    assert moved.cross.keys.slot_T.device.type == "meta"
    assert batch.input_ids_T.device == torch.device("cpu")
    with pytest.raises(FrozenInstanceError):
        batch.num_samples = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (replace(SAMPLES[0], texts=()), "empty conversation"),
        (replace(SAMPLES[0], grid_thws=((1, 2, 4),)), "16 patches, but its grids"),
        (replace(SAMPLES[0], grid_thws=((2, 1, 8),)), "multiples of 2"),
        (replace(SAMPLES[0], patches=None), "0 patches"),
    ],
)
def test_samples_that_do_not_fit_are_named(broken: EncodedSample, message: str) -> None:
    with pytest.raises(ValueError, match=f"'a'.*{message}"):
        collate([broken])


def test_pixels_and_normalised_patches_are_not_mixed() -> None:
    patches = SAMPLES[2].patches
    assert patches is not None
    pixels = replace(SAMPLES[2], patches=patches.astype(np.uint8))
    packed = collate([SAMPLES[1], pixels, replace(pixels, id="d")]).patches_PC
    assert packed is not None and packed.dtype == torch.uint8
    with pytest.raises(ValueError, match="one kind of patches.*float32 in sample 'a', uint8 in sample 'c'"):
        collate([SAMPLES[0], pixels])
    with pytest.raises(ValueError, match="sample 'c': patches are int64"):
        collate([replace(SAMPLES[2], patches=patches.astype(np.int64))])


def test_no_samples() -> None:
    with pytest.raises(ValueError, match="at least one"):
        collate([])
