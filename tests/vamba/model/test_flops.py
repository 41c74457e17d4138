"""The count of operations, against torch's own counter on the tiny model, and by hand."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from tests.vamba.model.counting import TINY, WITH_VIDEO, counted, in_block_flops
from tests.vamba.model.samples import random_sample
from vamba.data.batch import collate
from vamba.model.flops import PackShape, StepWork, pack_shape
from vamba.model.init import init_weights_
from vamba.model.presets import PRESETS
from vamba.model.vamba import Vamba
from vamba.ops.scan import chunked
from vamba.train.trainable import select_trainable

TEXT_ONLY = collate([random_sample(3, (), (9,))])
STAGE_1 = ".*(cross_attn|vision_mixer|alpha).*"


def model_with(trainable: tuple[str, ...], **changes: bool) -> tuple[Vamba, StepWork]:
    config = replace(TINY, **changes)  # type: ignore[arg-type]
    model = Vamba(config)
    init_weights_(model, 0)
    select_trainable(model, trainable)
    return model, StepWork(config, {name for name, p in model.named_parameters() if p.requires_grad})


@pytest.fixture(autouse=True)
def one_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is trained, the CPU has another scan, with other products."""
    monkeypatch.setattr(chunked.inference, "scan", lambda *inputs, block: chunked._segments(*inputs, block))


@pytest.mark.parametrize(
    ("trainable", "scan_is_trained", "changes"),
    [
        (".*", True, {}),
        (".*", True, {"use_alpha_balancing": False}),
        (".*", True, {"cross_attn_use_layer_norm": True}),
        (STAGE_1, True, {}),
        (STAGE_1, True, {"cross_attn_use_layer_norm": True}),
        (r"(visual\.merger|model|lm_head)\..*", True, {}),
        (r"visual\.patch_embed\..*", True, {}),
        (r"lm_head\..*", False, {}),
        (r".*\.alpha", False, {}),
        (r"model\.layers\.1\.self_attn\.k_proj\..*", False, {"use_alpha_balancing": False}),
    ],
)
def test_a_step_with_video_costs_what_torch_counts(
    trainable: str, scan_is_trained: bool, changes: dict[str, bool]
) -> None:
    model, work = model_with((trainable,), **changes)
    shape = pack_shape(WITH_VIDEO)
    expected = counted(model, WITH_VIDEO)
    assert work.flops(shape) + in_block_flops(shape, trained=scan_is_trained) == expected


@pytest.mark.parametrize("trainable", [(".*",), (r"model\.layers\.1\.mlp\..*",), (STAGE_1,)])
def test_a_step_of_text_alone_costs_what_torch_counts(trainable: tuple[str, ...]) -> None:
    model, work = model_with(trainable)
    assert work.flops(pack_shape(TEXT_ONLY)) == counted(model, TEXT_ONLY)


def test_padding_is_no_work() -> None:
    """A pack costs what its samples cost alone."""
    samples = [
        random_sample(1, ((5, 4, 6),), (9, 14)),
        random_sample(2, (), (6,)),
        random_sample(4, ((3, 6, 4),), (4,)),
    ]
    _, work = model_with((".*",))
    together = work.flops(pack_shape(collate([samples[0], samples[2]])))
    assert together == sum(work.flops(pack_shape(collate([sample]))) for sample in (samples[0], samples[2]))
    shape = pack_shape(collate(samples))
    assert (shape.text_tokens, shape.text_pairs) == (33, 9 * 9 + 14 * 14 + 6 * 6 + 4 * 4)
    assert shape.cross_pairs == 23 * 30 + 4 * 18
    assert (shape.patches, shape.patch_pairs) == (5 * 24 + 3 * 24, 5 * 24**2 + 3 * 24**2)


def test_a_long_text_of_the_7b_model_costs_six_operations_per_parameter() -> None:
    """The usual estimate, without attention: 2 forward and 4 backward of each parameter that text runs through."""
    config = PRESETS["qwen2_vl_7b"]
    with torch.device("meta"):
        named = dict(Vamba(config, device="cpu").named_parameters())
    used = re.compile(r"model\.layers\.\d+\.(self_attn|mlp)\..*weight|lm_head\.weight")
    num_parameters = sum(p.numel() for name, p in named.items() if used.fullmatch(name))
    shape = PackShape(text_tokens=1000, text_pairs=0, scored_tokens=1000)
    assert StepWork(config, named).flops(shape) == 6000 * num_parameters


def test_a_parameter_that_the_architecture_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="lora_A"):
        StepWork(TINY, {"model.layers.0.self_attn.q_proj.lora_A.weight"})
    with pytest.raises(ValueError, match="r_proj"):
        StepWork(TINY, (), {"model.layers.0.self_attn.r_proj": 4})
