"""Padded and packed rows through the transformers class equal each sample alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.vamba.hf.models import media, prompt, random_model
from tests.vamba.model.samples import FLAGS, assert_same

IMAGES = media(1, (1, 4, 4), (1, 2, 4), (1, 4, 2))
VIDEOS = media(2, (3, 4, 4), (2, 2, 4))


def alone(model: Any, ids: torch.Tensor, labels: torch.Tensor | None = None, **inputs: Any) -> Any:
    return model(ids, labels=labels, **inputs)


@pytest.mark.parametrize("flags", FLAGS, ids=str)
def test_padding_on_either_side(flags: dict[str, Any]) -> None:
    model = random_model(**flags)
    first, second = prompt(1, 9), prompt(2, 5)
    patches = VIDEOS[0].split([3 * 16, 2 * 8])
    expected = [
        alone(model, ids, pixel_values_videos=part, video_grid_thw=grid[None]).logits[0]
        for ids, part, grid in zip((first, second), patches, VIDEOS[1], strict=True)
    ]
    for left in (0, 2, 4):
        ids, mask = torch.zeros(2, 9, dtype=torch.long), torch.zeros(2, 9, dtype=torch.long)
        ids[0], mask[0] = first, 1
        ids[1, left : left + 5], mask[1, left : left + 5] = second, 1
        made = model(ids, mask, pixel_values_videos=VIDEOS[0], video_grid_thw=VIDEOS[1]).logits
        assert_same(made[0], expected[0])
        assert_same(made[1, left : left + 5], expected[1])
        assert (made[1][mask[1] == 0] == 0).all()


def test_packed_samples_in_one_row() -> None:
    model = random_model(cross_attn_use_position_embeddings=True)
    texts, parts = [prompt(seed, length) for seed, length in ((1, 4), (2, 7), (3, 3))], IMAGES[0].split([16, 8, 8])
    expected = [
        alone(model, ids, pixel_values=part, image_grid_thw=grid[None]).logits[0]
        for ids, part, grid in zip(texts, parts, IMAGES[1], strict=True)
    ]
    positions = torch.cat([torch.arange(ids.shape[1]) for ids in texts])[None]
    row = torch.cat(texts, dim=1)
    made = model(row, position_ids=positions, pixel_values=IMAGES[0], image_grid_thw=IMAGES[1]).logits
    assert_same(made[0], torch.cat(expected))
    axes = model(row, position_ids=positions.expand(3, 1, -1), pixel_values=IMAGES[0], image_grid_thw=IMAGES[1])
    assert_same(axes.logits, made)


def test_media_are_dealt_to_samples() -> None:
    """Text alone beside an image and a video together; all images are seen, and a sample's images come first."""
    model = random_model()
    ids = torch.cat([prompt(1, 6), prompt(2, 6)])
    kinds = {
        "pixel_values": IMAGES[0],
        "image_grid_thw": IMAGES[1],
        "pixel_values_videos": VIDEOS[0],
        "video_grid_thw": VIDEOS[1],
    }
    made = model(ids, media_per_sample=[(0, 0), (3, 2)], **kinds).logits
    assert_same(made[0], alone(model, ids[:1]).logits[0])
    assert_same(made[1], alone(model, ids[1:], **kinds).logits[0])
    for name in ("pixel_values", "pixel_values_videos"):
        for item in (0, -1):
            changed = kinds[name].clone()
            changed[item] += 1
            assert not torch.allclose(alone(model, ids[1:], **{**kinds, name: changed}).logits[0], made[1], atol=1e-6)


