"""Conversion from Qwen2-VL in every form it comes in, what is refused, and what directories are said to hold."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.golden.case import ROOT
from tests.vamba.model.samples import CONFIG, random_model
from vamba.assets.paths import TINY_TOKENIZER
from vamba.data.text import load_tokenizer
from vamba.model.config import MixerConfig
from vamba.model.convert import Written, convert_qwen2_vl, plan_conversion
from vamba.model.init import initial_value
from vamba.model.inspection import inspect_directory
from vamba.model.pretrained import (
    CheckpointMismatch,
    from_pretrained,
    read_config,
    read_processing,
    read_tensors,
    save_pretrained,
)

PROJECT = Path(__file__).resolve().parents[3]
SMALL_MIXER = MixerConfig(hidden_dim=32, d_state=8, headdim=8, ngroups=2)


def qwen2_vl(directory: Path, *, tied: bool = False, dtype: torch.dtype = torch.float32) -> Path:
    """A Qwen2-VL checkpoint of the test's size: a Vamba one without the new parts."""
    save_pretrained(random_model(tie_word_embeddings=tied).to(dtype), directory)
    tensors = {n: t for n, t in read_tensors(directory) if not re.search("cross_attn|vision_mixer|alpha", n)}
    rewrite(directory, tensors)
    config = json.loads((directory / "config.json").read_text())
    config["model_type"] = "qwen2_vl"
    for key in ("vision_mamba_mixer_config", "use_alpha_balancing"):
        del config[key]
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def rewrite(directory: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, directory / "model.safetensors")


def nest(directory: Path) -> None:
    """The config of `directory` as transformers 5 writes it."""
    flat = json.loads((directory / "config.json").read_text())
    outer = {key: flat.pop(key) for key in ("model_type", "architectures", "vision_config", "tie_word_embeddings")}
    rope = {"rope_type": "default", "rope_theta": flat.pop("rope_theta"), **flat.pop("rope_scaling")}
    text = {**flat, "rope_parameters": rope, "model_type": "qwen2_vl_text"}
    (directory / "config.json").write_text(json.dumps({**outer, "text_config": text}))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_what_a_conversion_makes(tmp_path: Path, tied: bool, nested: bool) -> None:
    source = qwen2_vl(tmp_path / "qwen", tied=tied)
    if nested:
        nest(source)
    steps: list[Written] = []
    convert_qwen2_vl(
        source, tmp_path / "vamba", mixer=CONFIG.mixer, seed=3, max_shard_bytes=30_000, progress=steps.append
    )
    model = from_pretrained(tmp_path / "vamba")
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in read_tensors(source))
    fresh = random_model(3).float().state_dict()
    for name, tensor in state.items():
        if ".cross_attn." in name:
            assert torch.equal(tensor, state[name.replace("cross_attn", "self_attn")]), name
        elif ".vision_mixer." in name or name.endswith(".alpha"):
            assert torch.equal(tensor, fresh[name]), name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["qwen", "vamba"]
    stored = dict(read_tensors(tmp_path / "vamba"))
    assert steps[-1] == Written(num_tensors=len(stored), size_bytes=sum(t.nbytes for t in stored.values()))


def test_the_result_does_not_depend_on_how_the_source_is_sharded(tmp_path: Path) -> None:
    source = qwen2_vl(tmp_path / "qwen")
    save_in_shards(source, tmp_path / "sharded")
    for name in ("qwen", "sharded"):
        convert_qwen2_vl(tmp_path / name, tmp_path / f"{name}-out", mixer=SMALL_MIXER)
    files = [(tmp_path / f"{name}-out" / "model.safetensors").read_bytes() for name in ("qwen", "sharded")]
    assert files[0] == files[1]


def save_in_shards(source: Path, out: Path) -> None:
    out.mkdir()
    (out / "config.json").write_bytes((source / "config.json").read_bytes())
    placed: dict[str, str] = {}
    for number, (name, _) in enumerate(sorted(read_tensors(source), reverse=True)):
        placed[name] = f"part-{number % 3}.safetensors"
    for file in set(placed.values()):
        save_file({n: t.clone() for n, t in read_tensors(source) if placed[n] == file}, out / file)
    (out / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))


def test_bfloat16_keeps_the_scans_parameters_in_float32(tmp_path: Path) -> None:
    convert_qwen2_vl(qwen2_vl(tmp_path / "qwen", dtype=torch.bfloat16), tmp_path / "out", mixer=SMALL_MIXER, seed=7)
    for name, tensor in load_file(tmp_path / "out" / "model.safetensors").items():
        small = name.rpartition(".")[2] in ("A_log", "D", "dt_bias", "alpha")
        assert tensor.dtype == (torch.float32 if small else torch.bfloat16), name
        if name.endswith("in_proj.weight"):
            value = initial_value(name, tuple(tensor.shape), CONFIG, 7)
            assert torch.equal(tensor, value.to(torch.bfloat16))


