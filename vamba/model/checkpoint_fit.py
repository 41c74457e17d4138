"""Whether the tensors of a directory are those of its configuration, told from names, shapes and types alone.

ModelConfig ──model without memory──> expected names and shapes ─┐
headers of the files ────────────────────────────────────────────┴─> problems, one line a kind, with the names
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from vamba.model.config import ModelConfig
from vamba.model.tensor_files import WEIGHT_DTYPES, StoredTensor, listed, same_bytes
from vamba.model.vamba import PackedVamba, Vamba
from vamba.ops.backends import Backends


class CheckpointMismatch(ValueError):
    """The tensors of a checkpoint are not those of its configuration."""


def expected_tensors(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors a checkpoint of this configuration holds."""
    with torch.device("meta"):
        return shapes_of(Vamba(config, Backends(scan="reference", conv="reference", attention="reference")))


def shapes_of(model: PackedVamba) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that are stored of a model: a tied head is not."""
    assert isinstance(model, nn.Module)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if model.architecture.tie_word_embeddings:
        del shapes["lm_head.weight"]
    return shapes


def without_tied_head(stored: Mapping[str, StoredTensor], config: ModelConfig) -> dict[str, StoredTensor]:
    """The tensors without a head that repeats the embedding, where `config` ties the two; some tools save both.

    Raises CheckpointMismatch where the stored head is another matrix.
    """
    head, embedding = stored.get("lm_head.weight"), stored.get("model.embed_tokens.weight")
    if not config.tie_word_embeddings or head is None or embedding is None:
        return dict(stored)
    if not same_bytes(head, embedding):
        raise CheckpointMismatch(
            f"{head.path} holds an lm_head.weight that is not model.embed_tokens.weight, but config.json says "
            "tie_word_embeddings: one of the two is wrong"
        )
    return {name: tensor for name, tensor in stored.items() if name != "lm_head.weight"}


def check_fit(
    directory: str | Path, stored: Mapping[str, StoredTensor], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """CheckpointMismatch naming the tensors that are missing, unexpected, or of another shape or kind."""
    problems = misfits(stored, expected)
    if problems and any(map(is_new, expected)) and not any(map(is_new, stored)):
        raise CheckpointMismatch(
            f"{directory} holds none of the parts that a Vamba adds ({problems[0].partition(':')[0]}): if it is a "
            f"Qwen2-VL, make a Vamba of it with `vamba model convert --from {directory} --out DIR`"
        )
    if problems:
        raise CheckpointMismatch(f"the tensors in {directory} don't fit its config.json; " + "; ".join(problems))


def is_new(name: str) -> bool:
    """Whether a tensor is one that Qwen2-VL does not have."""
    return ".cross_attn." in name or ".vision_mixer." in name or name.endswith(".alpha")


def misfits(stored: Mapping[str, StoredTensor], expected: Mapping[str, tuple[int, ...]]) -> list[str]:
    """One line per kind of problem: how many, and which."""
    misshapen = [
        f"{name} is {list(stored[name].shape)}, not {list(shape)}"
        for name, shape in sorted(expected.items())
        if name in stored and stored[name].shape != shape
    ]
    of_other_type = [
        f"{name} is {tensor.dtype}" for name, tensor in sorted(stored.items()) if tensor.dtype not in WEIGHT_DTYPES
    ]
    kinds = (
        ("missing", sorted(expected.keys() - stored.keys())),
        ("unexpected", sorted(stored.keys() - expected.keys())),
        ("of another shape", misshapen),
        ("not floating point (quantised weights are not read)", of_other_type),
    )
    return [f"{len(names)} {kind}: {listed(names)}" for kind, names in kinds if names]
