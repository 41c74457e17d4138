"""Makes the tiny model's tokenizer: byte-level BPE in Qwen2's manner, 512 ids, trained on a corpus written out below.

    python -m vamba.assets.make_tiny_tokenizer [DIRECTORY]

Same normalisation, pre-tokenisation and special tokens as Qwen2-VL's, so that code for one works with the other.
The corpus is a pure function of this file and the trainer has no randomness: the same bytes come out every time.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from vamba.assets.paths import TINY_TOKENIZER

if TYPE_CHECKING:
    import tokenizers

VOCAB_SIZE = 512
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_COLOURS = ("red", "green", "blue", "yellow", "black", "white", "orange", "purple", "pink", "brown", "cyan", "grey")
_SHAPES = ("circle", "square", "triangle", "cross", "star", "diamond", "ring", "bars", "heart", "arrow")
_QUESTIONS = (
    "What colour is the card with the {shape}?",
    "What color is the card with the {shape} in the video?",
    "Which shape is on the {colour} card?",
    "What shape is shown on the {colour} card?",
    "How many cards with a {shape} are there in the video?",
    "Is the card with the {shape} {colour}?",
    "Which card is shown first, and which card is shown last?",
    "What happens before the {colour} card is shown?",
    "What happens after the card with the {shape}?",
    "At which minute of the video does the {colour} {shape} appear, and for how many seconds?",
    "Describe the scene between the first {shape} and the second {shape}.",
)
_INSTRUCTIONS = (
    "Answer with the option's letter.",
    "Answer with the option's letter from the given choices directly.",
    "Respond with only the letter (A, B, C, or D) of the correct option.",
    "Respond with only the letter (A, B, C, D, or E) of the correct option.",
    "Select the best answer to the following multiple-choice question based on the video.",
)


def corpus() -> Iterator[str]:
    """Short multiple-choice questions about coloured cards, in the words the tiny recipes use."""
    for index, (colour, shape) in enumerate(product(_COLOURS, _SHAPES)):
        question = _QUESTIONS[index % len(_QUESTIONS)].format(colour=colour, shape=shape)
        options = [(_COLOURS if index % 2 else _SHAPES)[(index + step) % 10] for step in range(5)]
        lines = "\n".join(f"{letter}. {option}" for letter, option in zip("ABCDE", options, strict=True))
        yield f"{question}\n{lines}\n{_INSTRUCTIONS[index % len(_INSTRUCTIONS)]}"
        yield f"A {colour} {shape} on a card. The answer is {'ABCDE'[index % 5]}. The colour is {colour}."
    for _ in range(20):
        yield "system\nYou are a helpful assistant."
        yield "user\n"
        yield "assistant\n"


def build() -> tokenizers.Tokenizer:
    """Train the tokenizer; special tokens take the highest ids, as in Qwen2."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN2_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    if tokenizer.get_vocab_size() != VOCAB_SIZE:
        raise ValueError(f"the corpus gives {tokenizer.get_vocab_size()} ids, not {VOCAB_SIZE}; enlarge it")
    return tokenizer


def write(directory: Path) -> None:
    """Write tokenizer.json and the config that transformers' AutoTokenizer asks for."""
    directory.mkdir(parents=True, exist_ok=True)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "additional_special_tokens": list(SPECIAL_TOKENS),
        "clean_up_tokenization_spaces": False,
        "model_max_length": 32768,
    }
    (directory / "tokenizer.json").write_text(build().to_str(pretty=True) + "\n", encoding="utf-8")
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else TINY_TOKENIZER)
