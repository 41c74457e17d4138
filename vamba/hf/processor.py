"""Frames and questions in, the model's arguments out, on the device the model is on.

    VambaProcessor("What happens?", videos=frames) ──> {input_ids, attention_mask, pixel_values_videos, video_grid_thw, …}

Prompts are those the model was trained with (`vamba.data.text`): the video takes no text positions, so a question is as
long as its words. Frames are resized where they are given: hand over a tensor on the GPU to have it done there.
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vamba.data.frames import FrameProcessing, frames_to_patches, stack_frames
from vamba.data.text import Tokenizer, encode_prompt, load_tokenizer
from vamba.model.pretrained import read_processing

if TYPE_CHECKING:
    from vamba.data.batch import Grid

Frames = np.ndarray | Tensor | Sequence[np.ndarray]
"""uint8 (N, H, W, 3), or N pictures (H, W, 3)."""


class VambaProcessor:
    """A tokenizer and a frame processing, read from a checkpoint directory."""

    def __init__(self, tokenizer: Tokenizer, processing: FrameProcessing) -> None:
        self.tokenizer, self.processing = tokenizer, processing

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> VambaProcessor:
        """Raises ValueError where the directory holds no tokenizer."""
        return cls(load_tokenizer(directory), read_processing(directory))

    def __call__(
        self,
        text: str | Sequence[str],
        *,
        videos: Frames | Sequence[Sequence[Frames]] | None = None,
        images: np.ndarray | Tensor | Sequence[Sequence[np.ndarray | Tensor]] | None = None,
        device: torch.device | str | None = None,
    ) -> dict[str, Any]:
        """Arguments of the model's `forward` and `generate`.

        One question may come with one video (uint8 (N, H, W, 3)) and one image (uint8 (H, W, 3)); several questions with one
        list of videos and one of images each. Prompts are padded on the left. Raises ValueError where the numbers don't fit,
        and for frames that can't be processed.
        """  # noqa: E501
        questions = [text] if isinstance(text, str) else list(text)
        items = {
            "images": _per_question(images, questions, alone=isinstance(text, str)),
            "videos": _per_question(videos, questions, alone=isinstance(text, str)),
        }
        has_media = [bool(i or v) for i, v in zip(items["images"], items["videos"], strict=True)]
        prompts = [encode_prompt(self.tokenizer, q, media=m) for q, m in zip(questions, has_media, strict=True)]
        longest = max(map(len, prompts))
        fill = self.tokenizer.endoftext_id
        inputs: dict[str, Any] = {
            "input_ids": torch.tensor([[fill] * (longest - len(ids)) + ids for ids in prompts], device=device),
            "attention_mask": torch.tensor(
                [[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts], device=device
            ),
        }
        for kind, pixels, grids in (
            ("images", "pixel_values", "image_grid_thw"),
            ("videos", "pixel_values_videos", "video_grid_thw"),
        ):
            made = [self._patches(item, kind, device) for row in items[kind] for item in row]
            if made:
                inputs[pixels] = torch.cat([patches for patches, _ in made])
                inputs[grids] = torch.tensor([grid for _, grid in made], device=device)
        counts = [(len(i), len(v)) for i, v in zip(items["images"], items["videos"], strict=True)]
        return {**inputs, "media_per_sample": counts} if any(has_media) else inputs

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """The text of generated ids, without special tokens."""
        return self.tokenizer.decode(ids.tolist() if isinstance(ids, Tensor) else list(ids)).strip()

    def _patches(self, item: Any, kind: str, device: torch.device | str | None) -> tuple[Tensor, Grid]:
        frames = item[None] if kind == "images" else item
        if not isinstance(frames, np.ndarray | Tensor):
            frames = stack_frames(frames)
        tensor = torch.as_tensor(frames)
        return frames_to_patches(tensor if device is None else tensor.to(device), self.processing)


def _per_question(given: Any, questions: Sequence[str], *, alone: bool) -> list[list[Any]]:
    """The items of each question."""
    if given is None:
        return [[] for _ in questions]
    if alone:
        return [[given]]
    rows = [list(row) for row in given]
    if len(rows) != len(questions):
        raise ValueError(f"{len(questions)} questions came with {len(rows)} lists of media; give one list per question")
    return rows
