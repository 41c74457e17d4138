"""A Qwen2-VL checkpoint becomes a Vamba checkpoint, tensor by tensor.

Everything Qwen2-VL has is kept under its name; cross-attention starts as a copy of self-attention, the mixers and alpha
start as `vamba.model.init` says (Vamba section 3.2). No more than one output shard is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from vamba.data.frames import FrameProcessing
from vamba.model.config import MixerConfig, ModelConfig
from vamba.model.init import initial_value
from vamba.model.pretrained import (
    FLOAT32_PARTS,
    CheckpointMismatch,
    expected_tensors,
    read_config,
    read_tensors,
    write_checkpoint,
)
from vamba.model.vamba import Vamba

_RENAMED = (("model.language_model.", "model."), ("model.visual.", "visual."))
"""Module names that transformers 5 uses in memory, and some tools save, and the names in checkpoints."""


def convert_qwen2_vl(
    source: str | Path,
    out: str | Path,
    *,
    mixer: MixerConfig | None = None,
    seed: int = 0,
    max_shard_bytes: int = 1_000_000_000,
) -> ModelConfig:
    """Write the Vamba checkpoint that starts from the Qwen2-VL in `source` (flat or nested config) to `out`.

    `mixer` defaults to the published one at the model's width. Returns the new configuration. Raises CheckpointMismatch
    naming tensors that are missing, unexpected or misshapen; nothing is left at `out` then.
    """
    base = read_config(source)
    mixer = mixer or MixerConfig(hidden_dim=base.hidden_size)
    config = replace(base, mixer=replace(mixer, enable=True))
    with torch.device("meta"):
        model = Vamba(config)
    write_checkpoint(
        out,
        config,
        _converted(source, config, expected_tensors(model), seed),
        tokenizer_dir=source,
        processing=FrameProcessing(),
        max_shard_bytes=max_shard_bytes,
    )
    return config


def _converted(
    source: str | Path, config: ModelConfig, expected: dict[str, tuple[int, ...]], seed: int
) -> Iterator[tuple[str, Tensor]]:
    remaining = dict(expected)
    dtype = torch.float32
    for stored_name, tensor in read_tensors(source):
        name = _checkpoint_name(stored_name)
        if config.tie_word_embeddings and name == "lm_head.weight":
            continue
        shape = remaining.pop(name, None)
        if shape != tuple(tensor.shape):
            found = "unexpected" if shape is None else f"of shape {list(tensor.shape)}, not {list(shape)}"
            raise CheckpointMismatch(f"{source} holds {stored_name}, which is {found}")
        dtype = tensor.dtype
        yield name, tensor
        if ".self_attn." in name:
            copy = name.replace(".self_attn.", ".cross_attn.")
            remaining.pop(copy)
            yield copy, tensor.clone()
    missing = [name for name in remaining if ".vision_mixer." not in name and not name.endswith(".alpha")]
    if missing:
        raise CheckpointMismatch(f"{source} lacks {len(missing)} tensors: {', '.join(missing[:20])}")
    for name, shape in remaining.items():
        value = initial_value(name, shape, config, seed, is_norm=".norm." in name)
        yield name, value if name.rpartition(".")[2] in FLOAT32_PARTS else value.to(dtype)


def _checkpoint_name(name: str) -> str:
    for prefix, replacement in _RENAMED:
        if name.startswith(prefix):
            return replacement + name.removeprefix(prefix)
    return name
