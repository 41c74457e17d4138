"""An encoded video is that of one pass, bit for bit, however it came in, wherever it lies and whenever it went on.

That text reads it as the packed model does is tested in hf/ for short videos, and here for those of several parts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.vamba.model.samples import FLAGS, random_model, random_sample
from vamba.data.batch import video_layout
from vamba.model.vamba import Vamba
from vamba.ops.attention.partial import Group, Part, attend
from vamba.streaming.encoder import VideoEncoder, encode_video, encode_video_stream
from vamba.streaming.memory import VideoMemory
from vamba.streaming.placement import Placement

PAIRS, ROWS = 13, 4 * 6
SAMPLE = random_sample(5, ((PAIRS, 4, 6),), (4,))
KINDS = [Placement(kv=kv, order=order) for kv in ("device", "disk") for order in ("chunk-major", "layer-major")]
"""Host memory is page-locked memory of a GPU; on a CPU it is the device's."""


def patches(first: int = 0, end: int = PAIRS) -> torch.Tensor:
    return torch.from_numpy(SAMPLE.patches)[first * ROWS : end * ROWS]


def encoded(model: Vamba, placement: Placement | None = None, pairs: int = PAIRS, **sizes: int) -> VideoMemory:
    encoder = VideoEncoder(model, placement, **{"chunk_tokens": 16, "block_tokens": 32, **sizes})
    encoder.add(patches(0, pairs), (pairs, 4, 6))
    return encoder.finish()


def kept(memory: VideoMemory) -> list[torch.Tensor]:
    """Every layer's keys and values, whole."""
    video = memory.open_pass(1)
    layers = [[(k.clone(), v.clone()) for _, k, v in video.parts(index)] for index in range(3)]
    return [torch.cat(kind) for layer in layers for kind in zip(*layer, strict=True)]


@torch.no_grad()
def of_one_pass(model: Vamba, grids: tuple[tuple[int, int, int], ...], shown: torch.Tensor) -> list[torch.Tensor]:
    """The same without any of this package: tower and layers over everything at once."""
    layout = video_layout([grids])
    assert layout is not None
    stream_MD, found = model.visual(shown, layout.tower), []
    rotary = model.model._context(_Shown(layout), stream_MD.dtype, with_video=True).video_rotary  # type: ignore[arg-type]
    for layer in model.model.hybrid_layers:
        stream_MD, keys_values = layer.read_video(stream_MD, rotary)
        stream_MD, _ = layer.mix_video(stream_MD, None, None)
        found += keys_values
    return found


class _Shown:
    """What of a batch the video side looks at."""

    def __init__(self, video: Any) -> None:
        self.video, self.position_ids_T, self.text, self.cross = video, torch.zeros(1, dtype=torch.int64), None, None


def assert_equal(memory: VideoMemory, expected: list[torch.Tensor]) -> None:
    for mine, theirs in zip(kept(memory), expected, strict=True):
        assert mine.equal(theirs)


@pytest.mark.parametrize("flags", [*FLAGS, {"num_key_value_heads": 1}], ids=str)
@pytest.mark.parametrize("placement", KINDS, ids=lambda p: f"{p.kv}-{p.order}")
@pytest.mark.parametrize(("chunk_tokens", "block_tokens"), [(8, 24), (24, 24), (1000, 1000)])
def test_a_video_is_that_of_one_pass(
    placement: Placement, flags: dict[str, Any], chunk_tokens: int, block_tokens: int
) -> None:
    model = random_model(**flags).float()
    memory = encoded(model, placement, chunk_tokens=chunk_tokens, block_tokens=block_tokens)
    assert_equal(memory, of_one_pass(model, SAMPLE.grid_thws, patches()))
    assert memory.num_tokens == PAIRS * 6


@pytest.mark.parametrize("pieces", [(1,) * PAIRS, (3, 1, 9), (5, 8)], ids=str)
def test_frames_come_in_pieces_of_any_size(pieces: tuple[int, ...]) -> None:
    model = random_model(cross_attn_use_position_embeddings=True).float()
    encoder, at = VideoEncoder(model, chunk_tokens=16, block_tokens=32), 0
    for pairs in pieces:
        encoder.add(patches(at, at + pairs), (pairs, 4, 6), times_ns=range(at, at + pairs))
        at += pairs
    memory = encoder.finish()
    assert_equal(memory, of_one_pass(model, SAMPLE.grid_thws, patches()))
    assert memory.media.grids == SAMPLE.grid_thws and memory.times_ns == tuple(range(PAIRS))


