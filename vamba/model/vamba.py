"""The Vamba hybrid: a Qwen2-VL whose text reads the video by cross-attention, and whose video is mixed by Mamba-2.

A packed `Batch` goes in; logits or a summed loss come out:
    patches -> visual (tower) -> v      input_ids -> embed_tokens -> t
    for each layer: t, v = layer(t, v)
    logits = lm_head(norm(t))
Parameter names are those of the published checkpoints. Vamba (arXiv 2503.11579).

Shapes: T text tokens, M video tokens, D width, V vocabulary, N labelled tokens, B rows of a padded input.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vamba.data.batch import Batch, Grid
from vamba.model import generate as generation
from vamba.model import memory as video_memory
from vamba.model.config import ModelConfig
from vamba.model.layer import HybridLayer, PackedContext
from vamba.model.norm import RMSNorm
from vamba.model.positions import text_rotary, video_rotary
from vamba.model.vision import VisionTower
from vamba.ops.backends import Backends, Operations, choose

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from vamba.model.memory import VideoMemory
    from vamba.model.padded import PaddedOutput


class HybridModel(nn.Module):
    """The layers, with the text's embedding before and norm after."""

    def __init__(self, config: ModelConfig, ops: Operations) -> None:
        super().__init__()
        self.config = config
        self.recompute_activations = False
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        last = config.num_hidden_layers - 1
        self.layers = nn.ModuleList(
            HybridLayer(config, ops, is_last=index == last) for index in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    @property
    def hybrid_layers(self) -> list[HybridLayer]:
        """The layers in order."""
        return cast("list[HybridLayer]", list(self.layers))

    def forward(self, batch: Batch, v_MD: Tensor | None) -> Tensor:
        """Text hidden states (T, D) after the final norm."""
        t_TD = self.embed_tokens(batch.input_ids_T)
        context = self._context(batch, t_TD.dtype)
        for layer in self.layers:
            if self.recompute_activations and torch.is_grad_enabled():
                t_TD, v_MD = checkpoint(layer, t_TD, v_MD, context, use_reentrant=False)
            else:
                t_TD, v_MD = layer(t_TD, v_MD, context)
        return self.norm(t_TD)

    def _context(self, batch: Batch, dtype: torch.dtype) -> PackedContext:
        config = self.config
        rotary, seq_idx = None, None
        if batch.video is not None:
            if config.cross_attn_use_position_embeddings:
                rotary = video_rotary(
                    batch.video.position_ids_3M, config.mrope_section, config.head_dim, config.rope_theta, dtype
                )
            if len(batch.video.cu_seqlens) > 2:
                seq_idx = batch.video.seq_idx_M[None]
        return PackedContext(
            text=batch.text,
            cross=batch.cross,
            text_rotary=text_rotary(batch.position_ids_T, config.head_dim, config.rope_theta, dtype),
            video_rotary=rotary,
            seq_idx_1M=seq_idx,
        )


class VambaForConditionalGeneration(nn.Module):
    """The complete model.

    `backends` names the implementations of scan, convolution and attention; what was chosen is in `self.ops.names`.
    Raises BackendUnavailable for one that is named and can't run here. Parameters are left uninitialised in the parts
    torch does not initialise: load a checkpoint or call `vamba.model.init.init_weights_`.
    """

    def __init__(self, config: ModelConfig, backends: Backends | None = None) -> None:
        super().__init__()
        self.config = config
        self.ops = choose(backends or Backends())
        self.visual = VisionTower(config.vision)
        self.model = HybridModel(config, self.ops)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    @property
    def device(self) -> torch.device:
        return self.model.embed_tokens.weight.device

    def forward(self, batch: Batch) -> Tensor:
        """Logits (T, V), float32 or wider, of every text token of the batch."""
        return self._logits(self.hidden_states(batch))

    def loss(self, batch: Batch) -> tuple[Tensor, int]:
        """(summed cross-entropy over the labelled tokens, their number). Logits are made for those tokens alone."""
        logits_NV = self._logits(self.hidden_states(batch).index_select(0, batch.loss_positions_N))
        return F.cross_entropy(logits_NV, batch.loss_targets_N, reduction="sum"), batch.num_loss_tokens

    def hidden_states(self, batch: Batch) -> Tensor:
        """Text hidden states (T, D) after the final norm."""
        v_MD = None
        if batch.video is not None:
            assert batch.patches_PC is not None, "a batch with a video layout holds patches"
            v_MD = self.visual(batch.patches_PC, batch.video.tower)
        return self.model(batch, v_MD)

    def forward_padded(
        self,
        input_ids_BT: Tensor,
        attention_mask_BT: Tensor | None = None,
        *,
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        video_grid_thw: Tensor | None = None,
        media_per_row: Sequence[tuple[int, int]] | None = None,
        labels_BT: Tensor | None = None,
    ) -> PaddedOutput:
        """Rows padded on either side, with transformers' names for media; see `vamba.model.padded`."""
        from vamba.model.padded import forward_padded

        return forward_padded(
            self,
            input_ids_BT,
            attention_mask_BT,
            images=(pixel_values, image_grid_thw),
            videos=(pixel_values_videos, video_grid_thw),
            media_per_row=media_per_row,
            labels_BT=labels_BT,
        )

    def encode_video(
        self, patches: np.ndarray | Tensor, grid_thw: Grid | Sequence[Grid], *, chunk_tokens: int = 4096
    ) -> VideoMemory:
        """Run the video side once: what every layer's text will read. Same result for any `chunk_tokens`."""
        return video_memory.encode_video(self, patches, grid_thw, chunk_tokens=chunk_tokens)

    def encode_video_stream(self, pieces: Iterable[tuple[np.ndarray | Tensor, Grid]]) -> VideoMemory:
        """`encode_video` of one video that arrives in pieces of whole frame pairs, never in memory at once."""
        return video_memory.encode_video_stream(self, pieces)

    def generate(
        self, prompt_ids: Sequence[int], memory: VideoMemory | None, max_new_tokens: int, eos_ids: Sequence[int]
    ) -> list[int]:
        """Greedy continuation of one prompt, without the token that ended it."""
        return generation.generate_many(self, [prompt_ids], memory, max_new_tokens, eos_ids)[0]

    def generate_many(
        self,
        prompts: Sequence[Sequence[int]],
        memory: VideoMemory | None,
        max_new_tokens: int,
        eos_ids: Sequence[int],
    ) -> list[list[int]]:
        """Greedy continuations of many prompts about one video, decoded together; equal to one at a time."""
        return generation.generate_many(self, prompts, memory, max_new_tokens, eos_ids)

    @torch.no_grad()
    def constrain_(self) -> None:
        """Bring every alpha back into [0, 1]; call after each optimizer step."""
        for name, parameter in self.named_parameters():
            if name.endswith("alpha"):
                parameter.clamp_(0, 1)

    def set_activation_checkpointing(self, enabled: bool) -> None:
        """Keep only each layer's inputs for the backward pass and recompute the rest."""
        self.model.recompute_activations = enabled

    @classmethod
    def from_pretrained(
        cls, directory: str | Path, *, dtype: torch.dtype | None = None, backends: Backends | None = None
    ) -> VambaForConditionalGeneration:
        """Read a checkpoint directory; see `vamba.model.pretrained`."""
        from vamba.model.pretrained import from_pretrained

        return from_pretrained(directory, dtype=dtype, backends=backends)

    def save_pretrained(self, directory: str | Path, *, tokenizer_dir: str | Path | None = None) -> None:
        """Write a checkpoint directory; see `vamba.model.pretrained`."""
        from vamba.model.pretrained import save_pretrained

        save_pretrained(self, directory, tokenizer_dir=tokenizer_dir)

    def _logits(self, t_TD: Tensor) -> Tensor:
        logits = self.lm_head(t_TD)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))
