"""The golden cases once more through the class that transformers knows, with the tensors as the release takes them."""

from __future__ import annotations

import torch

from tests.golden.case import ACTIVATIONS, GRADIENTS, assert_close, load_case
from vamba.hf.modeling import VambaForConditionalGeneration


def test_one_video_with_loss_and_gradients() -> None:
    case = load_case("A_video_base")
    model = VambaForConditionalGeneration.from_pretrained(case.directory)
    out = model(**case.inputs)
    assert_close(out.logits, case.outputs["logits"], ACTIVATIONS, "logits")
    assert_close(out.loss, case.outputs["loss"], 1e-5, "loss")
    out.loss.backward()
    for name, value in case.outputs.items():
        if name.startswith("grad."):
            gradient = model.get_parameter(name.removeprefix("grad.")).grad
            assert_close(torch.zeros_like(value) if gradient is None else gradient, value, GRADIENTS, name)


def test_padded_on_either_side() -> None:
    case = load_case("A_video_base")
    model = VambaForConditionalGeneration.from_pretrained(case.directory)
    for pad in ((0, 5), (4, 0)):
        padded = {
            name: torch.nn.functional.pad(case.inputs[name], pad, value=fill)
            for name, fill in (("input_ids", 0), ("attention_mask", 0), ("labels", -100))
        }
        with torch.no_grad():
            out = model(**{**case.inputs, **padded})
        assert_close(out.logits[padded["attention_mask"].bool()], case.outputs["logits"][0], ACTIVATIONS, "logits")
        assert_close(out.loss, case.outputs["loss"], 1e-5, "loss")


def test_packed_images() -> None:
    case = load_case("D_packed_images")
    model = VambaForConditionalGeneration.from_pretrained(case.directory)
    inputs = {name: value for name, value in case.inputs.items() if name != "attention_mask"}
    with torch.no_grad():
        out = model(**inputs)
    assert_close(out.logits, case.outputs["logits"], ACTIVATIONS, "logits")
    assert_close(out.loss, case.outputs["loss"], 1e-5, "loss")
