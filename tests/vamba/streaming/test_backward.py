"""Gradients of a streamed batch are those of one pass: every parameter, any cut, whatever is trained."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipelines.training.adapters import ADAPTERS, add_adapters
from pipelines.training.config import LoraConfig
from tests.vamba.model.samples import FLAGS, SAMPLES, random_model, random_sample
from vamba.data.batch import Batch, EncodedSample, collate
from vamba.data.frames import FrameProcessing, frame_grid
from vamba.data.text import TeacherLogits
from vamba.model.config import MixerConfig
from vamba.model.vamba import Vamba
from vamba.streaming.backward import StreamedVideo
from vamba.streaming.store import DeviceStore
from vamba.streaming.store_disk import DiskStore
from vamba.streaming.training import StreamingPlan, forward_backward, loss_of
from vamba.streaming.walk import LocalCarry

CPU = torch.device("cpu")
PACKED = collate(SAMPLES)
ALONE = collate([random_sample(7, ((5, 4, 6), (1, 2, 4)), (11,))])
BATCHES = {"packed": PACKED, "alone": ALONE}


def gradients(model: Vamba) -> dict[str, Tensor]:
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def one_pass(model: Vamba, batch: Batch) -> tuple[float, dict[str, Tensor]]:
    loss, _ = model.loss(batch)
    loss.backward()
    return loss.item(), gradients(model)


def streamed(model: Vamba, batch: Batch, size: int, **options: Any) -> tuple[float, dict[str, Tensor]]:
    plan = StreamingPlan(above_tokens=0, chunk_tokens=size)
    assert plan.streams(batch)
    loss, num_loss_tokens = forward_backward(model, batch, plan, device=CPU, **options)
    assert num_loss_tokens == batch.num_loss_tokens
    return loss.item(), gradients(model)


def assert_same_gradients(actual: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float) -> None:
    assert actual.keys() == wanted.keys()
    largest = max(float(grad.norm()) for grad in wanted.values())
    for name, grad in wanted.items():
        # Without rotated keys their bias moves all scores of a query alike: its gradient is rounding, and nothing else.
        scale = largest if name.endswith("cross_attn.k_proj.bias") else max(float(grad.norm()), 1e-3 * largest)
        assert float((actual[name] - grad).norm()) <= tolerance * scale, name


def assert_streams(model: Vamba, batch: Batch, size: int, tolerance: float = 1e-12) -> None:
    (wanted_loss, wanted), (loss, actual) = one_pass(model, batch), streamed(model, batch, size)
    assert loss == pytest.approx(wanted_loss, rel=tolerance)
    assert_same_gradients(actual, wanted, tolerance)


@pytest.mark.parametrize("flags", [*FLAGS, {"tie_word_embeddings": True}, {"num_hidden_layers": 1}], ids=str)
@pytest.mark.parametrize(("name", "size"), [("packed", 7), ("packed", 16), ("alone", 13), ("alone", 1000)])
def test_every_gradient_in_float64(name: str, size: int, flags: dict[str, Any]) -> None:
    assert_streams(random_model(**flags), BATCHES[name], size)


def test_every_gradient_in_float32() -> None:
    assert_streams(random_model().float(), PACKED, 11, tolerance=1e-5)


@pytest.mark.parametrize("trained", [
    r".*(cross_attn|vision_mixer|alpha).*",  # stage 1: the tower is frozen
    r"(visual\.merger|model|lm_head).*",  # stage 2: the merger is trained, the blocks are not
    r"visual\.blocks.*",  # blocks below a frozen merger, and nothing else
    r"model\.layers\.1\.vision_mixer\.mixer\.A_log",  # nothing but a state's decay
    r"model\.layers\.2\.cross_attn\.v_proj\.weight",  # values alone, read by queries without gradients
])  # fmt: skip
@pytest.mark.parametrize("name", BATCHES)
def test_whatever_is_trained(trained: str, name: str) -> None:
    model = random_model()
    for parameter_name, parameter in model.named_parameters():
        parameter.requires_grad_(re.fullmatch(trained, parameter_name) is not None)
    assert_streams(model, BATCHES[name], 7)


@pytest.mark.parametrize("seed", range(6))
def test_random_architectures_and_lengths(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups, layers = int(rng.choice([1, 2])), int(rng.integers(2, 5))
    mixer = MixerConfig(
        enable=bool(rng.random() < 0.85), hidden_dim=32, d_state=int(rng.choice([4, 16])), headdim=8, ngroups=groups,
        chunk_size=int(rng.choice([4, 8, 24])), d_conv=int(rng.integers(2, 5)), bias=bool(rng.random() < 0.5),
    )  # fmt: skip
    flags = rng.choice(FLAGS)  # type: ignore[arg-type]
    model = random_model(
        seed, num_hidden_layers=layers, num_key_value_heads=int(rng.choice([1, 4])), mixer=mixer, **flags
    )
    samples = [
        random_sample(
            seed * 10 + i, tuple((int(rng.integers(1, 6)), 2 * int(rng.integers(1, 4)), 2 * int(rng.integers(1, 4)))
            for _ in range(int(rng.integers(0, 3)))), tuple(int(n) for n in rng.integers(2, 9, rng.integers(1, 4))),
        ) for i in range(4)
    ]  # fmt: skip
    batch = collate([*samples, random_sample(99, ((3, 2, 6),), (5,))])
    assert_streams(model, batch, int(rng.choice([1, 2, 3, 5, 7, 11, 13, 17, 19])))


def test_a_teachers_loss() -> None:
    rng = np.random.default_rng(0)

    def taught(sample: EncodedSample) -> EncodedSample:
        texts = []
        for text in sample.texts:
            rows = int((text.labels != -100).sum())
            logits = TeacherLogits(token_ids=rng.integers(0, 64, (rows, 4)), logits=rng.standard_normal((rows, 4)))
            texts.append(replace(text, teacher=logits))
        return replace(sample, texts=tuple(texts))

    batch = collate([taught(sample) for sample in SAMPLES])
    assert batch.teacher is not None
    assert_streams(random_model(distill_coeff=0.7), batch, 7)


@pytest.mark.parametrize("tower", [False, True])
def test_recomputed_text_and_frames_as_they_were_stored(tower: bool) -> None:
    processing = FrameProcessing(min_pixels=784)
    rng = np.random.default_rng(3)
    stored = tuple(rng.integers(0, 256, shape, np.uint8) for shape in ((7, 60, 90, 3), (1, 56, 56, 3), (4, 60, 90, 3)))
    grids = tuple(frame_grid(len(frames), frames.shape[2], frames.shape[1], processing) for frames in stored)
    sample = replace(random_sample(1, (), (9, 5)), grid_thws=grids, frames=stored)
    batch = collate([sample], processing=processing)
    model = random_model()
    model.visual.requires_grad_(tower)
    wanted_loss, wanted = one_pass(model, batch.to("cpu"))
    model.set_activation_checkpointing(True)
    loss, actual = streamed(model, batch, 5)
    assert loss == pytest.approx(wanted_loss, rel=1e-12)
    assert_same_gradients(actual, wanted, 1e-12)


TARGETS = (r".*(self_attn|cross_attn)\.(q|k|v|o)_proj", r".*mixer\.(in|out)_proj", r"visual\.merger\.mlp\.0")
OF_THE_TOWER = (r"visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc[12])",)


def adapted(dropout: float, targets: tuple[str, ...] = TARGETS) -> Vamba:
    model = random_model()
    add_adapters(model, LoraConfig(rank=2, dropout=dropout, target_modules=targets), seed=0)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.double().named_parameters():
        parameter.requires_grad_(re.fullmatch(ADAPTERS, name) is not None)
        if ".lora_B." in name:
            parameter.data.normal_(0, 0.05, generator=generator)
    return model.train()


def test_adapters() -> None:
    assert_streams(adapted(0.0), PACKED, 7)


@pytest.mark.parametrize("targets", [TARGETS, OF_THE_TOWER], ids=["layers", "tower"])
def test_dropout_is_drawn_again_as_it_was(targets: tuple[str, ...]) -> None:
    """The gradient is the slope of the loss with the same masks: one small step along it, forward only."""
    model = adapted(0.3, targets)
    torch.manual_seed(5)
    loss, found = streamed(model, PACKED, 7)
    length = 1e-9
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in found:
                parameter += length * found[name]
    torch.manual_seed(5)
    moved, _ = loss_of(model, PACKED, StreamingPlan(above_tokens=0, chunk_tokens=7), device=CPU)
    slope = sum(float(grad.square().sum()) for grad in found.values())
    assert (moved.item() - loss) / length == pytest.approx(slope, rel=1e-3)


def test_a_norm_below_a_frozen_mixer() -> None:
    """What comes in at a chunk's begin depends on it, though nothing of the mixer or below it is trained."""
    model = random_model(cross_attn_use_layer_norm=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name == "model.layers.0.input_layernorm.weight")
    assert_streams(model, PACKED, 7)


