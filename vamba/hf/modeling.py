"""The hybrid as a transformers model: the same parts and names as `vamba.model.vamba.Vamba`, with transformers' calls.

    rows ── pack_rows ──> Batch ── packed model ──> logits, loss            training and scoring: nothing is padded
    media ── encode_rows ──> RowVideos ─┐
    rows + cache ──────────────────────┴─ cached model ──> logits           generation: each video is encoded once

Importing this module makes `AutoConfig` and `AutoModelForImageTextToText` know the model type `vamba`.

Shapes: B rows, T text tokens of a padded row, P patches, C values per patch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, Cache, DynamicCache, GenerationMixin, PreTrainedModel

from vamba.data.batch import Batch, Grid
from vamba.hf.cached import RowVideos, cached_hidden_states
from vamba.hf.configuration import VambaConfig
from vamba.hf.loading import load_pretrained, write_pretrained
from vamba.hf.output import output
from vamba.hf.rows import Media, TeacherCache, deal_media, pack_rows, spread
from vamba.model.config import ModelConfig
from vamba.model.init import init_weights_
from vamba.model.vamba import PackedVamba, build_parts
from vamba.ops.backends import Backends
from vamba.streaming import encoder
from vamba.streaming.memory import VideoMemory


class VambaForConditionalGeneration(PackedVamba, PreTrainedModel, GenerationMixin):
    """Text generation about images and videos. Vamba (arXiv 2503.11579).

    `backends` names the implementations of scan, convolution and attention for `device`, by default the GPU where torch sees
    one (`self.ops.names` says what was chosen); a named one that can't run there raises BackendUnavailable.
    """  # noqa: E501

    config_class = VambaConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("image", "video", "text")
    _supports_sdpa = True
    _no_split_modules = ["HybridLayer", "VisionBlock"]
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(
        self, config: VambaConfig, backends: Backends | None = None, device: torch.device | str | None = None
    ) -> None:
        PreTrainedModel.__init__(self, config)
        self.visual, self.model, self.lm_head = build_parts(config.architecture, backends, device)
        self.post_init()

    @property
    def architecture(self) -> ModelConfig:
        """As `config` has it now: transformers changes it when it resizes embeddings, users when they set a weight."""
        return self.config.architecture

    def init_weights(self) -> None:
        """Fresh weights from seed 0; `vamba.model.init.init_weights_` takes another."""
        if self.device.type != "meta":
            init_weights_(self)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        *,
        past_key_values: Cache | None = None,
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        video_grid_thw: Tensor | None = None,
        media_per_sample: Sequence[tuple[int, int]] | None = None,
        videos: RowVideos | VideoMemory | Sequence[VideoMemory | None] | None = None,
        labels: Tensor | None = None,
        teachers: Sequence[TeacherCache | None] | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        return_dict: bool | None = None,
    ) -> Any:
        """A VambaOutput (see `vamba.hf.output.output`): logits, and the loss where there are labels.

        input_ids (B, T): padded on either side (attention_mask (B, T), 1 at real tokens), or several samples per row, whose
        position_ids restart at 0. pixel_values*: (P, C) patch rows; *_grid_thw: (items, 3), as Qwen2-VL's processors make
        them. media_per_sample: (images, videos) of each sample; by default one item each, or all for a single sample.
        labels (B, T): -100 where no loss is taken, not shifted. teachers: cached top-k logits of each sample, for
        distillation. With use_cache or a cache (`past_key_values` is its older name), or videos that are encoded already, the
        pass is one step of a generation, without gradients for the video. Raises ValueError where numbers or shapes don't fit.
        """  # noqa: E501
        media = ((pixel_values, image_grid_thw), (pixel_values_videos, video_grid_thw))
        cache = past_key_values if cache is None else cache
        if position_ids is not None and position_ids.ndim == 3:
            position_ids = position_ids[0]  # text has the same position on all three axes
        if attention_mask is not None and attention_mask.ndim != 2 and cache is None:
            raise ValueError(
                f"attention_mask has shape {list(attention_mask.shape)}; it must be (rows, tokens). Packed samples are "
                "told apart by position_ids that restart at 0"
            )
        if labels is not None and (videos is not None or cache is not None):
            raise ValueError("labels need pixels, not encoded videos or a cache: a loss is a pass of its own")
        if labels is not None or not (use_cache or cache is not None or videos is not None):
            made = self._packed(
                input_ids, attention_mask, position_ids, labels, teachers, media, media_per_sample, logits_to_keep
            )
        else:
            if any(pixels is not None for pixels, _ in media):
                videos = self.encode_rows(len(input_ids), *media, media_per_sample=media_per_sample)
            cache = DynamicCache() if use_cache and cache is None else cache
            made = self._cached(input_ids, attention_mask, position_ids, cache, videos, logits_to_keep)
        return made if return_dict in (None, True) else made.to_tuple()

    def encode_video(
        self, patches: np.ndarray | Tensor, grid_thw: Grid | Sequence[Grid], **options: Any
    ) -> VideoMemory:
        """Run the video side once, of media one after the other: see `vamba.streaming.encoder.encode_video`."""
        return encoder.encode_video(self, patches, grid_thw, **options)

    def encode_video_stream(self, pieces: Iterable[tuple[np.ndarray | Tensor, Grid]], **options: Any) -> VideoMemory:
        """`encode_video` of one video that arrives in pieces of whole frame pairs, never in memory at once."""
        return encoder.encode_video_stream(self, pieces, **options)

    def encode_rows(
        self, rows: int, images: Media, videos: Media, *, media_per_sample: Sequence[tuple[int, int]] | None = None
    ) -> RowVideos:
        """Run the video side of every row once; hand the result to `generate` or `forward` as `videos`."""
        memories: list[VideoMemory | None] = []
        for media in deal_media(rows, images, videos, media_per_sample):
            if media:
                patches = torch.cat([patches for patches, _ in media])
                memories.append(self.encode_video(patches, [grid for _, grid in media]))
            else:
                memories.append(None)
        return RowVideos(memories=tuple(memories))

    def generate(self, inputs: Tensor | None = None, **kwargs: Any) -> Any:
        """transformers' generate, with media as in `forward`, or `videos` that were encoded before.

        Every video is encoded once, before the first token, whatever the number of beams, samples and steps.
        """
        kwargs["input_ids"] = inputs if inputs is not None else kwargs.get("input_ids")
        pixels = [(kwargs.pop(p, None), kwargs.pop(g, None)) for p, g in _MEDIA_ARGUMENTS]
        media_per_sample = kwargs.pop("media_per_sample", None)
        if any(patches is not None for patches, _ in pixels):
            if kwargs.get("videos") is not None:
                raise ValueError("generate takes pixels or encoded videos, not both")
            rows = len(kwargs["input_ids"])
            kwargs["videos"] = self.encode_rows(rows, *pixels, media_per_sample=media_per_sample)
        elif kwargs.get("videos") is not None:
            # As one object, so that rows which beams repeat later are dealt their videos by the rows of now.
            kwargs["videos"] = RowVideos.of(kwargs["videos"], len(kwargs["input_ids"]))
        return super().generate(**kwargs)

    def _packed(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        labels: Tensor | None,
        teachers: Sequence[TeacherCache | None] | None,
        media: Sequence[Media],
        media_per_sample: Sequence[tuple[int, int]] | None,
        logits_to_keep: int | Tensor,
    ) -> Any:
        real = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        if real.shape != input_ids.shape:
            raise ValueError(f"attention_mask has shape {list(real.shape)}; it must be {list(input_ids.shape)}")
        batch = pack_rows(
            input_ids,
            real,
            position_ids_BT=position_ids,
            labels_BT=labels,
            images=media[0],
            videos=media[1],
            media_per_sample=media_per_sample,
            teachers=teachers,
            merge_size=self.architecture.vision.spatial_merge_size,
        ).to(self.device)
        hidden_TD = self.hidden_states(batch)
        # The head has no bias: zeros at padding stay zeros.
        logits = self.head(spread(hidden_TD, real)[:, _kept(logits_to_keep)])
        return output(logits=logits, loss=None if labels is None else self._mean_loss(batch, hidden_TD))

    def _cached(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        cache: Cache | None,
        videos: RowVideos | VideoMemory | Sequence[VideoMemory | None] | None,
        logits_to_keep: int | Tensor,
    ) -> Any:
        row_videos = None if videos is None else RowVideos.of(videos, len(input_ids))
        hidden_BTD = cached_hidden_states(
            self,
            input_ids,
            attention_mask=attention_mask,
            position_ids_BT=position_ids,
            cache=cache,
            videos=row_videos,
        )
        logits = self.head(hidden_BTD[:, _kept(logits_to_keep)])
        return output(logits=logits, cache=cache, videos=row_videos)

    def _mean_loss(self, batch: Batch, hidden_TD: Tensor) -> Tensor:
        terms = self.loss_terms(batch, hidden_TD)
        loss = terms.cross_entropy / max(1, terms.num_loss_tokens)
        if terms.divergence is not None:
            loss = loss + self.architecture.distill_coeff * terms.divergence / max(1, terms.num_teacher_tokens)
        return loss

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        """Keep only each layer's inputs for the backward pass; torch's non-reentrant way is the only one."""
        self.set_activation_checkpointing(True)

    def gradient_checkpointing_disable(self) -> None:
        self.set_activation_checkpointing(False)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        config: VambaConfig | None = None,
        dtype: torch.dtype | str | None = None,
        device_map: str | torch.device | None = None,
        backends: Backends | None = None,
        **options: Any,
    ) -> VambaForConditionalGeneration:
        """The model of a checkpoint directory, in evaluation mode.

        The directory is in the release's layout: its own, ours, or what `vamba model convert` wrote. `dtype` converts
        floating parameters but for those of the scan and alpha; by default each keeps the stored one. `device_map` is one
        device. Raises CheckpointMismatch naming tensors that don't fit, ValueError for what is no local checkpoint and for
        options this model does not know.
        """  # noqa: E501
        return load_pretrained(cls, pretrained_model_name_or_path, config, dtype, device_map, backends, options)

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        """Write the release's layout: config.json, safetensors, and the tokenizer of the directory this model is from.

        Options: `max_shard_size` (bytes or such as "5GB"), `tokenizer_dir`. Raises ValueError for others.
        """
        write_pretrained(self, save_directory, options)


_MEDIA_ARGUMENTS = (("pixel_values", "image_grid_thw"), ("pixel_values_videos", "video_grid_thw"))


def _kept(logits_to_keep: int | Tensor) -> slice | Tensor:
    """The positions transformers asks logits of: the last so many (all for 0), or those listed."""
    if not isinstance(logits_to_keep, int):
        return logits_to_keep
    return slice(-logits_to_keep, None) if logits_to_keep else slice(None)


AutoConfig.register(VambaConfig.model_type, VambaConfig, exist_ok=True)
AutoModelForImageTextToText.register(VambaConfig, VambaForConditionalGeneration, exist_ok=True)
