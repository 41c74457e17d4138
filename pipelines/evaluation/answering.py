"""A loaded model that looks at a video once and answers any number of questions about it.

    stored frames ──decode, lay out (a piece at a time)──> patches ──encode──> VideoMemory ──generate──> text

Used by `vamba evaluate` in this process, by its Ray replicas, and by `vamba ask`. A video goes through in pieces, so
neither the pixels nor the patches of an hour are ever in memory at once.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vamba.ops.backends import Backends, describe

if TYPE_CHECKING:
    from torch import Tensor

    from vamba.data.frames import FrameProcessing
    from vamba.data.stored_frames import StoredFrames

_CHUNK_FRAMES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What one video's questions were answered, and what it took.

    num_frames: read by the model. backends: what it ran on.
    encode_s: decoding, patches and vision. answer_s: all questions.
    """

    texts: tuple[str, ...]
    num_frames: int
    num_video_tokens: int
    backends: str
    encode_s: float
    answer_s: float


class Answerer:
    """A model, its tokenizer and its frame processing, ready to answer."""

    def __init__(
        self, directory: Path, *, device: str = "auto", dtype: str = "float32", backends: Backends | None = None
    ) -> None:
        """Load the model in `directory`. Raises ValueError naming what is missing from it, or can't run here."""
        import torch

        from vamba.data.text import load_tokenizer
        from vamba.hf.modeling import VambaForConditionalGeneration
        from vamba.model.pretrained import read_processing

        self.device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self.processing: FrameProcessing = read_processing(directory)
        self.tokenizer = load_tokenizer(directory)
        self.model = VambaForConditionalGeneration.from_pretrained(
            directory, dtype=dtype, device_map=self.device, backends=backends
        )

    def answer(self, frames: StoredFrames, questions: Sequence[str], *, max_new_tokens: int) -> Reply:
        """Show the video once and ask everything."""
        import torch

        from vamba.data.text import encode_prompt
        from vamba.hf.prompts import continue_prompts

        started = time.monotonic()
        with torch.inference_mode():
            memory = self.model.encode_video_stream(video_pieces(frames, self.processing, self.device))
            encoded = time.monotonic()
            prompts = [encode_prompt(self.tokenizer, question, media=True) for question in questions]
            ids = continue_prompts(
                self.model, prompts, memory, max_new_tokens=max_new_tokens, eos_ids=self.tokenizer.eos_ids
            )
        return Reply(
            texts=tuple(self.tokenizer.decode(row).strip() for row in ids),
            num_frames=len(frames),
            num_video_tokens=memory.num_tokens,
            backends=describe(self.model.ops.names),
            encode_s=encoded - started,
            answer_s=time.monotonic() - encoded,
        )


def video_pieces(
    frames: StoredFrames, processing: FrameProcessing, device: str = "cpu"
) -> Iterator[tuple[Tensor, tuple[int, int, int]]]:
    """Consecutive (uint8[P, C] patches on `device`, (t, h, w) grid) of a video. An odd last frame is left out.

    The decoded frames are what is copied to the device; it resizes them. Raises ValueError for a frame that can't be
    decoded, or differs in size from those before it.
    """
    import torch

    from vamba.data.frames import frames_to_patches

    step = processing.temporal_patch_size
    usable = range(len(frames) - len(frames) % step or len(frames))
    piece = max(_CHUNK_FRAMES - _CHUNK_FRAMES % step, step)
    size: tuple[int, ...] | None = None
    for start in range(0, len(usable), piece):
        pixels = frames.decode(usable[start : start + piece])
        height, width = pixels.shape[1:3]
        if size not in (None, (width, height)):
            raise ValueError(f"the frames change size at frame {start}: {(width, height)} pixels after {size}")
        size = (width, height)
        yield frames_to_patches(torch.from_numpy(pixels).to(device), processing)


def chance_level(num_options: Iterable[int]) -> float | None:
    """Expected accuracy of guessing, None when no question lists its options."""
    counts = [count for count in num_options if count > 1]
    return sum(1 / count for count in counts) / len(counts) if counts else None
