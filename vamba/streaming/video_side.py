"""Which model an encoded video belongs to: a digest of the weights and settings that its video side consists of.

Text layers, embeddings and heads are left out: an encoded video is as good for a model that differs in those.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from torch import Tensor, nn

from vamba.model.shard_writer import tensor_pieces
from vamba.streaming.walk import mixes

if TYPE_CHECKING:
    from vamba.model.vamba import PackedVamba


def video_side_digest(model: PackedVamba) -> str:
    """SHA-256 (hex) of names, types, shapes and values of the parameters, and of the settings that shape the video."""
    config = model.architecture
    settings = (
        config.vision,
        config.mixer,
        config.hidden_size,
        config.num_hidden_layers,
        config.num_key_value_heads,
        config.rms_norm_eps,
        config.rope_theta,
        config.mrope_section,
        config.cross_attn_use_position_embeddings,
        config.cross_attn_use_layer_norm,
    )
    digest = hashlib.sha256(repr(settings).encode())
    with ThreadPoolExecutor() as threads:  # hashing lets go of the interpreter
        for line in threads.map(_digest_of, _parameters(model)):
            digest.update(line.encode())
    return digest.hexdigest()


def _parameters(model: PackedVamba) -> Iterator[tuple[str, Tensor]]:
    modules: list[tuple[str, nn.Module | None]] = [("visual", model.visual)]
    for index, layer in enumerate(model.model.hybrid_layers):
        modules += [(f"{index}.k", layer.cross_attn.k_proj), (f"{index}.v", layer.cross_attn.v_proj)]
        modules.append((f"{index}.mixer", layer.vision_mixer if mixes(layer) else None))
        modules.append((f"{index}.norm", layer.input_layernorm if layer.normalises_video else None))
    for prefix, module in modules:
        if module is not None:
            yield from ((f"{prefix}.{name}", tensor) for name, tensor in module.named_parameters())


def _digest_of(named: tuple[str, Tensor]) -> str:
    name, tensor = named
    digest = hashlib.sha256()
    for piece in tensor_pieces(tensor):
        digest.update(piece)
    return f"{name} {tensor.dtype} {tuple(tensor.shape)} {digest.hexdigest()}\n"
