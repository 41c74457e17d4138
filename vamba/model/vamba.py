"""The Vamba hybrid: a Qwen2-VL whose text reads the video by cross-attention, and whose video is mixed by Mamba-2.

A packed `Batch` goes in; logits or a summed loss come out:
    patches -> visual (tower) -> v      input_ids -> embed_tokens -> t
    for each layer: t, v = layer(t, v)
    logits = lm_head(norm(t))
Parameter names are those of the published checkpoints. Vamba (arXiv 2503.11579).

`PackedVamba` holds what a hybrid does, so that two classes share it: `Vamba`, which needs torch alone and is what
training shards, and `vamba.hf`'s VambaForConditionalGeneration, which transformers generates with.

Shapes: T text tokens, M video tokens, D width, V vocabulary, N labelled tokens, R rows with a teacher, k its logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vamba.data.batch import Batch
from vamba.model.config import ModelConfig
from vamba.model.layer import HybridLayer, PackedContext, Read
from vamba.model.norm import RMSNorm
from vamba.model.positions import text_rotary, video_rotary
from vamba.model.vision import VisionTower
from vamba.ops.backends import Backends, Operations, choose


class HybridModel(nn.Module):
    """The layers, with the text's embedding before and norm after."""

    def __init__(self, config: ModelConfig, ops: Operations) -> None:
        super().__init__()
        self.config, self.ops = config, ops
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

    def forward(self, batch: Batch, v_MD: Tensor | None, reads: Sequence[Read] = ()) -> Tensor:
        """Text hidden states (T, D) after the final norm; `reads`, one a layer, are of a video that has run alone."""
        t_TD = self.embed_tokens(batch.input_ids_T)
        context = self._context(batch, t_TD.dtype, with_video=v_MD is not None)
        for index, layer in enumerate(self.layers):
            read = reads[index] if reads else None
            if self.recompute_activations and torch.is_grad_enabled():
                t_TD, v_MD = checkpoint(layer, t_TD, v_MD, context, read, use_reentrant=False)
            else:
                t_TD, v_MD = layer(t_TD, v_MD, context, read)
        return self.norm(t_TD)

    def _context(self, batch: Batch, dtype: torch.dtype, *, with_video: bool) -> PackedContext:
        config = self.config
        rotary, seq_idx = None, None
        if with_video and batch.video is not None:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class LossTerms:
    """Sums over the tokens of a batch, and how many tokens each is a sum over."""

    cross_entropy: Tensor
    """Of the labelled tokens, each predicted from the position before it."""
    num_loss_tokens: int
    divergence: Tensor | None
    """KL(teacher || model) over the teacher's top k, at the labelled positions themselves; None without a teacher."""
    num_teacher_tokens: int