def test_a_process_without_a_chunk_has_zeros_of_what_others_train() -> None:
    """As in context parallelism, where the text runs everywhere."""
    model = random_model()
    wanted = one_pass(model, PACKED)[1].keys()
    assert PACKED.video is not None
    StreamedVideo(model, PACKED.video, None, DeviceStore(), ()).backward(LocalCarry())  # type: ignore[arg-type]
    found = gradients(model)
    assert all((grad == 0).all() for grad in found.values())
    of_text = {name for name in wanted if "visual" not in name and "vision_mixer" not in name}
    assert wanted - found.keys() == {n for n in of_text if not re.search(r"cross_attn\.[kv]_proj", n)}


def test_a_pack_that_does_not_count_adds_zeros() -> None:
    model = random_model()
    wanted = one_pass(model, PACKED)[1].keys()
    _, found = streamed(model, PACKED, 7, counts=False)
    assert found.keys() == wanted and all((grad == 0).all() for grad in found.values())


def test_a_repeated_pass_repeats_every_bit() -> None:
    model = adapted(0.3).float()
    results = []
    for _ in range(2):
        torch.manual_seed(4)
        results.append(streamed(model, PACKED, 7))
    assert results[0][0] == results[1][0]
    assert all(grad.equal(results[1][1][name]) for name, grad in results[0][1].items())


