"""A loaded model that looks at a video once and answers any number of questions about it.

    pieces of pixels ── lay out, tower, layers (vamba.streaming) ──> VideoMemory ── generate ──> texts

Used by `vamba evaluate` in this process, by its Ray replicas, and by `vamba ask`. A video goes through in pieces, so
neither the pixels nor the patches of an hour are ever in memory at once; where its keys and values lie is decided by the
rule of `vamba.streaming.placement` from what is free.
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vamba.ops.backends import Backends, describe

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from vamba.data.batch import Grid
    from vamba.data.frames import FrameProcessing
    from vamba.streaming.memory import VideoMemory
    from vamba.streaming.placement import Placement, Wish


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What one video's questions were answered, and what it took.

    num_frames: read by the model. backends: what it ran on. cache: "hit" or "miss", "" where no frame cache is used.
    encode_s: decoding, patches and vision. answer_s: all questions.
    """

    texts: tuple[str, ...]
    num_frames: int
    num_video_tokens: int
    backends: str
    cache: str
    encode_s: float
    answer_s: float


class Said(NamedTuple):
    """A prompt, what followed it, and that as text."""

    prompt_ids: list[int]
    answer_ids: list[int]
    text: str


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

    @property
    def backends(self) -> str:
        """What it runs on, in a line."""
        return describe(self.model.ops.names)

    def look(
        self,
        pixels: Iterable[np.ndarray],
        num_frames: int,
        *,
        wish: Wish | None = None,
        after: VideoMemory | None = None,
        times_ns: Sequence[int] = (),
        shown: Callable[[int], None] = lambda _: None,
    ) -> VideoMemory:
        """Encode frames, uint8[N, H, W, 3] of one size, as they come.

        num_frames: how many there will be, which decides where they fit. wish: where they are to lie. after: a memory that
        they follow. times_ns: when each frame is shown. shown: called with the number of frames that were encoded.
        """  # noqa: E501
        import torch

        from vamba.streaming.encoder import VideoEncoder

        step = self.processing.temporal_patch_size
        encoder: VideoEncoder | None = None
        done = 0
        with torch.inference_mode():
            for patches, grid in video_pieces(pixels, self.processing, self.device):
                if encoder is None:
                    placement = None if after else self._placement(grid, num_frames, wish)
                    encoder = VideoEncoder(self.model, placement, after=after)
                times = times_ns[done : done + step * grid[0] : step]
                encoder.add(patches, grid, times_ns=times)
                done += step * grid[0]
                shown(min(done, num_frames))
            if encoder is None:
                raise ValueError("the video has no frames: nothing to encode")
            return encoder.finish()

    def ask(self, memory: VideoMemory, questions: Sequence[str], *, max_new_tokens: int) -> tuple[str, ...]:
        """An answer to each question, all of them together."""
        return tuple(said.text for said in self.say(memory, questions, max_new_tokens=max_new_tokens))

    def say(self, memory: VideoMemory, questions: Sequence[str], *, max_new_tokens: int) -> list[Said]:
        """As `ask`, with the tokens."""
        import torch

        from vamba.data.text import encode_prompt
        from vamba.hf.prompts import continue_prompts

        prompts = [list(encode_prompt(self.tokenizer, question, media=True)) for question in questions]
        with torch.inference_mode():
            ids = continue_prompts(
                self.model, prompts, memory, max_new_tokens=max_new_tokens, eos_ids=self.tokenizer.eos_ids
            )
        texts = [self.tokenizer.decode(row).strip() for row in ids]
        return [Said(prompt, row, text) for prompt, row, text in zip(prompts, ids, texts, strict=True)]

    def weigh(self, memory: VideoMemory, said: Said) -> list[float]:
        """How much of its attention an answer gave each frame pair; see `vamba.streaming.attention_mass`."""
        from vamba.streaming.attention_mass import answer_mass, pair_mass

        return pair_mass(answer_mass(self.model, memory, said.prompt_ids, said.answer_ids), memory.media)

    def _placement(self, grid: Grid, num_frames: int, wish: Wish | None) -> Placement:
        from vamba.data.frames import num_frame_pairs
        from vamba.streaming.placement import Wish, choose, free_room, sizes_of

        wish = wish or Wish()
        config = self.model.architecture
        tokens_per_pair = grid[1] * grid[2] // config.vision.spatial_merge_size**2
        num_tokens = num_frame_pairs(num_frames, self.processing) * tokens_per_pair
        dtype = self.model.model.hybrid_layers[0].cross_attn.k_proj.weight.dtype
        sizes = sizes_of(config, num_tokens, dtype, fp8=wish.fp8)
        return choose(sizes, free_room(self.model.device, wish.directory), wish)


def video_pieces(
    pixels: Iterable[np.ndarray], processing: FrameProcessing, device: str = "cpu"
) -> Iterator[tuple[Tensor, Grid]]:
    """Consecutive (uint8[P, C] patches on `device`, (t, h, w) grid) of a video. An odd last frame is left out.

    The frames are what is copied to the device; it resizes them. Raises ValueError for a frame that differs in size
    from those before it.
    """
    import torch

    from vamba.data.frames import frames_to_patches

    step = processing.temporal_patch_size
    start = 0
    size: tuple[int, ...] | None = None
    for piece in pixels:
        height, width = piece.shape[1:3]
        if size not in (None, (width, height)):
            raise ValueError(f"the frames change size at frame {start}: {(width, height)} pixels after {size}")
        size = (width, height)
        usable = len(piece) - len(piece) % step
        if usable or not start:  # a single frame is shown twice
            yield frames_to_patches(torch.from_numpy(piece[: usable or None]).to(device), processing)
        start += len(piece)


def chance_level(num_options: Iterable[int]) -> float | None:
    """Expected accuracy of guessing, None when no question lists its options."""
    counts = [count for count in num_options if count > 1]
    return sum(1 / count for count in counts) / len(counts) if counts else None
