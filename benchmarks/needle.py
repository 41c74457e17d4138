"""A film whose first frame holds the answer and whose last frames alone are read: only the mixers' states join them.

    frame 0: one of four colours, marked ── empty frames ── last frames: a sign that the question may be answered
    the question reads the last `READ_TOKENS` video tokens and nothing before them

So the colour has to be written into the states when it is seen, kept over the empty frames and read at the end. The gates
that write (`dt`) start at the least that Mamba-2 starts from, for every frame nearly alike, so what is written of one
frame is far below the noise of the others. What opens them for the marked frame alone is the gradient that comes back
from the end of the film, through every bound between chunks on the way. Without it (`Detached`) the last chunk learns as
before, and nothing tells the first one what to write.

One video token is one frame pair of 4x4 pixels. The text side is frozen as it was drawn: the mixer and the head learn.
Weights of the mixer's first projection are drawn so large that at this small width its values are of the size that they
have in the 7B model; without, the states hardly differ from film to film. Those that make the gates are a third as large:
otherwise some draws open one for the marked frame by themselves, and then detached states teach the rest.
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

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
_GATES_STD = 1 / _WIDTH**0.5
_NOISE = 0.1
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


class _Frames:
    """(4 patches, 24 values) of each kind of frame; the same in every film."""

    def __init__(self) -> None:
        rng = np.random.default_rng(99)
        self.colours = rng.standard_normal((ANSWERS, 4, 24))
        self.mark, self.sign, self.empty = rng.standard_normal((3, 4, 24))


_FRAMES = _Frames()


def films(rng: np.random.Generator, count: int) -> tuple[Batch, torch.Tensor]:
    """(packed films with a question each, the tokens that answer them); every answer is equally frequent."""
    samples, answers = [], []
    for number in range(count):
        colour = number % ANSWERS
        frames = np.tile(_FRAMES.empty, (FILM_TOKENS, 1, 1))
        frames[0] = _FRAMES.colours[colour] + _FRAMES.mark
        frames[-READ_TOKENS:] = _FRAMES.sign
        frames += _NOISE * rng.standard_normal(frames.shape)
        answer = _FIRST_ANSWER + colour
        # Who reads the beginning of the film is asked nothing.
        before = EncodedText(input_ids=np.array([0]), labels=np.array([IGNORE_LABEL]))
        asked = EncodedText(input_ids=np.array([_QUESTION, answer]), labels=np.array([IGNORE_LABEL, answer]))
        patches = frames.astype(np.float32).reshape(-1, 24)
        grid = (FILM_TOKENS, 2, 2)
        samples.append(EncodedSample(id=str(number), patches=patches, grid_thws=(grid,), texts=(before, asked)))
        answers.append(answer)
    cross = cross_layout([1, 2] * count, [FILM_TOKENS - READ_TOKENS, READ_TOKENS] * count)
    return replace(collate(samples), cross=cross), torch.tensor(answers)


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
    num_steps: int = 200
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
    with torch.no_grad():
        for layer in model.model.hybrid_layers:
            assert layer.vision_mixer is not None
            mixer = layer.vision_mixer.mixer
            others, gates = mixer.in_proj.weight.tensor_split([-mixer.dt_bias.numel()])
            others.mul_(_IN_PROJ_STD / others.std())
            gates.mul_(_GATES_STD / gates.std())
    select_trainable(model, _TRAINED)
    config = TrainConfig(
        optimizer=OptimizerConfig(
            learning_rate=lesson.learning_rate,
            min_learning_rate_ratio=0.3,
            warmup_ratio=0.15,
            weight_decay=0.0,
            betas=(0.9, 0.95),
            eps=1e-20,  # gradients through gates that are all but closed are tiny
        ),
        guard=GuardConfig(enabled=False),
    )
    spread = Detached() if lesson.detached else Here()
    return TrainState(
        model.double(),
        config,
        num_steps=lesson.num_steps,
        reader_state=PlanState(step=0, epoch=0, epoch_step=0, seed=lesson.seed, fingerprint=""),
        streaming=StreamingPlan(above_tokens=0, chunk_tokens=lesson.chunk_tokens, spread=spread),
    )