def test_what_is_kept_may_lie_on_disk() -> None:
    model = random_model()
    _, wanted = streamed(model, PACKED, 7)
    plan = StreamingPlan(above_tokens=0, chunk_tokens=7, open_store=lambda: DiskStore(CPU))
    forward_backward(model, PACKED, plan, device=CPU)
    assert all(grad.equal(wanted[name]) for name, grad in gradients(model).items())


def test_gradients_of_packs_add_up() -> None:
    model = random_model()
    separate = [streamed(model, batch, 7)[1] for batch in BATCHES.values()]
    after: list[int] = []
    for batch in BATCHES.values():
        plan = StreamingPlan(above_tokens=0, chunk_tokens=7)
        forward_backward(model, batch, plan, device=CPU, after_chunk=lambda: after.append(1))
    both = gradients(model)
    assert_same_gradients(both, {name: separate[0][name] + separate[1][name] for name in both}, 1e-12)
    assert len(after) == sum(-(-batch.num_video_tokens // 7) for batch in BATCHES.values())


def test_the_loss_alone() -> None:
    model = random_model().eval()
    loss, count = loss_of(model, PACKED, StreamingPlan(above_tokens=0, chunk_tokens=7), device=CPU)
    assert (loss.item(), count) == (pytest.approx(model.loss(PACKED)[0].item(), rel=1e-12), PACKED.num_loss_tokens)


def test_which_batches_are_streamed() -> None:
    at = PACKED.num_video_tokens
    plans = [StreamingPlan(above_tokens=above, chunk_tokens=8) for above in (at, at - 1, 0)]
    assert [plan.streams(PACKED) for plan in plans] == [False, True, True]
    assert not plans[-1].streams(collate([random_sample(2, (), (6,))]))
