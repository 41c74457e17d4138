"""Wide primaries become BT.709's: against the published matrices, and through a tagged file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from av.video.reformatter import ColorPrimaries
from PIL import Image

from pipelines.ingest.decode import decode_segment
from pipelines.ingest.gamut import to_bt709
from tests.pipelines.ingest.media import make_video
from tests.pipelines.ingest.test_zoo import plan, request

# ITU-R BT.2087, and the matrix from Display P3 of SMPTE EG 432 by the same derivation.
BT2020 = ((1.6605, -0.5876, -0.0728), (-0.1246, 1.1329, -0.0083), (-0.0182, -0.1006, 1.1187))
DISPLAY_P3 = ((1.2249, -0.2247, 0.0), (-0.0420, 1.0419, 0.0), (-0.0197, -0.0786, 1.0979))


@pytest.mark.parametrize(
    ("primaries", "matrix"), [(ColorPrimaries.BT2020, BT2020), (ColorPrimaries.SMPTE432, DISPLAY_P3)]
)
def test_colours_follow_the_published_matrix(primaries: ColorPrimaries, matrix: tuple[tuple[float, ...], ...]) -> None:
    colours = np.random.default_rng(1).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    light = (colours / 255.0) ** 2.4 @ np.array(matrix).T
    expected = 255 * np.clip(light, 0, 1) ** (1 / 2.4)
    found = to_bt709(colours, primaries)
    bright = expected > 20  # where the rounding of the published numbers does not show
    assert np.abs(found - expected)[bright].max() <= 1.5


def test_grey_stays_grey() -> None:
    grey = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(1, 256, 3)
    assert np.abs(to_bt709(grey, ColorPrimaries.BT2020).astype(int) - grey).max() <= 1


def test_a_tagged_film_is_stored_in_bt709(tmp_path: Path) -> None:
    # Red of BT.709 at half its light, as BT.2020 codes it.
    light = np.array([0.6274, 0.0691, 0.0164]) * 0.5
    red, green, blue = np.rint(255 * light ** (1 / 2.4)).astype(int)
    pixels = {"filters": f"format=gbrp,geq=r={red}:g={green}:b={blue},scale=out_color_matrix=bt2020:out_range=tv"}
    tags = {"x264-params": "colorprim=bt2020:transfer=bt2020-10:colormatrix=bt2020nc"}
    film = make_video(tmp_path / "a.mp4", seconds=1, crf=1, **pixels, **tags)
    video = plan(film)
    picture = np.asarray(Image.open(io.BytesIO(decode_segment(request(video, video.segments[0]))[0])), float)
    found = picture.mean(axis=(0, 1))
    assert abs(found[0] - 255 * 0.5 ** (1 / 2.4)) < 4 and found[1] < 25 and found[2] < 25, found
