"""A chunk after the other through the layers equals the whole at once; what a store keeps comes back."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.vamba.model.samples import FLAGS, SAMPLES, random_model
from vamba.data.batch import collate
from vamba.streaming.chunks import cut
from vamba.streaming.store import TOKENS, DeviceStore, StoredKeysValues, keys_values
from vamba.streaming.walk import LocalCarry, mixes, read_and_mix, rotary_of, seq_idx_of


@torch.no_grad()
def walked(flags: dict[str, Any], size: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Keys and values of every layer, from chunks of the packed samples."""
    model = random_model(**flags).to(dtype)
    layout = collate(SAMPLES).video
    assert layout is not None
    generator = torch.Generator().manual_seed(1)
    v_MD = torch.randn(len(layout.seq_idx_M), 32, generator=generator, dtype=torch.float64).to(dtype)
    store, carry = DeviceStore(), LocalCarry()
    for chunk in cut(layout.cu_seqlens.tolist(), size):
        stream_MD = v_MD[chunk.start : chunk.stop]
        rotary, seq_idx = rotary_of(chunk, layout, model.config, stream_MD), seq_idx_of(chunk, layout)
        for index, layer in enumerate(model.model.hybrid_layers):
            is_carried = mixes(layer) and not chunk.begins_sample
            state = carry.take(chunk.index, index) if is_carried else None
            k_MKD, v_MKD, stream_MD, state = read_and_mix(layer, stream_MD, rotary, seq_idx, state)
            if state is not None and not chunk.ends_sample:
                carry.give(chunk.index, index, state)
            store.append(keys_values(index), (chunk.start, chunk.stop), (k_MKD, v_MKD))
    parts = [list(StoredKeysValues(store, index)) for index in range(3)]
    assert [part.start for part in parts[0]] == [chunk.start for chunk in cut(layout.cu_seqlens.tolist(), size)]
    return [torch.cat([part[kind] for part in layer]) for layer in parts for kind in (1, 2)]


@pytest.mark.parametrize("flags", [*FLAGS, {"tie_word_embeddings": True}], ids=str)
@pytest.mark.parametrize("size", [1, 7, 24, 55])
def test_any_cut_gives_the_keys_and_values_of_one_pass(flags: dict[str, Any], size: int) -> None:
    for cut_up, whole in zip(walked(flags, size, torch.float64), walked(flags, 1000, torch.float64), strict=True):
        torch.testing.assert_close(cut_up, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [8, 24, 40])
def test_a_cut_at_the_scans_chunks_changes_no_bit(size: int) -> None:
    for cut_up, whole in zip(walked({}, size, torch.float32), walked({}, 1000, torch.float32), strict=True):
        assert cut_up.equal(whole)


def test_a_store_gives_back_what_was_put_in() -> None:
    store = DeviceStore()
    first, second = (torch.ones(2, 3), torch.zeros(1, dtype=torch.int32)), (torch.full((4, 3), 2.0),)
    store.append(TOKENS, (0, 2), first)
    store.append(TOKENS, (2, 6), second)
    assert store.spans(TOKENS) == ((0, 2), (2, 6)) and store.spans("other") == ()
    store.replace((TOKENS, 1), (torch.full((4, 3), 5.0),))
    backwards = list(store.read([(TOKENS, 1), (TOKENS, 0)]))
    assert backwards[0][0].eq(5).all() and backwards[1][0].equal(first[0]) and backwards[1][1].equal(first[1])
    store.drop(TOKENS)
    assert store.spans(TOKENS) == ()
