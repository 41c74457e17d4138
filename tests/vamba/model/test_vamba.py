"""Packing changes nothing, both flags and alpha mean what the equations say, and dead work is not done."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.vamba.model.samples import CONFIG, FLAGS, SAMPLES, assert_same, random_model, random_sample
from vamba.data.batch import collate
from vamba.ops.backends import Backends


@pytest.mark.parametrize("flags", FLAGS, ids=str)
def test_packed_equals_each_conversation_alone(flags: dict[str, Any]) -> None:
    model = random_model(**flags)
    packed = model(collate(SAMPLES))
    alone = [model(collate([replace(sample, texts=(text,))])) for sample in SAMPLES for text in sample.texts]
    assert_same(packed, torch.cat(alone))


@pytest.mark.parametrize("flags", FLAGS, ids=str)
def test_reference_backends_agree_with_gradients(flags: dict[str, Any]) -> None:
    batch = collate(SAMPLES)
    models = [
        random_model(**flags),
        random_model(backends=Backends(scan="reference", conv="reference", attention="reference"), **flags),
    ]
    losses = []
    for model in models:
        total, count = model.loss(batch)
        (total / count).backward()
        losses.append(total.detach())
    assert_same(*losses)
    for (name, first), second in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        assert (first.grad is None) == (second.grad is None), name
        if first.grad is not None and second.grad is not None:
            torch.testing.assert_close(first.grad, second.grad, rtol=1e-7, atol=1e-8, msg=name)


def test_loss_is_cross_entropy_of_the_shifted_labels() -> None:
    model, sample = random_model(), SAMPLES[0]
    batch = collate([replace(sample, texts=sample.texts[:1])])
    total, count = model.loss(batch)
    labels = batch.labels_T[1:]
    expected = torch.nn.functional.cross_entropy(model(batch)[:-1], labels, ignore_index=-100, reduction="sum")
    assert_same(total, expected)
    assert count == int((labels != -100).sum()) == batch.num_loss_tokens


def test_alpha_outside_its_range_acts_as_its_bound_and_keeps_its_gradient() -> None:
    model, batch = random_model(), collate(SAMPLES[:1])
    results = []
    for value in (1.0, 1.7):
        for layer in model.model.hybrid_layers:
            assert layer.alpha is not None
            layer.alpha.data.fill_(value)
        model.zero_grad()
        total, _ = model.loss(batch)
        total.backward()
        results.append((total.detach(), model.model.hybrid_layers[0].alpha.grad))
    assert_same(results[0][0], results[1][0])
    assert_same(results[0][1], results[1][1])
    assert results[0][1].abs() > 1e-6
    model.constrain_()
    assert all(float(layer.alpha) == 1.0 for layer in model.model.hybrid_layers)


def test_last_mixer_is_kept_and_not_run() -> None:
    model = random_model()
    ran = []
    for index, layer in enumerate(model.model.hybrid_layers):
        layer.vision_mixer.register_forward_hook(lambda *_, index=index: ran.append(index))
    model(collate(SAMPLES))
    assert ran == [0, 1]
    assert "model.layers.2.vision_mixer.mixer.A_log" in model.state_dict()


def test_one_frame_video_is_an_image_shown_twice() -> None:
    model = random_model()
    logits = model(collate([random_sample(9, ((1, 4, 4),), (7,))]))
    assert torch.isfinite(logits).all()


def test_text_alone_reads_no_video() -> None:
    model = random_model(use_alpha_balancing=False)
    batch = collate([SAMPLES[1]])
    before = model(batch)
    for layer in model.model.hybrid_layers:
        for parameter in layer.cross_attn.parameters():
            parameter.data.normal_()
    assert_same(model(batch), before)


def test_recomputed_activations_give_the_same_gradients() -> None:
    batch, gradients = collate(SAMPLES), []
    for enabled in (False, True):
        model = random_model()
        model.set_activation_checkpointing(enabled)
        model.loss(batch)[0].backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for first, second in zip(*gradients, strict=True):
        assert_same(first, second)


@pytest.mark.parametrize("kept", ["nothing", "small parts"])
def test_low_precision_runs(kept: str) -> None:
    """Also with norms, alpha and the scan's parameters in float32, as sharded training keeps them."""
    model = random_model()
    expected = model(collate(SAMPLES))
    for name, parameter in model.named_parameters():
        small = kept == "small parts" and re.search(r"norm|ln_q|alpha|A_log|\.D$|dt_bias", name)
        parameter.data = parameter.data.to(torch.float32 if small else torch.bfloat16)
    logits = model(collate(SAMPLES))
    assert logits.dtype == torch.float32
    assert (logits - expected).abs().mean() < 0.1 * expected.abs().mean()


def test_tied_embeddings_share_their_weight() -> None:
    model = random_model(tie_word_embeddings=True)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert CONFIG.tie_word_embeddings is False