class PackedVamba:
    """What a hybrid does with packed batches; mixed into a module that holds the three parts below."""

    visual: VisionTower
    model: HybridModel
    lm_head: nn.Linear

    @property
    def architecture(self) -> ModelConfig:
        """The configuration the parts were built from."""
        return self.model.config

    @property
    def ops(self) -> Operations:
        """The chosen implementations of scan, convolution and attention; `ops.names` says which."""
        return self.model.ops

    def logits(self, batch: Batch) -> Tensor:
        """Logits (T, V), float32 or wider, of every text token of the batch."""
        return self.head(self.hidden_states(batch))

    def loss(self, batch: Batch, reads: Sequence[Read] = ()) -> tuple[Tensor, int]:
        """(summed loss over the labelled tokens, their number). `reads` as in `hidden_states`.

        With a teacher in the batch, `distill_coeff` times the divergence is added to the cross-entropy. Both are sums over
        the same tokens, because a label never stands on the first token of a conversation.
        """  # noqa: E501
        terms = self.loss_terms(batch, self.hidden_states(batch, reads))
        if terms.divergence is None:
            return terms.cross_entropy, terms.num_loss_tokens
        return terms.cross_entropy + self.architecture.distill_coeff * terms.divergence, terms.num_loss_tokens

    def loss_terms(self, batch: Batch, t_TD: Tensor | None = None) -> LossTerms:
        """Cross-entropy and divergence apart, of hidden states where they are at hand.

        Logits are made for the scored tokens alone.
        """
        t_TD = self.hidden_states(batch) if t_TD is None else t_TD
        logits_NV = self.head(t_TD.index_select(0, batch.loss_positions_N))
        teacher, divergence = batch.teacher, None
        if teacher is not None:
            divergence = _divergence(
                self.head(t_TD.index_select(0, teacher.positions_R)), teacher.token_ids_Rk, teacher.logits_Rk
            )
        return LossTerms(
            cross_entropy=F.cross_entropy(logits_NV, batch.loss_targets_N, reduction="sum"),
            num_loss_tokens=batch.num_loss_tokens,
            divergence=divergence,
            num_teacher_tokens=0 if teacher is None else len(teacher.positions_R),
        )

    def hidden_states(self, batch: Batch, reads: Sequence[Read] = ()) -> Tensor:
        """Text hidden states (T, D) after the final norm.

        With `reads`, one a layer, the text reads the video through them, and the video side of the batch does not run.
        """
        v_MD = None
        if batch.video is not None and not reads:
            assert batch.patches_PC is not None, "a batch with a video layout holds patches"
            v_MD = self.visual(batch.patches_PC, batch.video.tower)
        return self.model(batch, v_MD, reads)

    def head(self, t_TD: Tensor) -> Tensor:
        """Logits (T, V) of hidden states, float32 or wider."""
        logits = self.lm_head(t_TD)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    @torch.no_grad()
    def constrain_(self) -> None:
        """Bring every alpha back into [0, 1]; call after each optimizer step."""
        for layer in self.model.hybrid_layers:
            if layer.alpha is not None:
                layer.alpha.clamp_(0, 1)

    def set_activation_checkpointing(self, enabled: bool) -> None:
        """Keep only each layer's inputs for the backward pass and recompute the rest."""
        self.model.recompute_activations = enabled


class Vamba(PackedVamba, nn.Module):
    """The complete model, for packed batches.

    `backends` names the implementations of scan, convolution and attention, for `device` (by default the GPU where torch
    sees one); BackendUnavailable for one that is named and can't run there. Parameters are left uninitialised in the parts torch does not initialise: load a checkpoint
    (`vamba.model.pretrained`) or call `vamba.model.init.init_weights_`.
    """  # noqa: E501

    def __init__(
        self, config: ModelConfig, backends: Backends | None = None, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.visual, self.model, self.lm_head = build_parts(config, backends, device)

    @property
    def device(self) -> torch.device:
        return self.model.embed_tokens.weight.device

    def forward(self, batch: Batch) -> Tensor:
        """Logits (T, V), float32 or wider, of every text token of the batch."""
        return self.logits(batch)


def build_parts(
    config: ModelConfig, backends: Backends | None, device: torch.device | str | None
) -> tuple[VisionTower, HybridModel, nn.Linear]:
    """(visual, model, lm_head), the head tied to the embedding where the configuration says so."""
    model = HybridModel(config, choose(backends or Backends(), device))
    lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
    if config.tie_word_embeddings:
        lm_head.weight = model.embed_tokens.weight
    return VisionTower(config.vision), model, lm_head


def _divergence(logits_RV: Tensor, token_ids_Rk: Tensor, teacher_Rk: Tensor) -> Tensor:
    """Summed KL divergence of the model from the teacher, both renormalised over the teacher's top k tokens."""
    model_Rk = logits_RV.gather(1, token_ids_Rk).log_softmax(-1)
    return F.kl_div(model_Rk, teacher_Rk.to(model_Rk.dtype).log_softmax(-1), reduction="sum", log_target=True)
