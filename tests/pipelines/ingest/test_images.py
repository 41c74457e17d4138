"""Pictures as sources: what is stored of each kind, what is refused, and that training can read it."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageDraw

from pipelines.ingest.config import FrameStorage, IngestConfig
from pipelines.ingest.plan_image import plan_image
from pipelines.ingest.probe import probe_video
from pipelines.ingest.sandbox import DecoderProcess
from pipelines.ingest.types import MAX_PIXELS, DecodeRequest, IngestError, Location, PlannedVideo, VideoSource
from tests.pipelines.ingest.media import make_video

SIZE = (120, 80)


@pytest.fixture(scope="module")
def decoder() -> Iterator[DecoderProcess]:
    process = DecoderProcess(max_rss_bytes=1 << 30)
    yield process
    process.close()


def scene(size: tuple[int, int] = SIZE) -> Image.Image:
    """Red above left, green above right, blue below, smooth enough for JPEG."""
    picture = Image.new("RGB", size, (30, 60, 200))
    draw = ImageDraw.Draw(picture)
    width, height = size
    draw.rectangle((0, 0, width // 2 - 1, height // 2 - 1), fill=(200, 40, 30))
    draw.rectangle((width // 2, 0, width, height // 2 - 1), fill=(40, 180, 60))
    return picture


def planned(path: Path, decoder: DecoderProcess, **settings: Any) -> PlannedVideo:
    config = IngestConfig(sources=("-",), out="-", **settings)
    location = Location(uri=str(path))
    probe = decoder.probe_image(location, config.limits.max_pixels, limit_s=60)
    size_bytes = path.stat().st_size
    source = VideoSource(
        id="i", uri=str(path), size_bytes=size_bytes, mtime_ns=0, split=None, conversations=(), media="image"
    )
    return plan_image(source, probe, config)


def stored(path: Path, decoder: DecoderProcess, **settings: Any) -> np.ndarray:
    """The picture that is stored of a file."""
    image = planned(path, decoder, **settings)
    request = DecodeRequest(
        uri=str(path),
        codec=image.codec,
        stream_index=0,
        key_pts=0,
        key_dts=0,
        target_pts=(0,),
        width=image.width,
        height=image.height,
        orientation=image.orientation,
        jpeg_quality=95,
    )
    (jpeg,) = decoder.decode_image(request, limit_s=60)
    assert decoder.decode_image(request, limit_s=60) == [jpeg]
    picture = Image.open(io.BytesIO(jpeg))
    assert picture.format == "JPEG" and picture.mode == "RGB" and picture.size == (image.width, image.height)
    assert not picture.getexif() and "icc_profile" not in picture.info
    return np.asarray(picture, np.int16)


def difference(picture: np.ndarray, expected: Image.Image) -> float:
    return float(np.abs(picture - np.asarray(expected.convert("RGB"), np.int16)).mean())


def grey_16(path: Path) -> None:
    grey = np.asarray(scene().convert("L")).astype(np.uint16)
    Image.fromarray(grey * 257).save(path)


def half_transparent(path: Path) -> None:
    picture = scene().convert("RGBA")
    alpha = Image.new("L", SIZE, 255)
    alpha.paste(0, (0, SIZE[1] // 2, *SIZE))
    picture.putalpha(alpha)
    picture.save(path)


def palette_with_transparency(path: Path) -> None:
    picture = scene().quantize(4)
    blue = int(np.asarray(picture)[-1, 0])
    picture.save(path, transparency=blue)


def white_below() -> Image.Image:
    picture = scene()
    picture.paste((255, 255, 255), (0, SIZE[1] // 2, *SIZE))
    return picture


def animated(path: Path) -> None:
    scene().save(path, save_all=True, append_images=[Image.new("RGB", SIZE)] * 2, duration=100)


def save(mode: str = "RGB", **options: Any) -> Callable[[Path], None]:
    return lambda path: scene().convert(mode).save(path, **options)


KINDS: dict[str, tuple[str, Callable[[Path], None], Callable[[], Image.Image]]] = {
    "jpeg": ("a.jpg", save(quality=95), scene),
    "jpeg-progressive-444": ("a.jpg", save(quality=95, progressive=True, subsampling=0), scene),
    "jpeg-grey": ("a.jpg", save("L", quality=95), lambda: scene().convert("L")),
    "jpeg-cmyk": ("a.jpg", save("CMYK", quality=98), scene),
    "jpeg-named-png": ("a.png", save(quality=95, format="JPEG"), scene),
    "png": ("a.png", save(), scene),
    "png-palette": ("a.png", lambda path: scene().quantize(4).save(path), scene),
    "png-bits": ("a.png", save("1"), lambda: scene().convert("1")),
    "png-grey-16": ("a.png", grey_16, lambda: scene().convert("L")),
    "png-transparent": ("a.png", half_transparent, white_below),
    "png-palette-transparent": ("a.png", palette_with_transparency, white_below),
    "webp": ("a.webp", save(quality=95), scene),
    "webp-lossless-transparent": ("a.webp", half_transparent, white_below),
    "webp-animated": ("a.webp", animated, scene),
    "bmp": ("a.bmp", save(), scene),
    "gif-animated": ("a.gif", animated, scene),
    "tiff": ("a.tiff", save(compression="tiff_lzw"), scene),
    "tiff-grey-16": ("a.tif", grey_16, lambda: scene().convert("L")),
    "tiff-lab": ("a.tif", lambda path: to_lab(scene()).save(path), scene),
    "avif": ("a.avif", save(quality=95), scene),
}


def to_lab(picture: Image.Image) -> Image.Image:
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    converted = ImageCms.profileToProfile(picture, *profiles, outputMode="LAB")
    assert converted is not None
    return converted


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_picture_is_stored_as_it_looks(kind: str, tmp_path: Path, decoder: DecoderProcess) -> None:
    name, make, expected = KINDS[kind]
    make(tmp_path / name)
    assert difference(stored(tmp_path / name, decoder), expected()) < 4


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(orientation: int, suffix: str, tmp_path: Path, decoder: DecoderProcess) -> None:
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # what a camera that was held that way has done: the inverse
    sideways = scene().transpose(Image.Transpose(turns[orientation])) if orientation > 1 else scene()
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    sideways.save(path, exif=exif, quality=95)
    assert difference(stored(path, decoder), scene()) < 4


def test_colours_of_a_profile_become_srgb(tmp_path: Path, decoder: DecoderProcess) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = profile.replace("sRGB".encode("utf-16-be"), "test".encode("utf-16-be"))  # its name would settle it
    path = tmp_path / "a.png"
    scene().save(path, icc_profile=profile)
    assert difference(stored(path, decoder), scene()) < 4
    # Of a display whose first channel is blue.
    swapped = profile.replace(b"rXYZ", b"?XYZ").replace(b"bXYZ", b"rXYZ").replace(b"?XYZ", b"bXYZ")
    scene().save(path, icc_profile=swapped)
    red, green, blue = scene().split()
    assert difference(stored(path, decoder), Image.merge("RGB", (blue, green, red))) < 4


@pytest.mark.parametrize("profile", [b"", b"nonsense", bytes(128)])
def test_a_profile_that_means_nothing_is_ignored(profile: bytes, tmp_path: Path, decoder: DecoderProcess) -> None:
    scene().save(tmp_path / "a.png", icc_profile=profile)
    assert difference(stored(tmp_path / "a.png", decoder), scene()) < 4


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_large_pictures_are_scaled_into_the_edges_and_small_ones_kept(
    suffix: str, tmp_path: Path, decoder: DecoderProcess
) -> None:
    path = tmp_path / f"a.{suffix}"
    scene((1600, 1200)).save(path, quality=95)
    frames = FrameStorage(long_edge=320, short_edge=150)
    assert difference(stored(path, decoder, frames=frames), scene((200, 150))) < 4
    scene((31, 17)).save(path, quality=95)
    assert stored(path, decoder).shape == (17, 31, 3)


def cut(make: Callable[[Path], None], share: float) -> Callable[[Path], None]:
    def make_cut(path: Path) -> None:
        make(path)
        os.truncate(path, int(path.stat().st_size * share))

    return make_cut


def damaged(path: Path) -> None:
    noise = Image.effect_noise((200, 200), 90)
    noise.save(path, quality=95)
    data = bytearray(path.read_bytes())
    for at in range(len(data) // 3, len(data) // 3 + 400):
        data[at] = at * 37 % 251
    path.write_bytes(data)


def slim(path: Path) -> None:
    Image.new("L", (4000, 3)).save(path)


def floats(path: Path) -> None:
    Image.new("F", (20, 20)).save(path)


BAD_FILES: dict[str, tuple[str, Callable[[Path], Any], set[str], str]] = {
    "jpeg-cut": ("a.jpg", cut(save(quality=95), 0.6), {"truncated", "corrupt"}, ""),
    "jpeg-damaged": ("a.jpg", damaged, {"corrupt", "truncated"}, ""),
    "png-cut": ("a.png", cut(lambda path: Image.effect_noise(SIZE, 50).save(path), 0.5), {"truncated", "corrupt"}, ""),
    "webp-cut": ("a.webp", cut(save(quality=95), 0.5), {"truncated", "corrupt"}, ""),
    "header-only": ("a.png", cut(save(), 0.04), {"corrupt"}, "PNG"),
    "empty": ("a.png", lambda path: path.write_bytes(b""), {"empty"}, ""),
    "text": ("a.jpg", lambda path: path.write_text("no picture"), {"not_an_image"}, "text"),
    "film": ("a.jpg", lambda path: make_video(path, seconds=1, f="mp4"), {"not_an_image"}, ""),
    "postscript": ("a.png", lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF\n" * 9), {"not_an_image"}, ""),
    "heic": ("a.heic", lambda path: path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(99)), {"unsupported"}, "HEIC"),
    "slim": ("a.png", slim, {"unsupported"}, "slimmer"),
    "floats": ("a.tif", floats, {"unsupported"}, "floating"),
    "missing": ("a.png", lambda path: None, {"not_found"}, "no file"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_picture_is_named_for_what_it_is(name: str, tmp_path: Path, decoder: DecoderProcess) -> None:
    file_name, make, classes, word = BAD_FILES[name]
    make(tmp_path / file_name)
    with pytest.raises(IngestError) as error:
        stored(tmp_path / file_name, decoder)
    assert error.value.error_class in classes, error.value.message
    assert word in error.value.message


def test_a_decompression_bomb_is_refused_by_its_size(tmp_path: Path, decoder: DecoderProcess) -> None:
    path = tmp_path / "a.png"
    Image.new("1", (20_000, 20_000)).save(path)
    assert path.stat().st_size < 100_000
    with pytest.raises(IngestError) as error:
        decoder.probe_image(Location(uri=str(path)), MAX_PIXELS, limit_s=60)
    assert error.value.error_class == "unsupported" and "limits.max_pixels" in error.value.message


def test_a_picture_that_is_said_to_be_a_film_is_none(tmp_path: Path) -> None:
    scene().save(tmp_path / "a.mp4", format="PNG")
    with pytest.raises(IngestError) as error:
        probe_video(str(tmp_path / "a.mp4"))
    assert error.value.error_class == "not_a_video"
