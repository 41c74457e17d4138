"""Datasets of textured pictures, for tests of what looks at pixels."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence

import numpy as np
import simplejpeg
from PIL import Image

from vamba.data.sample import Conversation, Sample, Turn


def film(seed: int, num_frames: int = 16, width: int = 160, height: int = 96) -> list[np.ndarray]:
    """Smooth random pictures, a new one every second frame: uint8[H, W, 3]."""
    rng = np.random.default_rng(seed)
    pictures = []
    for _ in range((num_frames + 1) // 2):
        coarse = Image.fromarray(rng.integers(0, 230, (6, 10, 3), np.uint8))
        pictures += [np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))] * 2
    return pictures[:num_frames]


def jpegs(pictures: Sequence[np.ndarray], quality: int = 85) -> tuple[bytes, ...]:
    return tuple(simplejpeg.encode_jpeg(np.ascontiguousarray(picture), quality=quality) for picture in pictures)


def rescaled(pictures: Sequence[np.ndarray], width: int, height: int) -> list[np.ndarray]:
    return [np.asarray(Image.fromarray(item).resize((width, height), Image.Resampling.BILINEAR)) for item in pictures]


def brighter(pictures: Sequence[np.ndarray], by: int) -> list[np.ndarray]:
    return [np.clip(item.astype(int) + by, 0, 255).astype(np.uint8) for item in pictures]


def sample_of(
    name: str,
    frames: Sequence[bytes],
    *,
    digest_of: str = "",
    split: str = "train",
    conversations: Sequence[Conversation] = (),
) -> Sample:
    """One frame per second. Samples with equal `digest_of` are of one file."""
    with Image.open(io.BytesIO(frames[0])) as image:
        width, height = image.size
    return Sample(
        id=name,
        media="video",
        split=split,  # type: ignore[arg-type]
        source_uri=f"/videos/{name}.mp4",
        source_digest="sha256:" + hashlib.sha256((digest_of or name).encode()).hexdigest(),
        duration_ns=len(frames) * 10**9,
        width=width,
        height=height,
        timestamps_ns=tuple(index * 10**9 for index in range(len(frames))),
        conversations=tuple(conversations),
        frames=tuple(frames),
    )


def talk(question: str, answer: str = "Yes.", name: str = "q") -> Conversation:
    return Conversation(id=name, turns=(Turn(speaker="human", value=question), Turn(speaker="gpt", value=answer)))
