"""Pixels, sizes, token counts, prompts and labels against the published processor's."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.golden.case import ROOT, load_case
from vamba.assets.paths import TINY_TOKENIZER
from vamba.data.frames import FrameProcessing, num_video_tokens, output_size, patchify
from vamba.data.text import encode_conversation, encode_prompt, load_tokenizer

TABLES: dict[str, Any] = json.loads((ROOT / "K_tables" / "tables.json").read_text())
IMAGES = load_case("I_image_processor")


@pytest.mark.parametrize("name", sorted(IMAGES.inputs))
def test_patches(name: str) -> None:
    pixels = IMAGES.inputs[name].numpy()
    cfg = FrameProcessing(max_pixels=10_000) if name.endswith("max10000") else FrameProcessing()
    patches, grid = patchify(pixels if pixels.ndim == 4 else pixels[None], cfg)
    assert list(grid) == IMAGES.outputs[f"{name}.grid_thw"][0].tolist()
    np.testing.assert_allclose(patches, IMAGES.outputs[f"{name}.pixel_values"].numpy(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("row", TABLES["resize_output"], ids=str)
def test_edge_bounds(row: dict[str, Any]) -> None:
    from vamba.data.frames import _bound_edges

    cfg = FrameProcessing(shortest_edge=row["short"], longest_edge=row["long"])
    assert _bound_edges(row["w"], row["h"], cfg) == (row["out"][1], row["out"][0])


@pytest.mark.parametrize("row", TABLES["smart_resize"], ids=str)
def test_rounding_to_cells(row: dict[str, Any]) -> None:
    assert output_size(row["w"], row["h"], FrameProcessing()) == (row["out"][1], row["out"][0])


@pytest.mark.parametrize(("size", "text"), [("27x100", "below 28"), ("28x5700", "aspect")])
def test_sizes_that_are_refused(size: str, text: str) -> None:
    assert size in TABLES["smart_resize_errors"]
    height, width = map(int, size.split("x"))
    with pytest.raises(ValueError, match=text):
        output_size(width, height, FrameProcessing())


@pytest.mark.parametrize("row", TABLES["token_counts"], ids=lambda row: f"{row['w']}x{row['h']}-{row['long']}")
def test_token_counts(row: dict[str, Any]) -> None:
    cfg = FrameProcessing(shortest_edge=row["short"], longest_edge=row["long"])
    for frames, tokens in row["tokens"].items():
        assert num_video_tokens(int(frames), row["w"], row["h"], cfg) == tokens


def test_prompts() -> None:
    tokenizer = load_tokenizer(TINY_TOKENIZER)
    prompt = encode_prompt(tokenizer, "Describe the magic trick.", media=True)
    assert prompt == tokenizer.encode(TABLES["chat_prompt"])
    turns = [("human", "<video>\nQ1"), ("gpt", "A1"), ("human", "Q2"), ("gpt", "A2")]
    conversation = SimpleNamespace(id="c", turns=[SimpleNamespace(speaker=s, value=v) for s, v in turns])
    encoded = encode_conversation(tokenizer, conversation, media=True)  # type: ignore[arg-type]
    assert encoded.input_ids.tolist() == tokenizer.encode(TABLES["train_prompt_two_turns"])
