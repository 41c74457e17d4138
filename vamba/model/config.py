"""The model's configuration, and its translation from and to `config.json`.

The core works with three frozen dataclasses. On disk the release's keys are used, because its checkpoints must load: a
flat Qwen2-VL config with extra keys, whose nested parts hold only what differs from the defaults. transformers 5 nests
the language part (`text_config`, `rope_parameters`); both forms are read, the flat one is written, under a
`model_type` of our own. Keys that describe other things (generation, torch dtype …) are ignored; what would be computed
differently is refused (`vamba.model.config_rules`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from vamba.model.config_rules import agree, check_counts, check_mixer, check_text, check_vision, read_pair, read_rope

MODEL_TYPE = "vamba"
_BASE_TYPE = "qwen2_vl"
_READABLE_TYPES = (MODEL_TYPE, _BASE_TYPE)
_BASE_RMS_NORM_EPS = 1e-5
"""What a Qwen2-VL file means that does not name `rms_norm_eps`; the released sizes name 1e-6."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionConfig:
    """Qwen2-VL's vision tower. The defaults are those of every released size."""

    depth: int = 32
    """Transformer blocks."""
    embed_dim: int = 1280
    """Width of the blocks."""
    num_heads: int = 16
    mlp_ratio: float = 4.0
    """Width of a block's MLP over `embed_dim`."""
    hidden_size: int = 3584
    """Width of the merger's output; the language model's."""
    in_channels: int = 3
    patch_size: int = 14
    """Pixels."""
    spatial_merge_size: int = 2
    """Patches per side of one video token."""
    temporal_patch_size: int = 2
    """Frames."""

    def __post_init__(self) -> None:
        names = ("depth", "embed_dim", "num_heads", "hidden_size", "in_channels", "patch_size", "spatial_merge_size")
        check_counts(self, (*names, "temporal_patch_size"), "vision_config.")
        _divides("vision_config.embed_dim", self.embed_dim, "vision_config.num_heads * 4", self.num_heads * 4)

    @property
    def head_dim(self) -> int:
        return self.embed_dim // self.num_heads

    @property
    def patch_values(self) -> int:
        """Values of one patch row."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2


@dataclass(frozen=True, slots=True, kw_only=True)
class MixerConfig:
    """The Mamba-2 block of the video stream."""

    enable: bool = False
    """The release's default; its own checkpoints turn it on."""
    hidden_dim: int = 3584
    """Width; must equal the language model's."""
    d_state: int = 128
    d_conv: int = 4
    expand: int = 2
    """Inner width over `hidden_dim`."""
    headdim: int = 64
    ngroups: int = 1
    """Groups of heads that share B and C."""
    chunk_size: int = 256
    """Tokens per chunk of the scan; changes speed, not results."""
    dt_limit: tuple[float, float] = (0.0, math.inf)
    """Bounds of dt after softplus."""
    bias: bool = False
    """Biases of the two projections."""
    conv_bias: bool = True
    A_init_range: tuple[float, float] = (1.0, 16.0)
    dt_min: float = 0.001
    dt_max: float = 0.1
    dt_init_floor: float = 1e-4

    def __post_init__(self) -> None:
        names = ("hidden_dim", "d_state", "d_conv", "expand", "headdim", "ngroups", "chunk_size")
        check_counts(self, names, "vision_mamba_mixer_config.")
        for name, low, high in (
            ("dt_limit", *self.dt_limit),
            ("A_init_range", *self.A_init_range),
            ("dt_min and dt_max", self.dt_min, self.dt_max),
        ):
            if not (0 <= low <= high) or (low == 0 and name != "dt_limit"):
                raise ValueError(f"vision_mamba_mixer_config.{name}: {low} to {high}; it must be positive and rising")
        _divides("vision_mamba_mixer_config inner width", self.d_inner, "headdim", self.headdim)
        _divides("vision_mamba_mixer_config heads", self.num_heads, "ngroups", self.ngroups)

    @property
    def d_inner(self) -> int:
        return self.expand * self.hidden_dim

    @property
    def num_heads(self) -> int:
        return self.d_inner // self.headdim

    @property
    def conv_dim(self) -> int:
        """Channels of the convolution: x, B and C."""
        return self.d_inner + 2 * self.ngroups * self.d_state


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The whole hybrid. The defaults are Qwen2-VL-7B's with the release's flags."""

    vocab_size: int = 152064
    hidden_size: int = 3584
    intermediate_size: int = 18944
    """Width of the language MLP."""
    num_hidden_layers: int = 28
    num_attention_heads: int = 28
    num_key_value_heads: int = 4
    max_position_embeddings: int = 32768
    """Text tokens; recorded for other readers, not enforced."""
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1_000_000.0
    mrope_section: tuple[int, int, int] = (16, 24, 24)
    """Frequencies that follow the time, row and column of a token."""
    tie_word_embeddings: bool = False
    initializer_range: float = 0.02
    """Standard deviation of freshly initialised projections."""
    use_alpha_balancing: bool = True
    """Weigh self- and cross-attention by one learned scalar per layer."""
    cross_attn_use_position_embeddings: bool = False
    """Rotate cross-attention queries by text and keys by video positions."""
    cross_attn_use_layer_norm: bool = False
    """Normalise the video stream with the text's weights before cross-attention; the result replaces the stream."""
    distill_coeff: float = 0.0
    """Weight of the distillation loss."""
    bos_token_id: int | None = 151643
    eos_token_id: int | tuple[int, ...] | None = 151645
    vision_start_token_id: int = 151652
    vision_end_token_id: int = 151653
    vision_token_id: int = 151654
    image_token_id: int = 151655
    video_token_id: int = 151656
    vision: VisionConfig = field(default_factory=VisionConfig)
    mixer: MixerConfig = field(default_factory=lambda: MixerConfig(enable=True))

    def __post_init__(self) -> None:
        names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        check_counts(self, (*names, "num_key_value_heads", "max_position_embeddings"))
        _divides("hidden_size", self.hidden_size, "num_attention_heads", self.num_attention_heads)
        _divides("num_attention_heads", self.num_attention_heads, "num_key_value_heads", self.num_key_value_heads)
        if 2 * sum(self.mrope_section) != self.head_dim:
            raise ValueError(
                f"mrope_section {list(self.mrope_section)} adds up to {sum(self.mrope_section)}; "
                f"it must be half of the head size, {self.head_dim // 2}"
            )
        for name, width in (
            ("vision_config.hidden_size", self.vision.hidden_size),
            ("vision_mamba_mixer_config.hidden_dim", self.mixer.hidden_dim),
        ):
            if width != self.hidden_size and (self.mixer.enable or name.startswith("vision_config")):
                raise ValueError(f"{name} is {width}; it must equal hidden_size, {self.hidden_size}")

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Read a `config.json`: ours, the release's or Qwen2-VL's, flat or nested. ValueError says what is wrong."""
        model_type = values.get("model_type", MODEL_TYPE)
        if model_type not in _READABLE_TYPES:
            raise ValueError(f"config.json has model_type {model_type!r}; this model reads {list(_READABLE_TYPES)}")
        text = values.get("text_config") or {}
        flat = {**values, **text}
        check_text(values)
        check_text(text, "text_config.")
        names = {f.name for f in fields(cls)} - {"vision", "mixer", "mrope_section", "tie_word_embeddings"}
        may_be_none = ("bos_token_id", "eos_token_id")
        arguments = {
            name: flat[name] for name in names if name in flat and (flat[name] is not None or name in may_be_none)
        }
        arguments.update(read_rope(flat))
        # Files written before transformers 5 have the flag in the nested part, later ones outside.
        arguments["tie_word_embeddings"] = any(part.get("tie_word_embeddings") for part in (values, text))
        if isinstance(flat.get("eos_token_id"), list):
            arguments["eos_token_id"] = tuple(flat["eos_token_id"])
        if flat.get("num_key_value_heads", 0) is None and "num_attention_heads" in arguments:
            arguments["num_key_value_heads"] = arguments["num_attention_heads"]
        if model_type == _BASE_TYPE:
            arguments.setdefault("rms_norm_eps", _BASE_RMS_NORM_EPS)
        config = cls(
            **arguments,
            vision=_read_vision(values.get("vision_config") or {}),
            mixer=_read_mixer(values.get("vision_mamba_mixer_config") or {}),
        )
        agree("", flat, "head_dim", config.head_dim)
        return config

    def to_dict(self) -> dict[str, Any]:
        """The release's layout of `config.json`, with every value written out."""
        written = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("vision", "mixer")}
        del written["mrope_section"]
        if isinstance(self.eos_token_id, tuple):
            written["eos_token_id"] = list(self.eos_token_id)
        mixer = {f.name: getattr(self.mixer, f.name) for f in fields(self.mixer)}
        mixer = {key: list(value) if isinstance(value, tuple) else value for key, value in mixer.items()}
        return {
            "model_type": MODEL_TYPE,
            "architectures": ["VambaForConditionalGeneration"],
            "hidden_act": "silu",
            **written,
            "rope_scaling": {"type": "mrope", "mrope_section": list(self.mrope_section)},
            "vision_config": {f.name: getattr(self.vision, f.name) for f in fields(self.vision)},
            "vision_mamba_mixer_config": mixer,
        }


