"""What a `config.json` may say without being computed differently here: everything else is refused.

A key of a newer or quantised model that is read past in silence gives wrong numbers, not an error. So each part of the
file is held against a table of the values this model is built for; a key that is absent is fine. Sizes are not listed:
a wrong one shows in the tensors' shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TOP = {
    "quantization_config": (None,),
    "compression_config": (None,),
}
_TEXT = {
    **_TOP,
    "hidden_act": ("silu",),
    "use_sliding_window": (False, None),
    "attention_bias": (True, None),
    "qkv_bias": (True, None),
    "mlp_bias": (False, None),
    "use_qk_norm": (False, None),
    "attention_dropout": (0.0, None),
    "partial_rotary_factor": (1.0, None),
}
"""Qwen2's language model: SwiGLU, biases on q, k and v alone, full attention, nothing dropped."""
_VISION = {
    "hidden_act": ("quick_gelu",),
    "qkv_bias": (True, None),
    "attention_dropout": (0.0, None),
    "layer_norm_eps": (1e-6, None),
    "window_size": (None,),
    "fullatt_block_indexes": (None,),
    "deepstack_visual_indexes": (None,),
}
"""Qwen2-VL's tower. The last three belong to its successors' towers: docs/extend.md."""
_MIXER = {
    "norm_type": ("rmsnorm",),
    "rmsnorm": (True,),
    "norm_before_gate": (False,),
    "D_has_hdim": (False,),
    "residual_in_fp32": (False, None),
    "learnable_init_states": (False, None),
    "activation": ("silu", "swish", None),
    "hidden_act": ("silu", "swish", None),
    "layer_norm_epsilon": (1e-5, None),
}
"""Mamba-2 with the norm after the gate and one D per head. What concerns speed or a fresh start only is not listed."""
_ROPE = {
    "rope_type": ("default", "mrope", None),
    "type": ("mrope", "default", None),
    "partial_rotary_factor": (1.0, None),
    "mrope_interleaved": (False, None),
}
_VISION_ROPE = {"rope_type": ("axial", "default", None), "rope_theta": (10_000.0, None)}


def check_text(values: Mapping[str, Any], where: str = "") -> None:
    """ValueError for a setting of the language model, or of the whole file, that this model does not compute."""
    _check(values, _TEXT, where)
    kinds = values.get("layer_types") or ()
    others = sorted({kind for kind in kinds if kind != "full_attention"})
    if others:
        raise ValueError(f"{where}layer_types holds {others}; this model is built for 'full_attention' alone")


def check_vision(values: Mapping[str, Any]) -> None:
    """ValueError for a setting of the vision tower that this model does not compute."""
    _check(values, _VISION, "vision_config.")
    _check(values.get("rope_parameters") or {}, _VISION_ROPE, "vision_config.rope_parameters.")


def check_mixer(values: Mapping[str, Any]) -> None:
    """ValueError for a setting of the mixer that the equations don't cover."""
    _check(values, _MIXER, "vision_mamba_mixer_config.")


def read_rope(values: Mapping[str, Any]) -> dict[str, Any]:
    """`rope_theta` and `mrope_section`, where given, from either form of the settings. ValueError for other ropes."""
    found: dict[str, Any] = {}
    for name in ("rope_scaling", "rope_parameters"):
        given = values.get(name)
        if given is None:
            continue
        if not isinstance(given, Mapping):
            raise ValueError(f"{name} is {given!r}; it must be an object with rope_type and mrope_section")
        _check(given, _ROPE, f"{name}.")
        found.update({key: given[key] for key in ("rope_theta", "mrope_section") if given.get(key) is not None})
    section = found.get("mrope_section")
    if section is not None:
        if not isinstance(section, (list, tuple)) or len(section) != 3 or not all(_is_count(n) for n in section):
            raise ValueError(f"mrope_section is {section!r}; it must be three whole numbers: time, row, column")
        found["mrope_section"] = tuple(section)
    return found


def check_counts(values: object, names: tuple[str, ...], where: str = "") -> None:
    """ValueError for an attribute that is no whole number of at least 1."""
    for name in names:
        value = getattr(values, name)
        if not _is_count(value) or value < 1:
            raise ValueError(f"{where}{name} is {value!r}; it must be a whole number of at least 1")


def agree(where: str, values: Mapping[str, Any], name: str, required: Any) -> None:
    """ValueError where a key that only repeats another says something else."""
    if values.get(name) is not None and values[name] != required:
        raise ValueError(f"{where}{name} is {values[name]!r}; it must be absent or {required!r}")


def read_pair(name: str, value: Any) -> tuple[float, float]:
    """Two numbers; JSON's Infinity and texts such as "inf" are numbers too."""
    try:
        low, high = (float(number) for number in value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {value!r}; it must be two numbers, the lower first") from None
    return low, high


def _check(values: Mapping[str, Any], rules: Mapping[str, tuple[Any, ...]], where: str) -> None:
    for name, allowed in rules.items():
        if name in values and values[name] not in allowed:
            rule = "it must be absent" if allowed[0] is None else f"this model is built for {allowed[0]!r} alone"
            raise ValueError(f"{where}{name} is {values[name]!r}; {rule}")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
