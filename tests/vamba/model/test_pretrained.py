"""Checkpoints: round trips, shards, and errors that name the tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.vamba.model.samples import random_model
from vamba.assets.paths import TINY_TOKENIZER
from vamba.data.frames import FrameProcessing
from vamba.data.normalise import IMAGE_MEAN, IMAGE_STD
from vamba.data.text import load_tokenizer
from vamba.model.pretrained import (
    CheckpointMismatch,
    from_pretrained,
    read_config,
    read_processing,
    save_pretrained,
)
from vamba.model.shard_writer import ShardWriter, size_in_bytes, tensor_pieces


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


def test_nothing_is_read_before_everything_is_known_to_fit(tmp_path: Path) -> None:
    save_pretrained(random_model().float(), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.int32)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointMismatch, match=r"1 not floating point .*: model\.norm\.weight is I32"):
        from_pretrained(tmp_path)


def header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def with_header(path: Path, header: Any, data: bytes) -> None:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)


def test_every_damage_of_a_file_is_named(tmp_path: Path) -> None:
    save_pretrained(random_model().float(), tmp_path)
    path = tmp_path / "model.safetensors"
    whole, (header, data) = path.read_bytes(), header_of(path)
    name = "model.norm.weight"

    def changed(**values: Any) -> dict[str, Any]:
        return {**header, name: {**header[name], **values}}

    damages: list[tuple[str, Any]] = [
        ("don't hold the header", lambda: path.write_bytes(b"")),
        ("don't hold the header", lambda: path.write_bytes(b"\xff" * 8)),
        ("don't hold the header", lambda: path.write_bytes(whole[:100])),
        (f"it has {len(whole) - 1} bytes", lambda: path.write_bytes(whole[:-1])),
        (f"it has {len(whole) + 1} bytes", lambda: path.write_bytes(whole + b"x")),
        ("header can't be read", lambda: with_header(path, b"[1, 2]", data)),
        ("header can't be read", lambda: with_header(path, b"{", data)),
        ("header can't be read", lambda: with_header(path, {**header, name: {}}, data)),
        (f"{name} is of the unknown type 'F7'", lambda: with_header(path, changed(dtype="F7"), data)),
        (f"{name} of shape .33. and type F32 can't", lambda: with_header(path, changed(shape=[33]), data)),
        (f"{name} has shape .-32.", lambda: with_header(path, changed(shape=[-32]), data)),
        ("does not begin where", lambda: with_header(path, changed(data_offsets=[4, 132]), data)),
    ]
    for text, damage in damages:
        damage()
        with pytest.raises(ValueError, match=rf"model\.safetensors is damaged or no safetensors file: .*{text}"):
            from_pretrained(tmp_path)


def test_every_mistake_of_an_index_is_named(tmp_path: Path) -> None:
    save_pretrained(random_model().float(), tmp_path / "m", max_shard_bytes=30_000)
    index = tmp_path / "m" / "model.safetensors.index.json"
    placed = json.loads(index.read_text())["weight_map"]
    first = placed["visual.patch_embed.proj.weight"]
    (tmp_path / "outside.safetensors").write_bytes((tmp_path / "m" / first).read_bytes())
    mistakes: list[tuple[Any, str]] = [
        ({**placed, "x": "../outside.safetensors"}, r"\.\./outside\.safetensors; an index may name"),
        ({**placed, "x": str(tmp_path / "outside.safetensors")}, "an index may name"),
        ({**placed, "x": "pytorch_model.bin"}, "an index may name"),
        ({**placed, "x": "absent.safetensors"}, "names 1 files that are not there: absent.safetensors"),
        ({**placed, "x": first}, rf"names 1 tensors that are not in their files: x \({first}\)"),
        ({}, "weight_map must say"),
        ({"x": 3}, "weight_map must say"),
    ]
    for content, text in mistakes:
        index.write_text(json.dumps({"weight_map": content}))
        with pytest.raises(ValueError, match=text):
            from_pretrained(tmp_path / "m")
    index.write_text("{")
    with pytest.raises(ValueError, match=r"index\.json is damaged"):
        from_pretrained(tmp_path / "m")


def test_pickled_weights_are_named_and_not_opened(tmp_path: Path) -> None:
    save_pretrained(random_model().float(), tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"other weight formats are not read\. pytorch_model\.bin: .*pickled"):
        from_pretrained(tmp_path)


def test_unaligned_tensors_begin_a_new_file(tmp_path: Path) -> None:
    shapes = {"odd": (3,), "wide": (2,)}
    with ShardWriter(tmp_path, shapes, 10**9) as writer:
        writer.add("odd", torch.bfloat16, (3,), tensor_pieces(torch.ones(3), torch.bfloat16))
        writer.add("wide", torch.float32, (2,), tensor_pieces(torch.arange(2.0)))
    files = sorted(tmp_path.glob("*.safetensors"))
    assert [path.name for path in files] == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert torch.equal(load_file(files[1])["wide"], torch.arange(2.0))


@pytest.mark.parametrize(
    ("text", "size"), [("4GB", 4 * 10**9), ("1.5 GiB", 3 * 2**29), ("200kb", 200_000), ("7B", 7), (12, 12)]
)
def test_sizes_of_shards(text: str | int, size: int) -> None:
    assert size_in_bytes(text) == size


@pytest.mark.parametrize("text", ["4", "GB", "four GB", "-1GB", "4 GBit", "4iB"])
def test_texts_that_are_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="max_shard_size is"):
        size_in_bytes(text)


@pytest.mark.parametrize(
    "values",
    [
        {"min_pixels": 784, "max_pixels": 100_352, "image_processor_type": "Qwen2VLImageProcessor"},
        {"size": {"min_pixels": 784, "max_pixels": 100_352}},
        {"size": {"shortest_edge": 784, "longest_edge": 100_352}, "image_processor_type": "Qwen2VLImageProcessorFast"},
        {"min_pixels": 784, "max_pixels": 100_352, "size": {"shortest_edge": 3136, "longest_edge": 12_845_056}},
    ],
)
def test_processing_of_a_qwen2_vl_directory(tmp_path: Path, values: dict[str, Any]) -> None:
    common = {"patch_size": 14, "temporal_patch_size": 2, "merge_size": 2, "rescale_factor": 0.00392156862745098}
    common |= {"image_mean": list(IMAGE_MEAN), "image_std": list(IMAGE_STD), "resample": 3, "do_resize": True}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**common, **values}))
    assert read_processing(tmp_path) == FrameProcessing(min_pixels=784, max_pixels=100_352)
    own = FrameProcessing(longest_edge=112)
    (tmp_path / "processing.json").write_text(json.dumps(own.to_dict()))
    assert read_processing(tmp_path) == own


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"do_resize": False}, "do_resize is False"),
        ({"resample": 2}, "resample is 2"),
        ({"rescale_factor": 1.0}, "rescale_factor is 1.0"),
        ({"image_mean": [0.5, 0.5, 0.5]}, "image_mean is .0.5, 0.5, 0.5."),
        ({"min_pixels": 10, "max_pixels": 5}, "greater than max_pixels"),
    ],
)
def test_processing_that_is_done_otherwise(tmp_path: Path, values: dict[str, Any], text: str) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=text):
        read_processing(tmp_path)


def test_config_that_is_no_json(tmp_path: Path) -> None:
    for content in ("{", "[]"):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ValueError, match=r"config\.json (is not|holds no) JSON"):
            read_config(tmp_path)


def test_config_of_the_published_default_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_vl"}))
    assert read_config(tmp_path).hidden_size == 3584