def _read_vision(given: Mapping[str, Any]) -> VisionConfig:
    check_vision(given)
    arguments = {f.name: given[f.name] for f in fields(VisionConfig) if given.get(f.name) is not None}
    for name in ("patch_size", "temporal_patch_size"):
        value = arguments.get(name)
        if isinstance(value, (list, tuple)) and len(set(value)) == 1:
            arguments[name] = value[0]
    if given.get("in_chans") is not None:
        arguments.setdefault("in_channels", given["in_chans"])
    vision = VisionConfig(**arguments)
    for name, required in (
        ("in_chans", vision.in_channels),
        ("spatial_patch_size", vision.patch_size),
        ("head_dim", vision.head_dim),
    ):
        agree("vision_config.", given, name, required)
    return vision


def _read_mixer(given: Mapping[str, Any]) -> MixerConfig:
    check_mixer(given)
    arguments = {f.name: given[f.name] for f in fields(MixerConfig) if given.get(f.name) is not None}
    for name in ("dt_limit", "A_init_range"):
        if name in arguments:
            arguments[name] = read_pair(f"vision_mamba_mixer_config.{name}", arguments[name])
    mixer = MixerConfig(**arguments)
    agree("vision_mamba_mixer_config.", given, "d_ssm", mixer.d_inner)
    agree("vision_mamba_mixer_config.", given, "d_model", mixer.hidden_dim)
    return mixer


def _divides(name: str, value: int, divisor_name: str, divisor: int) -> None:
    if divisor < 1 or value % divisor:
        raise ValueError(f"{name} is {value}; it must be a multiple of {divisor_name}, {divisor}")
