"""The whole model against the published one: every stage, logits, loss and gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.golden.case import ACTIVATIONS, GRADIENTS, Case, assert_close, assert_norm, load_case
from vamba.data.batch import Batch, EncodedSample, collate
from vamba.data.text import EncodedText
from vamba.model.pretrained import from_pretrained
from vamba.model.vamba import Vamba

NOT_STAGES = ("loss", "seq_idx", "cross_attention_mask")


@contextmanager
def recorded(model: Vamba) -> Iterator[dict[str, Tensor]]:
    """Records every stage the golden outputs name, by hooks."""
    stages: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda module, inputs, output: stages.update({name: output})

    def keep_layer(prefix: str) -> Any:
        def hook(module: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
            stages.update({f"{prefix}.text_in": inputs[0], f"{prefix}.video_in": inputs[1]})
            stages.update({f"{prefix}.text_out": output[0], f"{prefix}.video_out": output[1]})

        return hook

    handles = [model.visual.register_forward_hook(keep("vision_tower"))]
    handles.append(model.model.norm.register_forward_hook(keep("final_norm")))
    for index, layer in enumerate(model.model.layers):
        handles.append(layer.register_forward_hook(keep_layer(f"layer{index}")))
        for part in ("self_attn", "cross_attn", "mlp"):
            handles.append(getattr(layer, part).register_forward_hook(keep(f"layer{index}.{part}")))
    yield stages
    for handle in handles:
        handle.remove()


def check_stages(model: Vamba, batch: Batch, expected: dict[str, Tensor], prefix: str) -> None:
    last = f"layer{model.config.num_hidden_layers - 1}"
    with recorded(model) as stages, torch.no_grad():
        stages["logits"] = model(batch)
    for index, layer in enumerate(model.model.layers):
        seq_idx = batch.video.seq_idx_M[None] if batch.video is not None else None
        mixed, _ = layer.vision_mixer(stages[f"layer{index}.video_in"][None], seq_idx)
        stages[f"layer{index}.mixer_block"] = mixed
    stages[f"{last}.video_out"] = stages[f"{last}.mixer_block"]
    for name, value in expected.items():
        if name.startswith(prefix) and not name.startswith("grad.") and name not in NOT_STAGES:
            assert_close(stages[name.removeprefix(prefix)], value, ACTIVATIONS, name)


def check_gradients(model: Vamba, batch: Batch, case: Case) -> None:
    model.zero_grad()
    total, count = model.loss(batch)
    loss = total / count
    loss.backward()
    assert_close(loss, case.outputs["loss"], 1e-5, "loss")
    for name, parameter in model.named_parameters():
        assert_norm(parameter.grad, case.notes["grad_norms"][name], name)
        if f"grad.{name}" in case.outputs:
            grad = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
            assert_close(grad, case.outputs[f"grad.{name}"], GRADIENTS, f"grad.{name}")


def video_batch(inputs: dict[str, Tensor]) -> Batch:
    ids = inputs["input_ids"][0]
    labels = inputs.get("labels", torch.full_like(ids, -100)[None])[0]
    sample = EncodedSample(
        id="video",
        patches=inputs["pixel_values_videos"].numpy(),
        grid_thws=tuple(tuple(grid) for grid in inputs["video_grid_thw"].tolist()),
        texts=(EncodedText(input_ids=ids.numpy(), labels=labels.numpy()),),
    )
    return collate([sample])


def packed_batch(case: Case) -> Batch:
    ids, labels = case.inputs["input_ids"][0], case.inputs["labels"][0]
    grids = [tuple(grid) for grid in case.inputs["image_grid_thw"].tolist()]
    patches = case.inputs["pixel_values"].split([t * h * w for t, h, w in grids])
    lengths = case.notes["text_lens"]
    return collate(
        [
            EncodedSample(
                id=str(index),
                patches=patches[index].numpy(),
                grid_thws=(grids[index],),
                texts=(EncodedText(input_ids=text.numpy(), labels=label.numpy()),),
            )
            for index, (text, label) in enumerate(zip(ids.split(lengths), labels.split(lengths), strict=True))
        ]
    )


@pytest.fixture(scope="module")
def video() -> Case:
    return load_case("A_video_base")


@pytest.fixture(scope="module")
def packed() -> Case:
    return load_case("D_packed_images")


def test_one_video_every_stage(video: Case) -> None:
    model = from_pretrained(video.directory)
    check_stages(model, video_batch(video.inputs), video.outputs, "")


def test_one_video_gradients(video: Case) -> None:
    check_gradients(from_pretrained(video.directory), video_batch(video.inputs), video)


@pytest.mark.parametrize("name", ["reference", "recomputed"])
def test_one_video_gradients_other_ways(video: Case, name: str) -> None:
    from vamba.ops.backends import Backends

    backends = Backends(scan=name, conv=name, attention=name) if name == "reference" else Backends()
    model = from_pretrained(video.directory, backends=backends)
    model.set_activation_checkpointing(name == "recomputed")
    check_gradients(model, video_batch(video.inputs), video)


def test_packed_images_every_stage(packed: Case) -> None:
    model = from_pretrained(packed.directory)
    batch = packed_batch(packed)
    check_stages(model, batch, packed.outputs, "")
    assert batch.video is not None
    assert batch.video.seq_idx_M.tolist() == packed.outputs["seq_idx"][0].tolist()


def test_packed_images_gradients(packed: Case) -> None:
    check_gradients(from_pretrained(packed.directory), packed_batch(packed), packed)


def test_packed_images_with_rotated_cross_attention(packed: Case) -> None:
    from dataclasses import replace

    from safetensors.torch import load_file

    stored = from_pretrained(packed.directory)
    model = Vamba(replace(stored.config, cross_attn_use_position_embeddings=True))
    model.load_state_dict(stored.state_dict())
    expected = load_file(packed.directory / "outputs_pos.safetensors")
    check_stages(model, packed_batch(packed), expected, "")
    total, count = model.loss(packed_batch(packed))
    assert_close(total / count, expected["loss"], 1e-5, "loss")