def test_loss_with_a_cached_teacher() -> None:
    """Cross-entropy plus the divergence from the teacher's top k, at the labelled positions, of padded rows."""
    model = random_model(distill_coeff=0.7)
    ids, mask = torch.cat([prompt(1, 6), prompt(2, 6)]), torch.ones(2, 6, dtype=torch.long)
    mask[1, :2] = 0
    labels = ids.clone()
    labels[0, :3] = -100
    labels[1, :3] = -100
    generator = torch.Generator().manual_seed(0)
    teachers = [
        {
            "top_k_values": torch.randn(3, 5, generator=generator),
            "top_k_indices": torch.stack([torch.randperm(64, generator=generator)[:5] for _ in range(3)]),
        }
        for _ in range(2)
    ]
    made = model(ids, mask, labels=labels, teachers=teachers)
    rows, terms = made.logits[labels != -100], []
    for row, cache in zip(rows.split(3), teachers, strict=True):
        teacher = cache["top_k_values"].double().softmax(-1)
        student = row.gather(1, cache["top_k_indices"]).softmax(-1)
        terms.append((teacher * (teacher.log() - student.log())).sum(-1))
    plain = torch.nn.functional.cross_entropy(made.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert_same(made.loss, plain + 0.7 * torch.cat(terms).mean())
    assert_same(model(ids, mask, labels=labels).loss, plain)


def test_one_taught_sample_among_others() -> None:
    model = random_model(distill_coeff=1.0)
    ids, labels = torch.cat([prompt(1, 6), prompt(2, 6)]), torch.cat([prompt(1, 6), prompt(2, 6)])
    labels[:, :2] = -100
    cache = {"top_k_values": torch.randn(4, 3), "top_k_indices": torch.randint(64, (4, 3))}
    both = model(ids, labels=labels, teachers=[None, cache]).loss - model(ids, labels=labels).loss
    alone_ = model(ids[1:], labels=labels[1:], teachers=[cache]).loss - model(ids[1:], labels=labels[1:]).loss
    assert_same(both, alone_)


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({"attention_mask": torch.ones(1, 1, 4, 4)}, "position_ids that restart at 0"),
        ({"attention_mask": torch.ones(2, 4)}, r"must be \[3, 4\]"),
        ({"position_ids": torch.tensor([[0, 1, 3, 4]] * 3)}, "position_ids of row 0 must count"),
        ({"position_ids": torch.tensor([[5, 6, 7, 8]] * 3)}, "position_ids of row 0 must count"),
        ({"pixel_values": IMAGES[0]}, "must be given together"),
        ({"pixel_values": IMAGES[0][:5], "image_grid_thw": IMAGES[1]}, "5 patches were given"),
        ({"pixel_values_videos": VIDEOS[0], "video_grid_thw": VIDEOS[1]}, "media_per_sample"),
        (
            {"pixel_values": IMAGES[0], "image_grid_thw": IMAGES[1], "media_per_sample": [(1, 0), (1, 0), (0, 0)]},
            "add up to 3 images",
        ),
        ({"labels": torch.zeros(3, 4, dtype=torch.long), "teachers": [None]}, "1 cached teachers"),
    ],
)
def test_refusals_name_the_rule(inputs: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        random_model()(torch.zeros(3, 4, dtype=torch.long), **inputs)


def test_pixels_beside_normalised_patches_are_refused() -> None:
    inputs = {"pixel_values": IMAGES[0].to(torch.uint8), "image_grid_thw": IMAGES[1]}
    inputs |= {"pixel_values_videos": VIDEOS[0], "video_grid_thw": VIDEOS[1]}
    for use_cache in (False, True):
        with pytest.raises(ValueError, match="torch.float32 and torch.uint8"):
            random_model()(torch.zeros(1, 4, dtype=torch.long), use_cache=use_cache, **inputs)


def test_teacher_of_another_size_is_refused() -> None:
    cache = {"top_k_values": torch.randn(2, 3), "top_k_indices": torch.zeros(2, 3, dtype=torch.long)}
    with pytest.raises(ValueError, match="the teacher has 2 rows, but the conversation has 4 labelled tokens"):
        random_model()(
            torch.zeros(1, 4, dtype=torch.long), labels=torch.zeros(1, 4, dtype=torch.long), teachers=[cache]
        )


def test_logits_to_keep() -> None:
    model, ids = random_model(), prompt(1, 6)
    whole = model(ids).logits
    assert_same(model(ids, logits_to_keep=2).logits, whole[:, -2:])
    assert_same(model(ids, logits_to_keep=torch.tensor([0, 4])).logits, whole[:, [0, 4]])


def test_gradients_are_the_packed_models() -> None:
    model = random_model()
    ids = torch.cat([prompt(1, 6), prompt(2, 6)])
    model(ids, labels=ids, pixel_values_videos=VIDEOS[0], video_grid_thw=VIDEOS[1]).loss.backward()
    taken = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    model.gradient_checkpointing_enable()
    model(ids, labels=ids, pixel_values_videos=VIDEOS[0], video_grid_thw=VIDEOS[1]).loss.backward()
    without = {name for name, gradient in taken.items() if gradient is None}
    assert all("layers.2.vision_mixer" in name for name in without), without
    for name, parameter in model.named_parameters():
        if name not in without:
            assert_same(parameter.grad, taken[name])
    assert np.isfinite([float(gradient.norm()) for gradient in taken.values() if gradient is not None]).all()