def test_the_memory_of_frames_may_be_used_again() -> None:
    """As a decoder does that has one buffer."""
    model = random_model().float()
    encoder, buffer = VideoEncoder(model, chunk_tokens=16, block_tokens=32), np.empty((ROWS, 1176), np.float32)
    for pair in range(PAIRS):
        buffer[:] = patches(pair, pair + 1)
        encoder.add(buffer, (1, 4, 6))
    assert_equal(encoder.finish(), of_one_pass(model, SAMPLE.grid_thws, patches()))


@pytest.mark.parametrize("placement", KINDS, ids=lambda p: f"{p.kv}-{p.order}")
@pytest.mark.parametrize("first", [1, 4, 8, 11])
def test_a_memory_goes_on_and_stays_what_it_was(placement: Placement, first: int) -> None:
    """Two continuations of one memory, in one store; and the encoder itself goes on after `finish`."""
    model = random_model(cross_attn_use_position_embeddings=True).float()
    begun = encoded(model, placement, pairs=first)
    before = kept(begun)
    other = VideoEncoder(model, after=begun)
    other.add(torch.flip(patches(), (0,)), (PAIRS, 4, 6))
    other.finish()
    going_on = VideoEncoder(model, after=begun)
    for pair in range(first, PAIRS):
        going_on.add(patches(pair, pair + 1), (1, 4, 6))
        longer = going_on.finish()
        assert_equal(longer, of_one_pass(model, ((pair + 1, 4, 6),), patches(0, pair + 1)))
    assert_equal(begun, before)


def test_items_of_several_sizes_are_one_stream() -> None:
    grids = ((7, 4, 6), (1, 4, 4), (2, 4, 6))
    sample = random_sample(5, grids, (4,))
    model = random_model(cross_attn_use_position_embeddings=True).float()
    memory = encode_video(model, sample.patches, grids, chunk_tokens=16)
    assert_equal(memory, of_one_pass(model, grids, torch.from_numpy(sample.patches)))


@pytest.mark.parametrize("placement", KINDS, ids=lambda p: f"{p.kv}-{p.order}")
def test_text_reads_several_parts_as_one(placement: Placement) -> None:
    model = random_model().float()
    queries = torch.randn(5, 4, 8, generator=torch.Generator().manual_seed(0))
    whole = kept(encoded(model, block_tokens=1000))
    video = encoded(model, placement, block_tokens=16).open_pass(5)
    for layer in range(3):
        assert len(list(video.parts(layer))) == 4
        part = [Part(0, whole[2 * layer], whole[2 * layer + 1])]
        expected, _ = attend(queries, part, [Group(slice(0, 5), 0, PAIRS * 6)])
        torch.testing.assert_close(video.read(layer, queries), expected, rtol=1e-5, atol=1e-6)


def test_reading_is_the_same_wherever_a_video_lies() -> None:
    model = random_model().float()
    queries = torch.randn(5, 4, 8, generator=torch.Generator().manual_seed(0))
    seen = []
    for placement in KINDS:
        video = encoded(model, placement).open_pass(5)
        seen.append(torch.stack([video.read(layer, queries) for layer in range(3)]))
    assert all(one.equal(seen[0]) for one in seen)


def test_what_does_not_fit_together_is_refused() -> None:
    model = random_model()
    with pytest.raises(ValueError, match="10 patches"):
        encode_video(model, np.zeros((10, 1176), np.float32), (1, 4, 4))
    sizes = [(np.zeros((16, 1176), np.float32), (1, 4, 4)), (np.zeros((24, 1176), np.float32), (1, 4, 6))]
    with pytest.raises(ValueError, match="change size"):
        encode_video_stream(model, sizes)
    with pytest.raises(ValueError, match="no frames"):
        encode_video_stream(model, [])
    with pytest.raises(ValueError, match="multiples of 2"):
        encode_video(model, np.zeros((15, 1176), np.float32), (1, 5, 3))
    encoder = VideoEncoder(model)
    encoder.add(patches(0, 2), (2, 4, 6), times_ns=(0, 1))
    with pytest.raises(ValueError, match="0 times were given for 3 frame pairs"):
        encoder.add(patches(2, 5), (3, 4, 6))
