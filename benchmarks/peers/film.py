"""Films whose frames carry their number as white and black boxes, so that a picture tells which frame it is."""

from __future__ import annotations

from pathlib import Path

import ffmpeg

from benchmarks.peers.measured import BOX, NUM_BITS
from pipelines.ffmpeg import ffmpeg_binary

SECONDS = 300
RATE = 30
# Of variable rate: 30 frames a second in the first half, 15 in the second, as a phone does when the light goes.
_HALF = SECONDS // 2
_TIMES = f"setpts='if(lt(N,{_HALF * RATE}),N/{RATE},{_HALF}+(N-{_HALF * RATE})/{RATE // 2})/TB'"


def make_film(path: Path, *, variable: bool) -> Path:
    """640x360 H.264 in MP4 with x264's own settings."""
    bits = [
        f"drawbox=x={bit * BOX}:y=0:w={BOX}:h={BOX}:t=fill:color=white:enable='gte(mod(n,{2 << bit}),{1 << bit})'"
        for bit in range(NUM_BITS)
    ]
    ground = f"drawbox=x=0:y=0:w={NUM_BITS * BOX}:h={BOX}:t=fill:color=black"
    num_frames = _HALF * RATE + _HALF * RATE // 2 if variable else SECONDS * RATE
    filters = ",".join([ground, *bits] + ([_TIMES] if variable else []))
    source = ffmpeg.input(f"testsrc2=size=640x360:rate={RATE},trim=end_frame={num_frames},{filters}", f="lavfi")
    options = {"fps_mode": "vfr", "video_track_timescale": 15360} if variable else {}
    source.output(str(path), vcodec="libx264", pix_fmt="yuv420p", **options).run(cmd=ffmpeg_binary(), quiet=True)
    return path


def exact_numbers(*, variable: bool) -> list[int]:
    """The frame on screen at 0 s, 1 s, 2 s, …"""
    if not variable:
        return [second * RATE for second in range(SECONDS)]
    second_half = [_HALF * RATE + second * RATE // 2 for second in range(_HALF)]
    return [second * RATE for second in range(_HALF)] + second_half
