"""An encoded video and cached generation equal recomputation, however the video was cut and prompts were batched."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.vamba.model.samples import CONFIG, FLAGS, assert_same, random_model, random_sample
from vamba.data.batch import EncodedSample, collate
from vamba.data.text import EncodedText
from vamba.model.vamba import VambaForConditionalGeneration

VIDEO = random_sample(5, ((7, 4, 6), (1, 4, 4)), (4,))
PROMPTS = [list(random_sample(seed, (), (length,)).texts[0].input_ids) for seed, length in ((1, 9), (2, 3), (3, 14))]


def recomputed(
    model: VambaForConditionalGeneration, prompt: list[int], video: EncodedSample | None, new: int
) -> list[int]:
    """Greedy decoding without any cache: the whole model again for every token."""
    ids = list(prompt)
    for _ in range(new):
        text = EncodedText(input_ids=np.asarray(ids), labels=np.full(len(ids), -100))
        sample = EncodedSample(
            id="x",
            patches=None if video is None else video.patches,
            grid_thws=() if video is None else video.grid_thws,
            texts=(text,),
        )
        ids.append(int(model(collate([sample]))[-1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("flags", FLAGS, ids=str)
@torch.no_grad()
def test_cached_generation_equals_recomputation(flags: dict[str, bool]) -> None:
    model = random_model(**flags)
    assert VIDEO.patches is not None
    memory = model.encode_video(VIDEO.patches, VIDEO.grid_thws)
    expected = [recomputed(model, prompt, VIDEO, 6) for prompt in PROMPTS]
    assert model.generate_many(PROMPTS, memory, 6, []) == expected
    assert model.generate(PROMPTS[0], memory, 6, []) == expected[0]
    assert len({tuple(answer) for answer in expected}) > 1


@torch.no_grad()
def test_text_alone() -> None:
    model = random_model()
    assert model.generate_many(PROMPTS, None, 4, []) == [recomputed(model, prompt, None, 4) for prompt in PROMPTS]


@torch.no_grad()
def test_answers_end_at_their_own_stop() -> None:
    model = random_model()
    free = model.generate_many(PROMPTS, None, 6, [])
    stop = free[0][2]
    for answer, whole in zip(model.generate_many(PROMPTS, None, 6, [stop]), free, strict=True):
        assert answer == (whole[: whole.index(stop)] if stop in whole else whole)


def test_empty_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        random_model().generate([], None, 3, [])


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
