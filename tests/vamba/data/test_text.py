"""Prompts and labels, and the tokenizer that ships with the package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vamba.assets.make_tiny_tokenizer import SPECIAL_TOKENS, write
from vamba.assets.paths import TINY_TOKENIZER
from vamba.data.text import IGNORE_LABEL, Tokenizer, encode_conversation, encode_prompt, load_tokenizer

QUESTION = (
    "What colour is the card with the circle?\nA. red\nB. green\nC. blue\nD. yellow\nAnswer with the option's letter."
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(TINY_TOKENIZER)


def conversation(*values: str, speakers: tuple[str, ...] = ("human", "gpt")) -> Any:
    turns = [SimpleNamespace(speaker=speakers[i % len(speakers)], value=value) for i, value in enumerate(values)]
    return SimpleNamespace(id="talk", turns=turns)


def decoded(tokenizer: Tokenizer, ids: list[int]) -> str:
    return tokenizer._backend.decode(ids, skip_special_tokens=False)


def test_labels_cover_the_assistants_turns_with_their_header(tokenizer: Tokenizer) -> None:
    encoded = encode_conversation(tokenizer, conversation("<video>\nQ1", "A1", "Q2", "A2"), media=True)
    scored = [int(label) for label in encoded.labels if label != IGNORE_LABEL]
    assert decoded(tokenizer, scored) == ("\n<|im_start|>assistant\nA1<|im_end|>\n<|im_start|>assistant\nA2<|im_end|>")
    same = encoded.labels == encoded.input_ids
    assert ((encoded.labels == IGNORE_LABEL) | same).all()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("<video>\nWhat?", "What?"),
        ("<image>\n<image>\nWhat?", "What?"),
        ("What?\n<video>", "What?"),
        ("First\n<video>\nthen?", "First\nthen?"),
        ("What?", "What?"),
    ],
)
def test_placeholders_become_one_marker(tokenizer: Tokenizer, value: str, text: str) -> None:
    assert f"user\n<|vision_start|><|vision_end|>{text}<|im_end|>" in decoded(
        tokenizer, encode_prompt(tokenizer, value, media=True)
    )
    assert f"user\n{text}<|im_end|>" in decoded(tokenizer, encode_prompt(tokenizer, value, media=False))


def test_prompt_is_the_start_of_the_conversation(tokenizer: Tokenizer) -> None:
    prompt = encode_prompt(tokenizer, QUESTION, media=True)
    whole = encode_conversation(tokenizer, conversation(QUESTION, "B"), media=True).input_ids.tolist()
    assert whole == [*prompt, *tokenizer.encode("B"), tokenizer.im_end_id]


@pytest.mark.parametrize("values", [(), ("Q",), ("Q", "A", "Q")])
def test_unpaired_turns_are_refused(tokenizer: Tokenizer, values: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="'talk': turns must alternate"):
        encode_conversation(tokenizer, conversation(*values), media=True)


def test_turns_in_the_wrong_order_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match=r"\['gpt', 'human'\]"):
        encode_conversation(tokenizer, conversation("A", "Q", speakers=("gpt", "human")), media=True)


def test_round_trip_of_any_text(tokenizer: Tokenizer) -> None:
    text = "Grüße, 世界! 12:30 🎬\n\ttabs"
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("letter", "ABCDE")
def test_option_letters_are_one_token(tokenizer: Tokenizer, letter: str) -> None:
    assert len(tokenizer.encode(letter)) == 1
    assert tokenizer.encode(f"assistant\n{letter}<|im_end|>")[-2:] == [*tokenizer.encode(letter), tokenizer.im_end_id]


def test_questions_are_short(tokenizer: Tokenizer) -> None:
    assert len(encode_prompt(tokenizer, QUESTION, media=True)) < 60


def test_the_script_makes_the_shipped_tokenizer(tmp_path: Path) -> None:
    write(tmp_path)
    for path in TINY_TOKENIZER.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_transformers_reads_it_alike(tokenizer: Tokenizer) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(TINY_TOKENIZER)
    prompt = f"<|im_start|>user\n<|vision_start|><|vision_end|>{QUESTION}<|im_end|>"
    assert theirs(prompt)["input_ids"] == tokenizer.encode(prompt)
    assert theirs.eos_token_id == tokenizer.im_end_id
    assert theirs.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [tokenizer.token_id(t) for t in SPECIAL_TOKENS]


def test_missing_and_broken_directories_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="not a tokenizer"):
        load_tokenizer(tmp_path)


def test_foreign_vocabulary_is_refused(tmp_path: Path) -> None:
    content = json.loads((TINY_TOKENIZER / "tokenizer.json").read_text())
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] != "<|im_end|>"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="Qwen2-VL vocabulary"):
        load_tokenizer(tmp_path)


def test_reading_text_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from vamba.assets.paths import TINY_TOKENIZER; from vamba.data.text import load_tokenizer; "
        "load_tokenizer(TINY_TOKENIZER); import vamba.data.frames; "
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
