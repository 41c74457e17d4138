"""Text in, token ids and labels out.

A tokenizer is a directory with a `tokenizer.json`; it is read with the `tokenizers` library alone, because importing
transformers costs seconds in every process. A conversation becomes the model's prompt format (Vamba section 4, Qwen2-VL's
chat template without pad tokens between the vision markers):

    <|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n<|im_start|>user\\n<|vision_start|><|vision_end|>{question}<|im_end|>\\n<|im_start|>assistant\\n{answer}<|im_end|>

The video itself never occupies text positions: it reaches the text by cross-attention.
"""  # noqa: E501  (the prompt is one line)

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import tokenizers

    from vamba.data.sample import Conversation

IGNORE_LABEL = -100
SYSTEM_PROMPT = "You are a helpful assistant."
VISION_MARKERS = "<|vision_start|><|vision_end|>"
ASSISTANT_HEADER = "\n<|im_start|>assistant\n"

_PLACEHOLDER = re.compile(r"<(?:video|image)>\n?|\n<(?:video|image)>$")


class Tokenizer:
    """A byte-level BPE tokenizer read from a directory.

    `digest` ("sha256:…" over tokenizer.json) identifies it: two processes with the same digest produce the same ids.
    """

    def __init__(self, backend: tokenizers.Tokenizer, directory: Path, digest: str) -> None:
        self._backend = backend
        self.directory = directory
        self.digest = digest
        self.vocab_size = backend.get_vocab_size(with_added_tokens=True)
        self.im_start_id = self.token_id("<|im_start|>")
        self.im_end_id = self.token_id("<|im_end|>")
        self.endoftext_id = self.token_id("<|endoftext|>")
        self.vision_start_id = self.token_id("<|vision_start|>")
        self.vision_end_id = self.token_id("<|vision_end|>")

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Ids that end an answer."""
        return (self.im_end_id, self.endoftext_id)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; special tokens written in it are recognised, none is added."""
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, without special tokens."""
        return str(self._backend.decode(list(ids), skip_special_tokens=True))

    def token_id(self, token: str) -> int:
        """The id of one token by name; ValueError when the vocabulary lacks it."""
        found = self._backend.token_to_id(token)
        if found is None:
            raise ValueError(
                f"tokenizer {self.directory}: the vocabulary has no token {token!r}; a Qwen2-VL vocabulary is needed"
            )
        return int(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherLogits:
    """A teacher's k largest logits at each labelled token of a conversation, in order."""

    token_ids: np.ndarray
    """int64[labelled tokens, k]"""
    logits: np.ndarray
    """float[labelled tokens, k]"""

    def __post_init__(self) -> None:
        if self.token_ids.ndim != 2 or self.token_ids.shape != self.logits.shape:
            raise ValueError(
                f"teacher token ids have shape {self.token_ids.shape} and logits {self.logits.shape}; "
                "both must be (labelled tokens, k)"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedText:
    """One conversation as the model reads it."""

    input_ids: np.ndarray
    """int64[T] token ids."""
    labels: np.ndarray
    """int64[T]; -100 where no loss is taken. Not shifted: labels[t] == input_ids[t] where it counts."""
    teacher: TeacherLogits | None = None
    """For distillation: one row per labelled token."""

    def __post_init__(self) -> None:
        rows = None if self.teacher is None else len(self.teacher.token_ids)
        labelled = int((self.labels != IGNORE_LABEL).sum())
        if rows not in (None, labelled):
            raise ValueError(f"the teacher has {rows} rows, but the conversation has {labelled} labelled tokens")


def load_tokenizer(directory: str | Path) -> Tokenizer:
    """Read `tokenizer.json` of a directory; ValueError where there is none or it can't be read."""
    import tokenizers

    path = Path(directory) / "tokenizer.json"
    if not path.is_file():
        raise ValueError(f"tokenizer directory {str(directory)!r} holds no tokenizer.json; name a directory that does")
    content = path.read_bytes()
    try:
        backend = tokenizers.Tokenizer.from_str(content.decode("utf-8"))
    except Exception as error:
        raise ValueError(f"{path} is not a tokenizer the `tokenizers` library reads: {error}") from error
    return Tokenizer(backend, Path(directory), "sha256:" + hashlib.sha256(content).hexdigest())


def encode_conversation(tokenizer: Tokenizer, conversation: Conversation, *, media: bool) -> EncodedText:
    """Token ids and labels of a whole conversation.

    With `media`, the vision markers open the first human turn, once, however many `<video>` or `<image>` placeholders
    the turn holds; placeholders themselves are removed. Loss is taken on everything after each user's `<|im_end|>` up
    to and including the assistant's, hence on the assistant header too, as the published model was trained.
    Raises ValueError when turns do not alternate human, gpt, …, ending with gpt.
    """
    turns = conversation.turns
    if not turns or len(turns) % 2 or any(t.speaker != ("human", "gpt")[i % 2] for i, t in enumerate(turns)):
        order = [t.speaker for t in turns]
        raise ValueError(f"conversation {conversation.id!r}: turns must alternate human, gpt; found {order}")
    ids: list[int] = []
    labels: list[int] = []
    for index in range(0, len(turns), 2):
        question = tokenizer.encode(_question(turns[index].value, first=index == 0, media=media))
        answer = tokenizer.encode(f"{ASSISTANT_HEADER}{turns[index + 1].value}<|im_end|>")
        ids += question + answer
        labels += [IGNORE_LABEL] * len(question) + answer
    return EncodedText(input_ids=np.asarray(ids, np.int64), labels=np.asarray(labels, np.int64))


def encode_prompt(tokenizer: Tokenizer, question: str, *, media: bool) -> list[int]:
    """Token ids of a single question, ready for the answer: they end with the assistant header."""
    return tokenizer.encode(_question(question, first=True, media=media) + ASSISTANT_HEADER)


def _question(value: str, *, first: bool, media: bool) -> str:
    text = _PLACEHOLDER.sub("", value)
    if not first:
        return f"\n<|im_start|>user\n{text}<|im_end|>"
    marker = VISION_MARKERS if media else ""
    return f"<|im_start|>system\n{SYSTEM_PROMPT}<|im_end|>\n<|im_start|>user\n{marker}{text}<|im_end|>"
