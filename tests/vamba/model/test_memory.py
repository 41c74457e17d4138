"""An encoded video is the same however it was cut. That text reads it as the packed model does is tested in hf/."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.vamba.model.samples import CONFIG, FLAGS, assert_same, random_model, random_sample

VIDEO = random_sample(5, ((7, 4, 6), (1, 4, 4)), (4,))


@pytest.mark.parametrize("flags", FLAGS, ids=str)
@pytest.mark.parametrize("chunk_tokens", [1, 6, 20, 31])
def test_memory_does_not_depend_on_the_cut(chunk_tokens: int, flags: dict[str, bool]) -> None:
    model = random_model(**flags)
    assert VIDEO.patches is not None
    whole = model.encode_video(VIDEO.patches, VIDEO.grid_thws, chunk_tokens=10_000)
    cut = model.encode_video(VIDEO.patches, VIDEO.grid_thws, chunk_tokens=chunk_tokens)
    assert whole.num_tokens == cut.num_tokens == 7 * 6 + 4
    assert len(whole.keys) == CONFIG.num_hidden_layers
    for first, second in zip((*whole.keys, *whole.values), (*cut.keys, *cut.values), strict=True):
        assert_same(first, second)


def test_memory_of_a_stream() -> None:
    model = random_model(cross_attn_use_position_embeddings=True)
    patches, rows = torch.from_numpy(random_sample(5, ((7, 4, 6),), (4,)).patches), 4 * 6
    pieces = [
        (patches[: 3 * rows], (3, 4, 6)),
        (patches[3 * rows : 4 * rows], (1, 4, 6)),
        (patches[4 * rows :], (3, 4, 6)),
    ]
    streamed, whole = model.encode_video_stream(pieces), model.encode_video(patches, (7, 4, 6))
    for first, second in zip((*streamed.keys, *streamed.values), (*whole.keys, *whole.values), strict=True):
        assert_same(first, second)


def test_grid_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="10 patches"):
        random_model().encode_video(np.zeros((10, 1176), np.float32), (1, 4, 4))


def test_stream_that_changes_size_is_refused() -> None:
    pieces = [(np.zeros((16, 1176), np.float32), (1, 4, 4)), (np.zeros((24, 1176), np.float32), (1, 4, 6))]
    with pytest.raises(ValueError, match="change size"):
        random_model().encode_video_stream(pieces)
