"""The frames of a sample as pixels, whatever form they are stored in.

    Sample ──stored_frames──> JpegFrames or H264Frames ──decode(indices)──> uint8[N, H, W, 3]

What reads samples (the training reader, evaluation, previews) asks for the frames it needs and never for their form.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from vamba.data.frames import Empty, decode_jpegs
from vamba.data.h264 import decode_h264
from vamba.data.sample import Sample


class StoredFrames(Protocol):
    """Frames that are not decoded yet, in presentation order."""

    def __len__(self) -> int:
        """How many there are."""

    def decode(self, indices: Sequence[int], empty: Empty = np.empty) -> np.ndarray:
        """The frames with these numbers -> uint8[N, H, W, 3], RGB. ValueError names what can't be decoded.

        empty: gives the memory for them, where the decoder writes into memory.
        """


class JpegFrames:
    """A JPEG file each."""

    def __init__(self, files: Sequence[bytes]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def decode(self, indices: Sequence[int], empty: Empty = np.empty) -> np.ndarray:
        return decode_jpegs([self._files[index] for index in indices], empty)


class H264Frames:
    """One stream of short groups; see `vamba.data.h264`."""

    def __init__(self, stream: bytes, num_frames: int, width: int, height: int) -> None:
        self._stream, self._num_frames, self._width, self._height = stream, num_frames, width, height

    def __len__(self) -> int:
        return self._num_frames

    def decode(self, indices: Sequence[int], empty: Empty = np.empty) -> np.ndarray:
        return decode_h264(self._stream, indices, width=self._width, height=self._height)


def stored_frames(sample: Sample) -> StoredFrames:
    """The frames of a sample."""
    if sample.store == "jpeg":
        return JpegFrames(sample.frames)
    return H264Frames(sample.video, sample.num_frames, sample.width, sample.height)