def test_the_files_are_what_other_readers_expect(tmp_path: Path) -> None:
    convert_qwen2_vl(qwen2_vl(tmp_path / "qwen"), tmp_path / "out", mixer=SMALL_MIXER, max_shard_bytes=30_000)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert files == [f"model-{i + 1:05d}-of-{len(files):05d}.safetensors" for i in range(len(files))]
    total = 0
    for file in files:
        with safe_open(tmp_path / "out" / file, framework="pt") as opened:
            assert opened.metadata() == {"format": "pt"}
            assert sorted(opened.keys()) == sorted(n for n, held in index["weight_map"].items() if held == file)
            total += sum(opened.get_tensor(name).nbytes for name in opened.keys())  # noqa: SIM118
    assert total == index["metadata"]["total_size"]


def test_names_of_modules_in_memory_are_read(tmp_path: Path) -> None:
    source = qwen2_vl(tmp_path / "qwen")
    convert_qwen2_vl(source, tmp_path / "one", mixer=SMALL_MIXER)
    renamed = {}
    for name, tensor in read_tensors(source):
        name = re.sub(r"^model\.", "model.language_model.", name)
        renamed[re.sub(r"^visual\.", "model.visual.", name)] = tensor
    rewrite(source, renamed)
    convert_qwen2_vl(source, tmp_path / "two", mixer=SMALL_MIXER)
    assert (tmp_path / "one/model.safetensors").read_bytes() == (tmp_path / "two/model.safetensors").read_bytes()


def test_tokenizer_processing_and_generation_settings_come_along(tmp_path: Path) -> None:
    source = qwen2_vl(tmp_path / "qwen")
    (source / "processing.json").unlink()
    for file in TINY_TOKENIZER.iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    (source / "preprocessor_config.json").write_text(json.dumps({"min_pixels": 784, "max_pixels": 7840}))
    (source / "generation_config.json").write_text(json.dumps({"eos_token_id": [506, 504]}))
    convert_qwen2_vl(source, tmp_path / "out", mixer=SMALL_MIXER)
    assert load_tokenizer(tmp_path / "out").digest == load_tokenizer(TINY_TOKENIZER).digest
    processing = read_processing(tmp_path / "out")
    assert (processing.min_pixels, processing.max_pixels) == (784, 7840)
    assert json.loads((tmp_path / "out/generation_config.json").read_text()) == {"eos_token_id": [506, 504]}


def test_a_head_beside_tied_embeddings(tmp_path: Path) -> None:
    """Some tools save both; they must be one matrix."""
    source = qwen2_vl(tmp_path / "qwen", tied=True)
    tensors = dict(read_tensors(source))
    rewrite(source, {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]})
    convert_qwen2_vl(source, tmp_path / "out", mixer=SMALL_MIXER)
    assert "lm_head.weight" not in dict(read_tensors(tmp_path / "out"))
    rewrite(source, {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"] + 1})
    with pytest.raises(CheckpointMismatch, match="lm_head.weight that is not model.embed_tokens.weight"):
        plan_conversion(source)


def without_tensor(tensors: dict[str, Any]) -> None:
    del tensors["model.layers.1.mlp.up_proj.weight"]


def with_stranger(tensors: dict[str, Any]) -> None:
    tensors["visual.blocks.0.attn.q_norm.weight"] = torch.ones(3)


def misshapen(tensors: dict[str, Any]) -> None:
    tensors["model.norm.weight"] = torch.ones(31)


def quantised(tensors: dict[str, Any]) -> None:
    tensors["lm_head.weight"] = tensors["lm_head.weight"].to(torch.int8)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (without_tensor, r"1 missing: model\.layers\.1\.mlp\.up_proj\.weight"),
        (with_stranger, r"1 unexpected: visual\.blocks\.0\.attn\.q_norm\.weight"),
        (misshapen, r"1 of another shape: model\.norm\.weight is \[31\], not \[32\]"),
        (quantised, r"1 not floating point .*: lm_head\.weight is I8"),
    ],
)
def test_misfits_are_named_and_leave_nothing(tmp_path: Path, change: Any, text: str) -> None:
    source = qwen2_vl(tmp_path / "qwen")
    tensors = dict(read_tensors(source))
    change(tensors)
    rewrite(source, tensors)
    with pytest.raises(CheckpointMismatch, match=text):
        convert_qwen2_vl(source, tmp_path / "vamba", mixer=SMALL_MIXER)
    assert any(re.search(text, problem) for problem in inspect_directory(source).problems)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["qwen"]


