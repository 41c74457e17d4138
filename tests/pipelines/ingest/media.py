"""Makes small videos with ffmpeg, and reads videos back with the ffmpeg program, which shares no code with ours."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import ffmpeg
import numpy as np

from pipelines.ffmpeg import ffmpeg_binary


def make_video(
    path: Path,
    *,
    seconds: float = 4,
    fps: int | str = 10,
    size: str = "96x64",
    audio: bool = False,
    filters: str = "",
    **options: Any,
) -> Path:
    """A test picture with a running counter; `options` go to ffmpeg's output."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = f"testsrc2=size={size}:rate={fps}:duration={seconds}" + (f",{filters}" if filters else "")
    inputs = [ffmpeg.input(picture, f="lavfi")]
    if audio:
        inputs.append(ffmpeg.input(f"sine=frequency=440:duration={seconds}", f="lavfi"))
    defaults = {"vcodec": "libx264", "pix_fmt": "yuv420p", "g": 20, "threads": 1}
    run(ffmpeg.output(*inputs, str(path), **{**defaults, **options}))
    return path


def remux(source: Path, path: Path, input_options: dict[str, Any] | None = None, **options: Any) -> Path:
    """Copies the streams into another container, without decoding."""
    run(ffmpeg.input(str(source), **(input_options or {})).output(str(path), **{"c": "copy", **options}))
    return path


def with_edits(source: Path, path: Path, edits: list[tuple[int, int]]) -> Path:
    """A copy of an MP4 of one stream, whose index comes last, with another edit list.

    An edit is how long it is shown, in milliseconds, and where it starts in the media, in its time base (-1: nothing).
    """
    data = bytearray(source.read_bytes())
    entries = b"".join(struct.pack(">IiI", shown_ms, start, 0x10000) for shown_ms, start in edits)
    box = struct.pack(">I4sII", 16 + len(entries), b"elst", 0, len(edits)) + entries
    at = data.index(b"elst") - 4
    (old_size,) = struct.unpack_from(">I", data, at)
    data[at : at + old_size] = box
    moov = data.rindex(b"moov") - 4
    trak = data.index(b"trak", moov) - 4
    for parent in (moov, trak, data.index(b"edts", trak) - 4):
        (size,) = struct.unpack_from(">I", data, parent)
        struct.pack_into(">I", data, parent, size + len(box) - old_size)
    path.write_bytes(data)
    return path


def run(stream: Any) -> None:
    """Runs ffmpeg; an error shows what ffmpeg said."""
    try:
        stream.run(cmd=ffmpeg_binary(), overwrite_output=True, capture_stderr=True, quiet=True)
    except ffmpeg.Error as error:
        raise AssertionError(error.stderr.decode(errors="replace")) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """Every frame of a video, as ffmpeg presents it."""

    times: list[Fraction]  # seconds from the first frame
    end: Fraction  # when the last frame leaves the screen
    frames_NHW3: np.ndarray  # uint8 RGB, upright


def decode_all(path: Path, width: int, height: int) -> Decoded:
    """All frames at the given size, with their times."""
    kept = {"fps_mode": "passthrough", "enc_time_base": "demux", "map": "0:v:0"}
    source = ffmpeg.input(str(path), threads=1)
    listing, _ = source.output("-", f="framecrc", copyts=None, **kept).run(cmd=ffmpeg_binary(), quiet=True)
    raw, _ = source.output(
        "-", f="rawvideo", pix_fmt="rgb24", vf=f"scale={width}:{height}:flags=area+accurate_rnd", **kept
    ).run(cmd=ffmpeg_binary(), quiet=True)
    lines = listing.decode().splitlines()
    time_base = next(Fraction(line.split(":")[1].strip()) for line in lines if line.startswith("#tb"))
    fields = [line.split(",") for line in lines if not line.startswith("#")]
    pts = [int(field[2]) for field in fields]
    end = (pts[-1] + int(fields[-1][3]) - pts[0]) * time_base
    frames = np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)
    assert len(frames) == len(pts)
    return Decoded(times=[(value - pts[0]) * time_base for value in pts], end=end, frames_NHW3=frames)
