"""Pixels, sizes, frame indices, token counts, prompts and labels against the published processor's."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.golden.case import ROOT, load_case
from vamba.assets.paths import TINY_TOKENIZER
from vamba.data.frames import (
    FrameProcessing,
    bound_edges,
    frames_to_patches,
    num_frame_pairs,
    num_video_tokens,
    output_size,
    patchify,
    stack_frames,
)
from vamba.data.normalise import IMAGE_MEAN, IMAGE_STD, normalise_patches
from vamba.data.resize import resize_torch
from vamba.data.sampling import auto_num_frames, fps_centered_indices, middle_indices, uniform_indices
from vamba.data.text import ASSISTANT_HEADER, IGNORE_LABEL, encode_conversation, encode_prompt, load_tokenizer

TABLES: dict[str, Any] = json.loads((ROOT / "K_tables" / "tables.json").read_text())
IMAGES = load_case("I_image_processor")


def processing_of(name: str) -> FrameProcessing:
    """A case is made with the default settings, or with the `max_pixels` that its name ends in."""
    limit = re.search(r"_max(\d+)$", name)
    return FrameProcessing(max_pixels=int(limit[1])) if limit else FrameProcessing()


def frames_of(name: str) -> np.ndarray:
    pixels = IMAGES.inputs[name].numpy()
    return pixels if pixels.ndim == 4 else pixels[None]


@pytest.mark.parametrize("name", sorted(IMAGES.inputs))
def test_patches(name: str) -> None:
    patches, grid = patchify(frames_of(name), processing_of(name))
    assert list(grid) == IMAGES.outputs[f"{name}.grid_thw"][0].tolist()
    np.testing.assert_allclose(patches, IMAGES.outputs[f"{name}.pixel_values"].numpy(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", sorted(IMAGES.inputs))
def test_patches_as_a_device_makes_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """uint8 until the tower, resized by integer sums: what happens on a GPU, here on tensors of the CPU."""
    monkeypatch.setattr("vamba.data.resize.resize", resize_torch)
    patches, grid = frames_to_patches(torch.from_numpy(frames_of(name)), processing_of(name))
    assert list(grid) == IMAGES.outputs[f"{name}.grid_thw"][0].tolist()
    assert patches.dtype == torch.uint8
    expected = IMAGES.outputs[f"{name}.pixel_values"]
    torch.testing.assert_close(normalise_patches(patches), expected, atol=1e-5, rtol=0)


def test_normalisation_is_the_processors() -> None:
    settings = IMAGES.notes["image_processor"]
    assert settings["image_mean"] == list(IMAGE_MEAN)
    assert settings["image_std"] == list(IMAGE_STD)
    cfg = FrameProcessing()
    names = ("min_pixels", "max_pixels", "patch_size", "temporal_patch_size", "merge_size")
    assert {name: settings[name] for name in names} == {name: getattr(cfg, name) for name in names}


@pytest.mark.parametrize("row", TABLES["resize_output"], ids=str)
def test_edge_bounds(row: dict[str, Any]) -> None:
    cfg = FrameProcessing(shortest_edge=row["short"], longest_edge=row["long"])
    assert bound_edges(row["w"], row["h"], cfg) == (row["out"][1], row["out"][0])


@pytest.mark.parametrize("row", TABLES["smart_resize"], ids=str)
def test_rounding_to_cells(row: dict[str, Any]) -> None:
    assert output_size(row["w"], row["h"], FrameProcessing()) == (row["out"][1], row["out"][0])


@pytest.mark.parametrize("size", sorted(TABLES["smart_resize_errors"]))
def test_sizes_that_are_refused(size: str) -> None:
    height, width = map(int, size.split("x"))
    rule = "aspect ratio above 200" if min(height, width) >= 28 else "side below 28"
    for call in (
        lambda: output_size(width, height, FrameProcessing()),
        lambda: num_video_tokens(2, width, height, FrameProcessing()),
        lambda: frames_to_patches(np.zeros((2, height, width, 3), np.uint8), FrameProcessing()),
    ):
        with pytest.raises(ValueError, match=rf"{width}x{height} pixels .*{rule}.*raise frames\.shortest_edge"):
            call()


def test_mixed_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"frame 1 is 90x80 pixels, the first is 90x60"):
        stack_frames([np.zeros((60, 90, 3), np.uint8), np.zeros((80, 90, 3), np.uint8)])


def test_a_single_frame_is_shown_twice() -> None:
    """The published processor fails on a video of one frame; an image it shows twice."""
    frame = frames_of("video_5x60x90")[:1]
    patches, grid = patchify(frame, FrameProcessing())
    twice, grid_of_two = patchify(np.repeat(frame, 2, axis=0), FrameProcessing())
    assert grid == grid_of_two == (1, 4, 6)
    np.testing.assert_array_equal(patches, twice)


@pytest.mark.parametrize("row", TABLES["token_counts"], ids=lambda row: f"{row['w']}x{row['h']}-{row['long']}")
def test_token_counts(row: dict[str, Any]) -> None:
    cfg = FrameProcessing(shortest_edge=row["short"], longest_edge=row["long"])
    width, height = output_size(row["w"], row["h"], cfg)
    assert list(bound_edges(row["w"], row["h"], cfg)) == row["pil"][::-1]
    assert [height, width] == row["resized"]
    assert (height // 14) * (width // 14) == row["patches_per_pair"]
    assert num_video_tokens(2, row["w"], row["h"], cfg) == row["tokens_per_pair"]
    for frames, tokens in row["tokens"].items():
        assert num_video_tokens(int(frames), row["w"], row["h"], cfg) == tokens


def test_an_hour_at_one_frame_per_second() -> None:
    assert num_video_tokens(3600, 640, 360, FrameProcessing()) == 538_200
    assert [num_frame_pairs(frames, FrameProcessing()) for frames in (1, 2, 3, 1025)] == [1, 1, 1, 512]


@pytest.mark.parametrize("row", TABLES["frame_indices_middle"], ids=lambda row: f"{row['num']}-of-{row['vlen']}")
def test_frames_by_middle(row: dict[str, Any]) -> None:
    assert middle_indices(row["num"], row["vlen"]) == row["idx"]


@pytest.mark.parametrize("row", TABLES["frame_indices_fps"], ids=lambda row: f"{row['rule']}-of-{row['vlen']}")
def test_frames_by_rate(row: dict[str, Any]) -> None:
    most = None if row["max"] == -1 else row["max"]
    assert fps_centered_indices(float(row["rule"].removeprefix("fps")), row["vlen"], row["fps"], most) == row["idx"]


@pytest.mark.parametrize("row", TABLES["eval_uniform_indices"], ids=lambda row: f"{row['num']}-of-{row['vlen']}")
def test_frames_of_evaluation(row: dict[str, Any]) -> None:
    assert uniform_indices(row["num"], row["vlen"]) == row["idx"]


@pytest.mark.parametrize("row", TABLES["auto_frames_training"], ids=lambda row: f"{row['w']}x{row['h']}")
def test_frames_by_budget(row: dict[str, Any]) -> None:
    cfg = FrameProcessing(shortest_edge=128, longest_edge=1280)  # those of the published training
    width, height = bound_edges(row["w"], row["h"], cfg)
    assert auto_num_frames(row["max_img_seq_len"], height, width) == row["frames"]
    assert num_video_tokens(row["frames"], row["w"], row["h"], cfg) == row["llm_video_tokens"]


def test_prompt() -> None:
    tokenizer = load_tokenizer(TINY_TOKENIZER)
    prompt = encode_prompt(tokenizer, "Describe the magic trick.", media=True)
    assert prompt == tokenizer.encode(TABLES["chat_prompt"])


def test_conversation_and_its_labels() -> None:
    tokenizer = load_tokenizer(TINY_TOKENIZER)
    turns = [("human", "<video>\nQ1"), ("gpt", "A1"), ("human", "Q2"), ("gpt", "A2")]
    conversation = SimpleNamespace(id="c", turns=[SimpleNamespace(speaker=s, value=v) for s, v in turns])
    encoded = encode_conversation(tokenizer, conversation, media=True)  # type: ignore[arg-type]
    assert encoded.input_ids.tolist() == tokenizer.encode(TABLES["train_prompt_two_turns"])

    answers = [tokenizer.encode(f"{ASSISTANT_HEADER}{answer}<|im_end|>") for answer in ("A1", "A2")]
    kept = encoded.labels != IGNORE_LABEL
    np.testing.assert_array_equal(encoded.labels[kept], encoded.input_ids[kept])
    assert encoded.labels[kept].tolist() == answers[0] + answers[1]
    ends = np.flatnonzero(encoded.input_ids == tokenizer.im_end_id)
    assert len(ends) == 5  # system, then twice a user and the assistant
    assert [bool(kept[end]) for end in ends] == [False, False, True, False, True]
    assert all(kept[ends[1] + 1 : ends[2] + 1])
    assert all(kept[ends[3] + 1 : ends[4] + 1])
    assert not any(kept[ends[2] + 1 : ends[3] + 1])
    assert ends[4] == len(kept) - 1
