"""Small videos of every container and codec, and ways to damage them, all drawn from a seed.

`make_seeds` writes the videos with ffmpeg. `damaged(number, …)` is a pure function of the seed and the number: it takes
one of the videos, or two, and returns the name and the bytes of a damaged file.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ffmpeg

from pipelines.ffmpeg import ffmpeg_binary

# File name: options of ffmpeg's output.
SEEDS: dict[str, dict[str, Any]] = {
    "h264.mp4": {"vcodec": "libx264", "bf": 2},
    "h264-faststart.mp4": {"vcodec": "libx264", "bf": 2, "movflags": "faststart"},
    "h264-fragments.mp4": {"vcodec": "libx264", "movflags": "frag_keyframe+empty_moov"},
    "h264.mkv": {"vcodec": "libx264", "bf": 2},
    "h264.ts": {"vcodec": "libx264", "bf": 2},
    "hevc.mp4": {"vcodec": "libx265", "x265-params": "log-level=error:pools=none"},
    "vp9.webm": {"vcodec": "libvpx-vp9", "deadline": "realtime", "cpu-used": 8},
    "vp8.webm": {"vcodec": "libvpx", "deadline": "realtime"},
    "av1.mkv": {"vcodec": "libaom-av1", "cpu-used": 8, "usage": "realtime"},
    "mpeg2.ts": {"vcodec": "mpeg2video", "bf": 2},
    "mpeg2.mpg": {"vcodec": "mpeg2video"},
    "mpeg4.avi": {"vcodec": "mpeg4"},
    "mjpeg.avi": {"vcodec": "mjpeg", "pix_fmt": "yuvj420p"},
    "prores.mov": {"vcodec": "prores_ks", "profile": 0, "pix_fmt": "yuv422p10le"},
    "wmv2.wmv": {"vcodec": "wmv2"},
    "theora.ogv": {"vcodec": "libtheora"},
}
_HEADER_BYTES = 512


def make_seeds(folder: Path) -> list[Path]:
    """Writes the whole videos: 64x48, 10 frames a second, a second and a half with a keyframe every half."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, options in SEEDS.items():
        path = folder / name
        picture = ffmpeg.input("testsrc2=size=64x48:rate=10:duration=1.5", f="lavfi")
        stream = picture.output(str(path), **{"g": 5, "pix_fmt": "yuv420p", "threads": 1, **options})
        stream.global_args("-loglevel", "error", "-y").run(cmd=ffmpeg_binary())
        paths.append(path)
    return paths


def flip_bits(draw: random.Random, data: bytearray, other: bytes) -> None:
    """A few bits, anywhere."""
    for _ in range(draw.choice((1, 1, 3, 10, 100))):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def zero_run(draw: random.Random, data: bytearray, other: bytes) -> None:
    """A run of zeros, as a disk leaves it."""
    start, length = draw.randrange(len(data)), draw.choice((16, 512, 4096))
    end = min(start + length, len(data))
    data[start:end] = bytes(end - start)


def random_run(draw: random.Random, data: bytearray, other: bytes) -> None:
    """A run of noise."""
    start, length = draw.randrange(len(data)), draw.choice((4, 64, 1024))
    end = min(start + length, len(data))
    data[start:end] = draw.randbytes(end - start)


def truncate(draw: random.Random, data: bytearray, other: bytes) -> None:
    """The end is missing."""
    del data[draw.randrange(len(data)) :]


def cut_out(draw: random.Random, data: bytearray, other: bytes) -> None:
    """A piece is missing."""
    start = draw.randrange(len(data))
    del data[start : start + draw.choice((1, 16, 188, 1000))]


def splice(draw: random.Random, data: bytearray, other: bytes) -> None:
    """The beginning of one file, the end of another."""
    del data[draw.randrange(len(data)) :]
    data += other[draw.randrange(len(other)) :]


def repeat(draw: random.Random, data: bytearray, other: bytes) -> None:
    """A piece is there twice."""
    start = draw.randrange(len(data))
    piece = data[start : start + draw.choice((188, 1000, 5000))]
    data[start:start] = piece


def swap_blocks(draw: random.Random, data: bytearray, other: bytes) -> None:
    """Two blocks have changed places."""
    size = draw.choice((64, 512))
    first, second = (draw.randrange(max(1, len(data) // size)) * size for _ in range(2))
    a, b = bytes(data[first : first + size]), bytes(data[second : second + size])
    if len(a) == len(b):
        data[first : first + size], data[second : second + size] = b, a


def damage_header(draw: random.Random, data: bytearray, other: bytes) -> None:
    """A few bytes of the beginning, or of the end, where some containers keep their index."""
    size = min(_HEADER_BYTES, len(data))
    base = draw.choice((0, len(data) - size))
    for _ in range(draw.choice((1, 4, 16))):
        data[base + draw.randrange(size)] = draw.choice((0, 0xFF, 0x7F, 0x80, draw.randrange(256)))


def rename(draw: random.Random, data: bytearray, other: bytes) -> None:
    """Nothing but the name: see `damaged`."""


DAMAGES: tuple[Callable[[random.Random, bytearray, bytes], None], ...] = (
    flip_bits,
    zero_run,
    random_run,
    truncate,
    cut_out,
    splice,
    repeat,
    swap_blocks,
    damage_header,
    rename,
)


def damaged(number: int, seed: int, seeds: Sequence[Path]) -> tuple[str, bytes]:
    """The name and the bytes of a damaged file; the name says what was done to which video."""
    draw = random.Random(f"{seed} {number}")
    damage = DAMAGES[number % len(DAMAGES)]
    source, other = draw.choice(seeds), draw.choice(seeds)
    data = bytearray(source.read_bytes())
    damage(draw, data, other.read_bytes())
    suffix = other.suffix if damage is rename or draw.random() < 0.1 else source.suffix
    kind = damage.__name__.replace("_", "-")
    return f"{number:06d}.{kind}.{source.name.replace('.', '-')}{suffix}", bytes(data)
