"""What a model directory holds, told from its headers: parameters by part, types, files, and what doesn't fit.

    config.json, headers ──inspect_directory──> Inspection

Reads the release's directories, ours and plain Qwen2-VL's; a tensor's data is never read, so any size takes no time.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vamba.model.checkpoint_fit import expected_tensors, is_new, misfits
from vamba.model.config import MODEL_TYPE, ModelConfig
from vamba.model.convert import checkpoint_names
from vamba.model.pretrained import TOKENIZER_FILES, read_config_values
from vamba.model.tensor_files import stored_tensors, weight_files

_PARTS = (
    ("vision_blocks", r"visual\.(patch_embed|blocks)\."),
    ("vision_merger", r"visual\.merger\."),
    ("embedding", r"model\.embed_tokens\."),
    ("self_attn", r".*\.self_attn\."),
    ("cross_attn", r".*\.cross_attn\."),
    ("mixers", r".*\.vision_mixer\."),
    ("mlp", r"model\.layers\.\d+\.mlp\."),
    ("norms", r"model\.(.*layernorm|norm)\."),
    ("alpha", r".*\.alpha$"),
    ("lm_head", r"lm_head\."),
)
"""Names of parts and of the tensors in them, the first that matches; others are "other"."""
STAGES = {"stage_1": r"cross_attn|vision_mixer|alpha", "stage_2": r"visual\.merger|model"}
"""What each stage of the recipe trains: parameters whose name contains one of these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What one directory holds."""

    directory: Path
    kind: str
    parts: dict[str, int]
    """Parameters by part; every part is named, also those that hold none."""
    num_parameters: int
    trainable: dict[str, int]
    """Parameters that each stage of the recipe trains."""
    num_tensors: int
    dtypes: dict[str, int]
    """Parameters by stored type."""
    size_bytes: int
    shards: dict[str, int]
    """Size of each file of weights, bytes."""
    tokenizer: tuple[str, ...]
    """Files of the tokenizer that are there; `tokenizer.json` is the one that is needed."""
    config: dict[str, Any]
    problems: tuple[str, ...]
    """What doesn't fit, one kind a line; empty for a directory that can be loaded."""


def inspect_directory(directory: str | Path) -> Inspection:
    """Describe a model directory. ValueError where there is no readable config.json or no readable header."""
    root = Path(directory)
    values = read_config_values(root)
    config = ModelConfig.from_dict(values)
    is_hybrid = values.get("model_type", MODEL_TYPE) == MODEL_TYPE or bool(values.get("vision_mamba_mixer_config"))
    stored = stored_tensors(root)
    if not is_hybrid:
        stored = checkpoint_names(stored)
    expected = expected_tensors(config)
    if not is_hybrid:
        expected = {name: shape for name, shape in expected.items() if not is_new(name)}
    compared = dict(stored)
    if config.tie_word_embeddings:
        # Allowed where it repeats the embedding, which only its data can tell: loading compares the two.
        compared.pop("lm_head.weight", None)
    sizes = {name: tensor.num_values for name, tensor in stored.items()}
    dtypes: Counter[str] = Counter()
    for tensor in stored.values():
        dtypes[tensor.dtype] += tensor.num_values
    return Inspection(
        directory=root,
        kind=_kind(values, is_hybrid),
        parts=count_parts(sizes.items()),
        num_parameters=sum(sizes.values()),
        trainable=count_trainable(sizes.items()),
        num_tensors=len(stored),
        dtypes=dict(dtypes.most_common()),
        size_bytes=sum(tensor.size_bytes for tensor in stored.values()),
        shards={path.name: path.stat().st_size for path in weight_files(root)},
        tokenizer=tuple(name for name in TOKENIZER_FILES if (root / name).is_file()),
        config=_highlights(config, is_hybrid),
        problems=tuple(misfits(compared, expected)),
    )


def count_parts(sizes: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Parameters by part, of names and numbers of parameters."""
    counts = dict.fromkeys((part for part, _ in _PARTS), 0)
    for name, size in sizes:
        part = next((part for part, pattern in _PARTS if re.match(pattern, name)), "other")
        counts[part] = counts.get(part, 0) + size
    return counts


def count_trainable(sizes: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Parameters that each stage trains, of names and numbers of parameters."""
    listed = list(sizes)
    return {stage: sum(size for name, size in listed if re.search(pattern, name)) for stage, pattern in STAGES.items()}


def _kind(values: dict[str, Any], is_hybrid: bool) -> str:
    if not is_hybrid:
        return "Qwen2-VL, nested config" if values.get("text_config") else "Qwen2-VL, flat config"
    return "Vamba" if values.get("model_type", MODEL_TYPE) == MODEL_TYPE else "Vamba, the release's config"


def _highlights(config: ModelConfig, is_hybrid: bool) -> dict[str, Any]:
    vision, mixer = config.vision, config.mixer
    shown: dict[str, Any] = {
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "heads": config.num_attention_heads,
        "key_value_heads": config.num_key_value_heads,
        "vocabulary": config.vocab_size,
        "tie_word_embeddings": config.tie_word_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "mrope_section": list(config.mrope_section),
        "vision": f"{vision.depth} blocks of width {vision.embed_dim}, {vision.num_heads} heads",
    }
    if not is_hybrid:
        return shown
    return {
        **shown,
        "mixers": f"{mixer.num_heads} heads of {mixer.headdim}, state {mixer.d_state}" if mixer.enable else "none",
        "use_alpha_balancing": config.use_alpha_balancing,
        "cross_attn_use_position_embeddings": config.cross_attn_use_position_embeddings,
        "cross_attn_use_layer_norm": config.cross_attn_use_layer_norm,
        "distill_coeff": config.distill_coeff,
    }
