"""What `benchmarks.gpu.hour` measures: the 7B model on up to 8,192 frames of 640x360; and the same, tiny."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.gpu.inputs import SEVEN_B, TINY, Shapes
from vamba.data.frames import FrameProcessing, num_video_tokens
from vamba.model.config import MixerConfig, ModelConfig, VisionConfig
from vamba.model.presets import PRESETS

PROCESSING = FrameProcessing()


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Lengths are in frames and tokens. Chunks and blocks of two to the power of something: torch rounds pinned memory
    up to that."""

    model: ModelConfig
    shapes: Shapes
    """Of the checks of single kernels."""
    height: int
    width: int
    frames: tuple[int, int, int, int, int]
    """Measured: a short length, the base of memory, one that full attention is compared at, an hour, the longest."""
    chunk_tokens: int
    """Video tokens that go through the layers at once, and have a graph at once in a step on the longest video."""
    short_chunk_tokens: int
    """Video tokens that have a graph at once in all other steps: less memory on the GPU, more states on the host."""
    block_tokens: int
    """Video tokens of a part of what inference keeps."""
    warm_frames: tuple[int, ...]
    """Lengths that compile what the measured ones need: a last chunk of a multiple of 16 tokens, and one of none."""
    text_tokens: int
    loss_tokens: int
    """Of the text of a training step."""
    question_tokens: int
    answer_tokens: int
    num_questions: int
    exact_layers: int
    exact_blocks: int
    """Of the tower, where streamed is compared with one shot."""
    exact_vocab: int
    exact_frames: int
    exact_chunk_tokens: int
    rows: int
    """Tokens at once in an MLP of full attention, and queries of its sample."""
    slice_s: float
    """About the time that a slice of full attention's layers may take."""
    limit_s: float
    """Time of the whole script."""

    @property
    def base_frames(self) -> int:
        return self.frames[1]

    @property
    def compared_frames(self) -> int:
        return self.frames[2]

    @property
    def hour_frames(self) -> int:
        return self.frames[3]

    @property
    def longest_frames(self) -> int:
        return self.frames[4]

    def tokens(self, frames: int) -> int:
        """Video tokens of so many frames."""
        return num_video_tokens(frames, self.width, self.height, PROCESSING)

    def step_chunk_tokens(self, frames: int) -> int:
        """Video tokens that have a graph at once in a training step."""
        return self.chunk_tokens if frames == self.longest_frames else self.short_chunk_tokens

    @property
    def tokens_per_pair(self) -> int:
        return self.tokens(2)

    def exact_model(self) -> ModelConfig:
        """Full width, few layers."""
        vision = replace(self.model.vision, depth=self.exact_blocks)
        return replace(self.model, num_hidden_layers=self.exact_layers, vocab_size=self.exact_vocab, vision=vision)


HOUR = Preset(
    model=PRESETS["qwen2_vl_7b"],
    shapes=SEVEN_B,
    height=360,
    width=640,
    frames=(256, 512, 1024, 3600, 8192),
    chunk_tokens=4096,
    short_chunk_tokens=2048,
    block_tokens=32_768,
    warm_frames=(64, 40),
    text_tokens=512,
    loss_tokens=128,
    question_tokens=48,
    answer_tokens=16,
    num_questions=15,
    exact_layers=4,
    exact_blocks=4,
    exact_vocab=4096,
    exact_frames=32,
    exact_chunk_tokens=1280,
    rows=8192,
    slice_s=4.0,
    limit_s=520.0,
)
REHEARSAL = Preset(
    model=replace(
        PRESETS["tiny"],
        hidden_size=32,
        intermediate_size=64,
        num_attention_heads=2,
        num_key_value_heads=1,
        vision=VisionConfig(depth=1, embed_dim=16, num_heads=1, hidden_size=32),
        mixer=MixerConfig(enable=True, hidden_dim=32, d_state=16, headdim=32, chunk_size=16),
    ),
    shapes=replace(TINY, check_lengths=(19,)),
    height=56,
    width=84,
    frames=(8, 12, 16, 28, 40),
    chunk_tokens=32,
    short_chunk_tokens=16,
    block_tokens=64,
    warm_frames=(16, 14),
    text_tokens=11,
    loss_tokens=4,
    question_tokens=5,
    answer_tokens=2,
    num_questions=3,
    exact_layers=2,
    exact_blocks=1,
    exact_vocab=64,
    exact_frames=16,
    exact_chunk_tokens=16,
    rows=16,
    slice_s=0.002,
    limit_s=400.0,
)
