"""A decoded frame to what is stored of it: scaled, tone-mapped if HDR, upright; a JPEG file, or a picture for H.264.

Measured on a 640x360 frame: scaling in YUV 0.2 ms, conversion to RGB and libjpeg-turbo 0.7 ms, together less than
half of ffmpeg's mjpeg encoder with the same colour conversion, or PIL. The result depends on nothing but the frame.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import simplejpeg
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from pipelines.ingest.gamut import is_wide, to_bt709
from pipelines.ingest.h264 import encode_groups, to_yuv420p
from pipelines.ingest.tonemap import is_hdr, tone_map
from pipelines.ingest.types import DecodeRequest

# Bit-exact area averaging: the same bytes on any processor, no aliasing.
_SCALING = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
_COLORSPACES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}


def store_frame(frame: Any, request: DecodeRequest) -> bytes:
    """A decoded frame (an av.VideoFrame) as its JPEG file, or as the picture that `store_frames` will encode."""
    pixels = upright_rgb(frame, width=request.width, height=request.height, orientation=request.orientation)
    return to_yuv420p(pixels) if request.h264 is not None else _jpeg(pixels, request.jpeg_quality)


def store_frames(frames: list[bytes], request: DecodeRequest) -> list[bytes]:
    """What `store_frame` gave for all targets of a request → what is staged: a JPEG file or an H.264 unit each."""
    if request.h264 is None:
        return frames
    gop_frames, crf = request.h264.gop_frames, request.h264.crf
    return encode_groups(frames, width=request.width, height=request.height, gop_frames=gop_frames, crf=crf)


def store_some_frames(frames: list[bytes | None], request: DecodeRequest) -> list[bytes | None]:
    """As `store_frames`, where some targets are lost (None): what is left of a group of H.264 is a shorter group."""
    if request.h264 is None:
        return frames
    stored: list[bytes | None] = []
    for start in range(0, len(frames), request.h264.gop_frames):
        group = frames[start : start + request.h264.gop_frames]
        units = iter(store_frames([frame for frame in group if frame is not None], request))
        stored += [None if frame is None else next(units) for frame in group]
    return stored


def encode_frame(frame: Any, *, width: int, height: int, orientation: str, jpeg_quality: int) -> bytes:
    """JPEG of one decoded frame; `jpeg_quality` from 1 to 100, the rest as `upright_rgb`."""
    return _jpeg(upright_rgb(frame, width=width, height=height, orientation=orientation), jpeg_quality)


def upright_rgb(frame: Any, *, width: int, height: int, orientation: str) -> np.ndarray:
    """The picture that is stored, uint8 [height, width, 3] of BT.709.

    Args:
        frame: an av.VideoFrame, as decoded.
        width: of the picture, pixels, after turning upright.
        height: of the picture, pixels, after turning upright.
        orientation: see `probe._orientation`.
    """
    scaled_width, scaled_height = (height, width) if "t" in orientation else (width, height)
    needs_scaling = (frame.width, frame.height) != (scaled_width, scaled_height)
    if is_hdr(frame):
        rgb = tone_map(frame, scaled_width, scaled_height, _SCALING if needs_scaling else None)
    else:
        rgb = _sdr_to_rgb(frame, scaled_width, scaled_height)
        if is_wide(frame):
            rgb = to_bt709(rgb, frame.color_primaries)
    for step in orientation:
        rgb = rgb.transpose(1, 0, 2) if step == "t" else rgb[:, ::-1] if step == "x" else rgb[::-1]
    return np.ascontiguousarray(rgb)


def _jpeg(pixels: np.ndarray, quality: int) -> bytes:
    return bytes(simplejpeg.encode_jpeg(pixels, quality=quality, colorspace="RGB", colorsubsampling="420"))


def _sdr_to_rgb(frame: Any, width: int, height: int) -> np.ndarray:
    # A stream that does not tell its colour matrix is read as BT.601, limited range, like ffmpeg does.
    colorspace = _COLORSPACES.get(int(frame.colorspace), Colorspace.ITU601)
    is_full_range = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
    if (frame.width, frame.height) != (width, height) and frame.format.name.startswith("yuv"):
        frame = frame.reformat(width=width, height=height, interpolation=_SCALING, threads=1)
    rgb: np.ndarray = frame.reformat(
        width=width,
        height=height,
        format="rgb24",
        src_colorspace=colorspace,
        src_color_range=ColorRange.JPEG if is_full_range else ColorRange.MPEG,
        interpolation=_SCALING if frame.width != width or frame.height != height else None,
        threads=1,
    ).to_ndarray()
    return rgb
