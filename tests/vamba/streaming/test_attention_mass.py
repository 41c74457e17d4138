"""The weight of each video token: adds up to one, is what softmax says, and does not depend on how keys are cut."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.vamba.model.samples import FLAGS, random_model, random_sample
from vamba.data.batch import collate
from vamba.data.text import EncodedText
from vamba.ops.attention.layout import CrossLayout
from vamba.ops.attention.partial import Group, Part, attend
from vamba.ops.attention.reference import cross_attention
from vamba.streaming import attention_mass
from vamba.streaming.attention_mass import answer_mass, pair_mass, token_mass
from vamba.streaming.encoder import encode_video

QUERIES, KEYS, HEADS, KV_HEADS = 5, 101, 6, 2


@pytest.mark.parametrize("sizes", [(101,), (64, 37), (1, 7, 13, 80)])
def test_mass_is_the_mean_of_softmax_whatever_the_parts(
    sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_mass, "_WEIGHTS_AT_ONCE", 300)  # a row or two of a part at a time
    torch.manual_seed(0)
    q, k, v = (torch.randn(n, h, 8, dtype=torch.float64) for n, h in ((QUERIES, HEADS), *[(KEYS, KV_HEADS)] * 2))
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    parts = [Part(s, k[s : s + n], v[s : s + n]) for s, n in zip(starts, sizes, strict=True)]
    _, lse = attend(q, parts, [Group(slice(0, QUERIES), 0, KEYS)])
    mass = token_mass(q, lse, reversed(parts))
    scores = torch.einsum("thd,mhd->thm", q, k.repeat_interleave(HEADS // KV_HEADS, dim=1)) / 8**0.5
    torch.testing.assert_close(mass, scores.softmax(-1).mean((0, 1)), rtol=1e-12, atol=1e-15)
    assert float(mass.sum()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("flags", FLAGS, ids=str)
def test_an_answer_looks_where_the_packed_models_queries_do(flags: dict[str, Any]) -> None:
    """Against the weights of softmax, taken from a pass over prompt and answer as one conversation."""
    model = random_model(**flags)
    prompt, answer = [5, 9, 2, 7, 1], [4, 8, 3]
    shown = random_sample(1, ((5, 4, 6), (3, 2, 4)), (7,))
    text = EncodedText(input_ids=np.array([*prompt, *answer[:-1]]), labels=np.full(7, -100))
    seen: list[Tensor] = []

    def watched(q_THD: Tensor, k_MKD: Tensor, v_MKD: Tensor, layout: CrossLayout) -> Tensor:
        scores = torch.einsum("thd,mhd->thm", q_THD, k_MKD.repeat_interleave(2, dim=1)) / q_THD.shape[-1] ** 0.5
        seen.append(scores.softmax(-1)[len(prompt) - 1 :].mean((0, 1)))
        return cross_attention(q_THD, k_MKD, v_MKD, layout)

    assert shown.patches is not None
    memory = encode_video(model, shown.patches, shown.grid_thws)
    for layer in model.model.hybrid_layers:
        layer.ops = replace(layer.ops, cross_attention=watched)
    with torch.no_grad():
        model.hidden_states(collate([replace(shown, texts=(text,))]))
    mass = answer_mass(model, memory, prompt, answer)
    torch.testing.assert_close(mass, torch.stack(seen).mean(0), rtol=1e-9, atol=1e-12)
    pairs = pair_mass(mass, memory.media)
    assert len(pairs) == 8 and sum(pairs) == pytest.approx(1)
    assert pairs[5] == pytest.approx(float(mass[30:32].sum()))