def test_destinations_that_would_destroy_something(tmp_path: Path) -> None:
    source = qwen2_vl(tmp_path / "models" / "qwen")
    (tmp_path / "models" / "config.json").write_text("{}")
    (tmp_path / "link").symlink_to(source)
    (tmp_path / "diary").mkdir()
    (tmp_path / "diary" / "monday.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    plan = plan_conversion(source, mixer=SMALL_MIXER)
    for out, text in (("models/qwen", "is the source"), ("link", "is the source"), ("models", "or holds it")):
        with pytest.raises(ValueError, match=text):
            convert_qwen2_vl(plan, tmp_path / out)
    for out in ("diary", "file"):
        with pytest.raises(ValueError, match="exists and is not a checkpoint"):
            convert_qwen2_vl(plan, tmp_path / out)
    assert (tmp_path / "diary" / "monday.txt").read_text() == "mine"


def test_a_hybrid_is_not_converted_again(tmp_path: Path) -> None:
    convert_qwen2_vl(qwen2_vl(tmp_path / "qwen"), tmp_path / "out", mixer=SMALL_MIXER)
    for directory in (tmp_path / "out", ROOT / "A_video_base"):
        with pytest.raises(ValueError, match="is a Vamba checkpoint already"):
            plan_conversion(directory)


def test_loading_a_plain_qwen2_vl_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(CheckpointMismatch, match="vamba model convert --from .*qwen"):
        from_pretrained(qwen2_vl(tmp_path / "qwen"))


def test_an_interruption_leaves_what_was_there(tmp_path: Path) -> None:
    source = qwen2_vl(tmp_path / "qwen")
    convert_qwen2_vl(source, tmp_path / "out", mixer=SMALL_MIXER, seed=1)
    before = (tmp_path / "out" / "model.safetensors").read_bytes()

    def interrupt(done: Written) -> None:
        if done.num_tensors == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_qwen2_vl(source, tmp_path / "out", mixer=SMALL_MIXER, seed=2, progress=interrupt)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "qwen"]
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before


def test_what_a_killed_conversion_left_is_removed(tmp_path: Path) -> None:
    source = qwen2_vl(tmp_path / "qwen")
    program = (
        "import os, sys\n"
        "from vamba.model.config import MixerConfig\n"
        "from vamba.model.convert import convert_qwen2_vl\n"
        "mixer = MixerConfig(hidden_dim=32, headdim=8)\n"
        "convert_qwen2_vl(sys.argv[1], sys.argv[2], mixer=mixer, progress=lambda _: os._exit(9))\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(source), str(tmp_path / "out")], cwd=PROJECT)
    assert killed.returncode == 9
    assert len(list(tmp_path.iterdir())) == 2
    convert_qwen2_vl(source, tmp_path / "out", mixer=SMALL_MIXER)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "qwen"]


def test_a_full_disk_is_foreseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(ValueError, match="GB free; the converted model needs"):
        convert_qwen2_vl(qwen2_vl(tmp_path / "qwen"), tmp_path / "out", mixer=SMALL_MIXER)


def test_inspection_counts_parts_without_reading_tensors(tmp_path: Path) -> None:
    convert_qwen2_vl(qwen2_vl(tmp_path / "qwen"), tmp_path / "out", mixer=SMALL_MIXER)
    found = inspect_directory(tmp_path / "out")
    model = from_pretrained(tmp_path / "out")
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    assert found.num_parameters == sum(found.parts.values()) == sum(sizes.values())
    assert found.trainable["stage_1"] == sum(
        s for n, s in sizes.items() if re.search("cross_attn|vision_mixer|alpha", n)
    )
    assert found.trainable["stage_2"] == sum(s for n, s in sizes.items() if n.startswith(("model.", "visual.merger.")))
    assert found.parts["self_attn"] == found.parts["cross_attn"] > 0
    assert "other" not in found.parts
    assert found.problems == ()
    assert inspect_directory(tmp_path / "qwen").parts["mixers"] == 0


@pytest.mark.parametrize("name", ["A_video_base", "D_packed_images", "Q_qwen2vl"])
def test_golden_directories_fit(name: str) -> None:
    found = inspect_directory(ROOT / name)
    assert found.problems == ()
    assert found.kind == ("Qwen2-VL, nested config" if name == "Q_qwen2vl" else "Vamba, the release's config")


def test_transformers_own_checkpoint_converts(tmp_path: Path) -> None:
    """What the installed transformers saves of a tied Qwen2-VL, in shards."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6}
    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    text |= {"num_key_value_heads": 2, "vocab_size": 64, "rope_parameters": rope, "bos_token_id": 1, "eos_token_id": 2}
    vision = {"depth": 1, "embed_dim": 16, "num_heads": 2, "hidden_size": 32}
    base = Qwen2VLForConditionalGeneration(
        Qwen2VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True)
    )
    base.save_pretrained(tmp_path / "qwen", max_shard_size="20KB")
    config = convert_qwen2_vl(tmp_path / "qwen", tmp_path / "out", mixer=SMALL_MIXER)
    assert config.tie_word_embeddings and config.rms_norm_eps == 1e-5
    assert read_config(tmp_path / "out") == config
    model = from_pretrained(tmp_path / "out")
    embedding = base.get_input_embeddings().weight
    assert torch.equal(model.lm_head.weight, embedding)
