"""Directories through transformers' own calls: Auto classes, options, round trips."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer

from tests.golden.case import ROOT
from tests.vamba.hf.models import random_model
from tests.vamba.model.samples import CONFIG
from vamba.assets.paths import TINY_TOKENIZER
from vamba.data.frames import FrameProcessing
from vamba.hf.configuration import VambaConfig
from vamba.hf.modeling import VambaForConditionalGeneration
from vamba.model.pretrained import CheckpointMismatch, from_pretrained, read_processing, save_pretrained
from vamba.ops.backends import Backends, BackendUnavailable


def test_auto_classes_read_what_was_saved(tmp_path: Path) -> None:
    model = random_model().float()
    model.save_pretrained(tmp_path / "m", tokenizer_dir=TINY_TOKENIZER, max_shard_size="40KB")
    assert json.loads((tmp_path / "m" / "config.json").read_text())["model_type"] == "vamba"
    assert (tmp_path / "m" / "model.safetensors.index.json").is_file()
    config = AutoConfig.from_pretrained(tmp_path / "m")
    assert isinstance(config, VambaConfig)
    assert config.architecture == CONFIG
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "m", dtype="float64")
    assert type(loaded) is VambaForConditionalGeneration
    assert not loaded.training
    for name, tensor in model.double().state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    assert AutoTokenizer.from_pretrained(tmp_path / "m").eos_token == "<|im_end|>"


def test_the_release_layout_is_read(tmp_path: Path) -> None:
    """Its config.json says qwen2_vl; saved again, the tensors keep their names and the type is our own."""
    model = VambaForConditionalGeneration.from_pretrained(ROOT / "A_video_base")
    model.save_pretrained(tmp_path / "m")
    again, plain = VambaForConditionalGeneration.from_pretrained(tmp_path / "m"), from_pretrained(tmp_path / "m")
    assert again.state_dict().keys() == plain.state_dict().keys()
    assert again.config.architecture == model.config.architecture == plain.config
    assert again.generation_config.to_diff_dict() == model.generation_config.to_diff_dict()


def test_a_saved_copy_keeps_tokenizer_and_processing(tmp_path: Path) -> None:
    first = random_model().float()
    processing = FrameProcessing(longest_edge=112)
    save_pretrained(first, tmp_path / "one", tokenizer_dir=TINY_TOKENIZER, processing=processing)
    VambaForConditionalGeneration.from_pretrained(tmp_path / "one").save_pretrained(tmp_path / "two")
    assert read_processing(tmp_path / "two") == processing
    assert (tmp_path / "two" / "tokenizer.json").read_bytes() == (TINY_TOKENIZER / "tokenizer.json").read_bytes()


def test_configuration_attributes_may_be_changed() -> None:
    config = VambaConfig.of(CONFIG)
    config.num_hidden_layers = 2
    config.rope_parameters["rope_theta"] = 50.0
    assert (config.architecture.num_hidden_layers, config.architecture.rope_theta) == (2, 50.0)
    assert VambaConfig(**config.to_dict()).architecture == config.architecture
    config.num_key_value_heads = 3
    with pytest.raises(ValueError, match="num_key_value_heads"):
        _ = config.architecture


def test_resized_embeddings_are_saved_with_their_size(tmp_path: Path) -> None:
    model = random_model().float()
    ids = torch.arange(6)[None]
    before = model(ids).logits
    model.resize_token_embeddings(70)
    model.save_pretrained(tmp_path / "m")
    loaded = VambaForConditionalGeneration.from_pretrained(tmp_path / "m")
    assert loaded.config.vocab_size == 70
    torch.testing.assert_close(loaded(ids).logits[..., :64], before)


def test_copies_keep_what_is_tied_and_share_nothing(tmp_path: Path) -> None:
    model = random_model(tie_word_embeddings=True)
    copied = copy.deepcopy(model)
    assert copied.lm_head.weight is copied.model.embed_tokens.weight
    copied.lm_head.weight.data.zero_()
    assert model.lm_head.weight.abs().max() > 0


def test_a_configuration_alone_makes_a_fresh_model(tmp_path: Path) -> None:
    VambaConfig.of(CONFIG).save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.architecture == CONFIG
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert model.model.layers[0].alpha.item() == 0.5
    assert torch.isfinite(model(torch.arange(5)[None]).logits).all()
    assert VambaConfig().architecture.num_hidden_layers == 28


def test_options_of_loading(tmp_path: Path) -> None:
    random_model().float().save_pretrained(tmp_path)
    half = VambaForConditionalGeneration.from_pretrained(tmp_path, torch_dtype="bfloat16", local_files_only=True)
    assert half.lm_head.weight.dtype == torch.bfloat16
    assert half.model.layers[0].alpha.dtype == torch.float32
    deeper = VambaConfig.from_pretrained(tmp_path)
    deeper.num_hidden_layers = 4
    with pytest.raises(CheckpointMismatch, match="missing: model.layers.3"):
        VambaForConditionalGeneration.from_pretrained(tmp_path, config=deeper)
    named = Backends(scan="reference", conv="reference", attention="reference")
    assert VambaForConditionalGeneration.from_pretrained(tmp_path, backends=named).ops.names == named
    with pytest.raises(BackendUnavailable, match="not a backend"):
        VambaForConditionalGeneration.from_pretrained(tmp_path, backends=Backends(scan="fast"))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"quantization_config": {}}, "no option .*quantization_config"),
        ({"use_safetensors": False}, "only safetensors"),
        ({"dtype": "int3"}, "dtype is 'int3'"),
        ({"device_map": {"visual": 0, "model": 1}}, "one device"),
    ],
)
def test_refused_options(tmp_path: Path, options: dict[str, Any], text: str) -> None:
    random_model().float().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=text):
        VambaForConditionalGeneration.from_pretrained(tmp_path, **options)


def test_names_on_a_hub_are_refused() -> None:
    with pytest.raises(ValueError, match="download the checkpoint first"):
        VambaForConditionalGeneration.from_pretrained("TIGER-Lab/Vamba-Qwen2-VL-7B")


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    random_model().float().save_pretrained(tmp_path)
    torch.save(random_model().state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="other weight formats are not read"):
        VambaForConditionalGeneration.from_pretrained(tmp_path)
