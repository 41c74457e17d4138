"""Checkpoints: round trips, shards, and errors that name the tensors."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.vamba.model.samples import CONFIG, random_model
from vamba.assets.paths import TINY_TOKENIZER
from vamba.data.frames import FrameProcessing
from vamba.data.text import load_tokenizer
from vamba.model.convert import convert_qwen2_vl
from vamba.model.pretrained import (
    CheckpointMismatch,
    from_pretrained,
    read_config,
    read_processing,
    read_tensors,
    save_pretrained,
)


def same_state(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    states = first.state_dict(), second.state_dict()
    return states[0].keys() == states[1].keys() and all(torch.equal(t, states[1][n]) for n, t in states[0].items())


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("max_shard_bytes", [10**9, 20_000])
def test_round_trip(tmp_path: Path, tied: bool, max_shard_bytes: int) -> None:
    model = random_model(tie_word_embeddings=tied).float()
    processing = FrameProcessing(longest_edge=112, min_pixels=784)
    out = tmp_path / "model"
    save_pretrained(model, out, tokenizer_dir=TINY_TOKENIZER, processing=processing, max_shard_bytes=max_shard_bytes)
    loaded = from_pretrained(out)
    assert same_state(model, loaded)
    assert loaded.config == model.config
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == tied
    assert read_processing(out) == processing
    assert load_tokenizer(out).digest == load_tokenizer(TINY_TOKENIZER).digest
    assert (out / "model.safetensors.index.json").exists() == (max_shard_bytes < 10**9)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_dtype_keeps_the_scans_parameters_in_float32(tmp_path: Path) -> None:
    save_pretrained(random_model().float(), tmp_path / "m")
    model = from_pretrained(tmp_path / "m", dtype=torch.bfloat16)
    for name, parameter in model.named_parameters():
        small = name.rpartition(".")[2] in ("A_log", "D", "dt_bias", "alpha")
        assert parameter.dtype == (torch.float32 if small else torch.bfloat16), name


def test_saving_again_replaces_and_other_directories_are_safe(tmp_path: Path) -> None:
    save_pretrained(random_model(1).float(), tmp_path / "m")
    second = random_model(2).float()
    save_pretrained(second, tmp_path / "m")
    assert same_state(from_pretrained(tmp_path / "m"), second)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("mine")
    with pytest.raises(ValueError, match="not a checkpoint"):
        save_pretrained(second, tmp_path / "notes")
    assert (tmp_path / "notes" / "diary.txt").read_text() == "mine"


def test_misfits_are_named(tmp_path: Path) -> None:
    save_pretrained(random_model().float(), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.norm.weight"]
    tensors["stranger"] = torch.zeros(1)
    tensors["model.layers.0.alpha"] = torch.zeros(2)
    save_file(tensors, tmp_path / "model.safetensors")
    expected = r"1 missing: model\.norm\.weight; 1 unexpected: stranger; .*alpha is \[2\], not \[1\]"
    with pytest.raises(CheckpointMismatch, match=expected):
        from_pretrained(tmp_path)


def test_damaged_and_absent_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no config\.json"):
        from_pretrained(tmp_path)
    save_pretrained(random_model().float(), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"garbage garbage")
    with pytest.raises(ValueError, match="damaged"):
        from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="holds neither"):
        from_pretrained(tmp_path)


def test_config_of_the_published_default_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_vl"}))
    assert read_config(tmp_path).hidden_size == 3584
