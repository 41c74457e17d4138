"""How large stored frames will be, guessed before any is decoded, so that shards can be planned near their size.

What a picture costs one encoder tells what it will cost another: the keyframes of the source are pictures that stand
alone, and demuxing gives their sizes. Over films, street scenes, test pictures, fractals and noise, a JPEG of quality
85 takes 0.65 times the square root of the keyframe's bytes per pixel, within a factor of 1.6 for two in three and of
3.5 for the worst (drawings of few lines); a fixed 0.16 bytes a pixel was off by up to 6.5.
"""

from __future__ import annotations

import numpy as np

from pipelines.ingest.config import FrameStorage
from pipelines.ingest.types import ProbedVideo
from vamba.data.sample import Store

_BYTES_PER_PIXEL = 0.65
_LIMITS_PER_PIXEL = (0.02, 1.0)
# Bytes of a keyframe over H.264's of the same picture, where they differ by more than half.
_KEYFRAME_FACTORS = {"hevc": 0.6, "prores": 8.0, "ffv1": 4.4}
_JPEG_HEADER_BYTES = 620
# Size over that of JPEG 85, for the middle of four films.
_QUALITIES, _QUALITY_FACTORS = (1, 10, 30, 50, 75, 85, 90, 95, 100), (0.1, 0.2, 0.37, 0.5, 0.75, 1.0, 1.25, 1.8, 3.6)
_CRFS, _CRF_FACTORS = (0, 12, 18, 23, 28, 34, 51), (5.0, 2.0, 1.2, 0.7, 0.38, 0.18, 0.02)


def frame_bytes(probe: ProbedVideo, width: int, height: int, store: Store, storage: FrameStorage) -> int:
    """About how many bytes a stored frame of `width` x `height` pixels will have."""
    source = probe.mean_key_bytes / (probe.width * probe.height) / _KEYFRAME_FACTORS.get(probe.codec, 1.0)
    per_pixel = float(np.clip(_BYTES_PER_PIXEL * np.sqrt(source), *_LIMITS_PER_PIXEL))
    if store == "h264":
        return max(1, round(width * height * per_pixel * float(np.interp(storage.crf, _CRFS, _CRF_FACTORS))))
    factor = float(np.interp(storage.jpeg_quality, _QUALITIES, _QUALITY_FACTORS))
    return _JPEG_HEADER_BYTES + round(width * height * per_pixel * factor)
