"""The model's configuration, and its translation from and to `config.json`.

The core works with three frozen dataclasses. On disk the release's keys are used, because its checkpoints must load: a
flat Qwen2-VL config with extra keys, whose nested parts hold only what differs from the defaults. transformers 5 nests
the language part (`text_config`, `rope_parameters`); both forms are read, the flat one is written, under a
`model_type` of our own. Keys that describe other things (dropout, generation, torch dtype …) are ignored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

MODEL_TYPE = "vamba"
_READABLE_TYPES = (MODEL_TYPE, "qwen2_vl")


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
    eos_token_id: int | None = 151645
    vision_start_token_id: int = 151652
    vision_end_token_id: int = 151653
    vision_token_id: int = 151654
    image_token_id: int = 151655
    video_token_id: int = 151656
    vision: VisionConfig = field(default_factory=VisionConfig)
    mixer: MixerConfig = field(default_factory=lambda: MixerConfig(enable=True))

    def __post_init__(self) -> None:
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
        flat = {**values, **values.get("text_config", {})}
        rope = {**(flat.get("rope_scaling") or {}), **(flat.get("rope_parameters") or {})}
        known = {f.name for f in fields(cls)} - {"vision", "mixer", "mrope_section"}
        arguments = {name: flat[name] for name in known if name in flat}
        if values.get("tie_word_embeddings") is not None:
            arguments["tie_word_embeddings"] = values["tie_word_embeddings"]
        if "rope_theta" in rope:
            arguments["rope_theta"] = rope["rope_theta"]
        if "mrope_section" in rope:
            arguments["mrope_section"] = tuple(rope["mrope_section"])
        return cls(
            **arguments, vision=_read_vision(values), mixer=_read_mixer(values.get("vision_mamba_mixer_config") or {})
        )

    def to_dict(self) -> dict[str, Any]:
        """The release's layout of `config.json`, with every value written out."""
        written = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("vision", "mixer")}
        del written["mrope_section"]
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


_FIXED_MIXER = {"norm_type": "rmsnorm", "rmsnorm": True, "norm_before_gate": False, "D_has_hdim": False}


def _read_vision(values: Mapping[str, Any]) -> VisionConfig:
    given = dict(values.get("vision_config") or {})
    if "in_chans" in given:
        given.setdefault("in_channels", given["in_chans"])
    return VisionConfig(**{f.name: given[f.name] for f in fields(VisionConfig) if f.name in given})


def _read_mixer(given: Mapping[str, Any]) -> MixerConfig:
    for name, required in _FIXED_MIXER.items():
        if given.get(name, required) != required:
            raise ValueError(
                f"vision_mamba_mixer_config.{name} is {given[name]!r}; this model is built for {required!r} alone"
            )
    arguments = {f.name: given[f.name] for f in fields(MixerConfig) if f.name in given}
    for name in ("dt_limit", "A_init_range"):
        if name in arguments:
            low, high = arguments[name]
            arguments[name] = (float(low), float(high))
    mixer = MixerConfig(**arguments)
    if given.get("d_ssm") not in (None, mixer.d_inner):
        raise ValueError(f"vision_mamba_mixer_config.d_ssm is {given['d_ssm']}; it must be absent or {mixer.d_inner}")
    return mixer


def _divides(name: str, value: int, divisor_name: str, divisor: int) -> None:
    if divisor < 1 or value % divisor:
        raise ValueError(f"{name} is {value}; it must be a multiple of {divisor_name}, {divisor}")
