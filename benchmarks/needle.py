"""A film whose first frame holds the answer and whose last frames alone are read: only the mixers' states join them.

    frame 0: one of four colours ── other frames ── last frames: a sign that the question may be answered
    the question reads the last `READ_TOKENS` video tokens and nothing before them

So the colour has to be written into the states when it is seen, and at the start it isn't: in the video tokens colours
have features of their own, and the mixer's first projection begins with zeros for these. What fills them is the
gradient that comes back from the end of the film to the first frame, through every bound between chunks on the way.
Without it (`Detached`) only tokens of the last chunk train the projection. They have nothing in these features, so the
zeros stay, and whatever else is learned, no state ever holds a colour.

One video token is one frame pair of 4x4 pixels. The tower and the text side are frozen: the mixer and the head learn.
Weights of the mixer's first projection are drawn so large that at this small width its values are of the size that they
have in the 7B model; without, the states hardly differ from film to film.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from vamba.data.batch import Batch, EncodedSample, collate
from vamba.data.plan import PlanState
from vamba.data.reader import MicroBatch, StepInput
from vamba.data.text import IGNORE_LABEL, EncodedText
from vamba.model.config import MixerConfig, ModelConfig, VisionConfig
from vamba.model.init import init_weights_
from vamba.model.mixer import MixerState
from vamba.model.vamba import Vamba
from vamba.ops.attention.layout import cross_layout
from vamba.streaming.chunks import Chunk
from vamba.streaming.spread import Here
from vamba.streaming.training import StreamingPlan
from vamba.streaming.walk import Carry, LocalCarry
from vamba.train.config import GuardConfig, OptimizerConfig, TrainConfig
from vamba.train.state import TrainState
from vamba.train.step import train_step
from vamba.train.trainable import select_trainable

ANSWERS = 4
FILM_TOKENS = 132
READ_TOKENS = 4
_QUESTION, _FIRST_ANSWER = 1, 4
_WIDTH = 32
_IN_PROJ_STD = 3 / _WIDTH**0.5
_OTHERS = 8
"""Kinds of frames between the first and the last ones."""
_VARIETY = 0.2
"""How far their tokens differ from one another, of what they have in common."""
_TRAINED = (r"model\.layers\.0\.vision_mixer\..*", r"lm_head\..*")

CONFIG = ModelConfig(
    vocab_size=16,
    hidden_size=_WIDTH,
    intermediate_size=2 * _WIDTH,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    mrope_section=(2, 2, 4),
    initializer_range=_WIDTH**-0.5,
    vision=VisionConfig(depth=1, embed_dim=16, num_heads=2, hidden_size=_WIDTH, patch_size=2),
    mixer=MixerConfig(
        enable=True,
        hidden_dim=_WIDTH,
        d_state=16,
        headdim=4,
        chunk_size=READ_TOKENS,
        dt_min=1e-3,
        dt_max=1e-3,
    ),
)


_PIXELS = np.random.default_rng(99).standard_normal((ANSWERS + _OTHERS + 1, 4, 24)).astype(np.float32)
"""Four patches of each kind of frame, the same in every film: the colours, the others, the sign."""
_SIGN = len(_PIXELS) - 1


def films(rng: np.random.Generator, count: int) -> tuple[Batch, torch.Tensor]:
    """(packed films with a question each, the tokens that answer them); every answer is equally frequent."""
    samples, answers = [], []
    for number in range(count):
        colour = number % ANSWERS
        kinds = ANSWERS + rng.integers(_OTHERS, size=FILM_TOKENS)
        kinds[0] = colour
        kinds[-READ_TOKENS:] = _SIGN
        answer = _FIRST_ANSWER + colour
        # Who reads the beginning of the film is asked nothing.
        before = EncodedText(input_ids=np.array([0]), labels=np.array([IGNORE_LABEL]))
        asked = EncodedText(input_ids=np.array([_QUESTION, answer]), labels=np.array([IGNORE_LABEL, answer]))
        samples.append(_film(str(number), kinds, before, asked))
        answers.append(answer)
    cross = cross_layout([1, 2] * count, [FILM_TOKENS - READ_TOKENS, READ_TOKENS] * count)
    return replace(collate(samples), cross=cross), torch.tensor(answers)


def _film(name: str, kinds: np.ndarray, *texts: EncodedText) -> EncodedSample:
    return EncodedSample(id=name, patches=_PIXELS[kinds].reshape(-1, 24), grid_thws=((len(kinds), 2, 2),), texts=texts)


def _set_tokens_(model: Vamba, seed: int) -> None:
    """Sets the tower's last projection so that each kind of frame becomes its token.

    A token has colours in its first `ANSWERS` features: of those of the colours one is set, of the others' none.
    """
    generator = torch.Generator().manual_seed(seed)
    tokens_KD = torch.randn(len(_PIXELS), _WIDTH, generator=generator, dtype=torch.float64)
    tokens_KD[:ANSWERS] = tokens_KD[0]
    tokens_KD[ANSWERS:_SIGN] = tokens_KD[ANSWERS] + _VARIETY * tokens_KD[ANSWERS:_SIGN]
    tokens_KD[:, :ANSWERS] = 0
    tokens_KD /= tokens_KD.square().mean(1, keepdim=True).sqrt()
    tokens_KD[:ANSWERS, :ANSWERS] = _WIDTH**0.5 * torch.eye(ANSWERS, dtype=torch.float64)

    text = EncodedText(input_ids=np.array([0]), labels=np.array([IGNORE_LABEL]))
    batch = collate([_film("kinds", np.arange(len(_PIXELS)), text)])
    assert batch.video is not None and batch.patches_PC is not None
    merger = model.visual.merger
    features = model.visual.features(batch.patches_PC.double(), batch.video.tower)
    *before, last = merger.mlp
    assert isinstance(last, nn.Linear)
    inner_KE = nn.Sequential(*before)(merger.ln_q(features).view(-1, merger.width))
    last.weight.copy_((torch.linalg.pinv(inner_KE) @ tokens_KD).T)
    last.bias.zero_()


class Detached(Here):
    """Streams like `Here`, but states go from chunk to chunk without their gradients coming back."""

    def carry(self, model: Any, chunks: Sequence[Chunk], *, backward: bool) -> Carry:
        return _Nothing() if backward else super().carry(model, chunks, backward=backward)


class _Nothing(LocalCarry):
    def take(self, chunk: int, layer: int) -> MixerState:
        state = super().take(chunk, layer)
        return MixerState(conv_BCW=torch.zeros_like(state.conv_BCW), ssm_BHPN=torch.zeros_like(state.ssm_BHPN))


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """chunk_tokens: of a chunk of the stream. detached: no gradients between chunks. num_steps: where the schedule ends."""  # noqa: E501

    chunk_tokens: int
    detached: bool = False
    seed: int = 0
    num_steps: int = 100
    films_per_step: int = 4
    learning_rate: float = 3e-2

    @property
    def bounds(self) -> int:
        """Bounds between chunks that lie between the colour and what is read."""
        return (FILM_TOKENS - READ_TOKENS) // self.chunk_tokens


def learn(lesson: Lesson, *, every: int = 10, num_tests: int = 128) -> Iterator[tuple[int, float]]:
    """(step, share of films it has not seen that are answered correctly), from before the first step on."""
    state = _state(lesson)
    rng = np.random.default_rng(lesson.seed)
    unseen, answers = films(np.random.default_rng(1_000_000), num_tests)
    for step in range(lesson.num_steps + 1):
        if step % every == 0:
            with torch.no_grad():
                found = state.model.logits(unseen)[unseen.loss_positions_N].argmax(-1)
            yield step, (found == answers).double().mean().item()
        if step < lesson.num_steps:
            batch, _ = films(rng, lesson.films_per_step)
            micro = MicroBatch(batch=batch, pack_index=step, counts=True)
            result = train_step(state, StepInput(micro_batches=(micro,), sample_ids=("",), epoch=0, media="video"))
            assert result.num_streamed_packs == 1
            state.advance(replace(state.reader_state, step=step + 1))


def _state(lesson: Lesson) -> TrainState:
    model = Vamba(CONFIG)
    init_weights_(model, lesson.seed)
    model.double()
    with torch.no_grad():
        _set_tokens_(model, lesson.seed)
        for layer in model.model.hybrid_layers:
            assert layer.vision_mixer is not None
            weight = layer.vision_mixer.mixer.in_proj.weight
            weight.mul_(_IN_PROJ_STD / weight.std())
            weight[:, :ANSWERS] = 0
    select_trainable(model, _TRAINED)
    config = TrainConfig(
        optimizer=OptimizerConfig(
            learning_rate=lesson.learning_rate,
            min_learning_rate_ratio=0.3,
            warmup_ratio=0.15,
            weight_decay=0.0,
            betas=(0.9, 0.95),
            eps=1e-12,  # less than gradients through gates that are all but closed, more than what rounding leaves
        ),
        guard=GuardConfig(enabled=False),
    )
    spread = Detached() if lesson.detached else Here()
    return TrainState(
        model,
        config,
        num_steps=lesson.num_steps,
        reader_state=PlanState(step=0, epoch=0, epoch_step=0, seed=lesson.seed, fingerprint=""),
        streaming=StreamingPlan(above_tokens=0, chunk_tokens=lesson.chunk_tokens, spread=spread),
    )
