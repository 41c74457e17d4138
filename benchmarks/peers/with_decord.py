"""decord: the frames nearest to k / fps by its average rate, as the Vamba scripts and most others take them."""

from __future__ import annotations

import sys

import decord
from measured import number_of, report


def work() -> list:
    reader = decord.VideoReader(sys.argv[1])
    rate = reader.get_avg_fps()
    seconds = int(len(reader) / rate)
    indices = [min(round(second * rate), len(reader) - 1) for second in range(seconds)]
    return list(reader.get_batch(indices).asnumpy())


report(work, lambda frames: map(number_of, frames))
