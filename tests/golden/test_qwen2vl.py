"""Conversion from Qwen2-VL: both config formats, its tower, and equality with Qwen2-VL where alpha is one."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.golden.case import ACTIVATIONS, Case, assert_close, load_case
from tests.golden.test_model import check_stages, video_batch
from vamba.model.config import ModelConfig
from vamba.model.convert import convert_qwen2_vl
from vamba.model.pretrained import from_pretrained, save_pretrained
from vamba.model.vamba import Vamba


@pytest.fixture(scope="module")
def case() -> Case:
    return load_case("Q_qwen2vl")


@pytest.fixture(scope="module", params=["config.json", "config_legacy_hub_format.json"])
def model(case: Case, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Vamba:
    source, out = tmp_path_factory.mktemp("qwen"), tmp_path_factory.mktemp("out") / "vamba"
    shutil.copy(case.directory / "model.safetensors", source)
    shutil.copy(case.directory / request.param, source / "config.json")
    mixer = ModelConfig.from_dict(json.loads((load_case("A_video_base").directory / "config.json").read_text())).mixer
    convert_qwen2_vl(source, out, mixer=mixer)
    converted = from_pretrained(out)
    for layer in converted.model.layers:
        for name, parameter in layer.cross_attn.named_parameters():
            assert torch.equal(parameter, layer.self_attn.get_parameter(name))
    converted.load_state_dict(load_file(case.directory / "vamba_new_weights.safetensors"), strict=False)
    return converted


def test_formats_agree(case: Case) -> None:
    read = [
        ModelConfig.from_dict(json.loads((case.directory / name).read_text()))
        for name in ("config.json", "config_legacy_hub_format.json")
    ]
    assert replace(read[0], vision_token_id=0) == replace(read[1], vision_token_id=0)


def test_stages(case: Case, model: Vamba) -> None:
    batch = video_batch(case.inputs)
    check_stages(model, batch, case.outputs, "vamba.")
    with torch.no_grad():
        assert_close(model(batch), case.outputs["vamba_logits"], ACTIVATIONS, "vamba_logits")
        assert batch.video is not None
        tower = model.visual(batch.patches_PC, batch.video.tower)
        assert_close(tower, case.outputs["vision_tower"], ACTIVATIONS, "vision_tower")


def test_alpha_one_is_qwen2_vl(case: Case, model: Vamba, tmp_path: Path) -> None:
    save_pretrained(model, tmp_path / "copy")
    copy = from_pretrained(tmp_path / "copy")
    with torch.no_grad():
        for layer in copy.model.layers:
            layer.alpha.fill_(1.0)
        logits = copy(video_batch(case.inputs))
    assert_close(logits, case.outputs["vamba_alpha1_logits"], ACTIVATIONS, "alpha = 1")
    assert_close(logits, case.outputs["text_only_logits"], ACTIVATIONS, "text_only_logits")
