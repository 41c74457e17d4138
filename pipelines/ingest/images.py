"""Still pictures as sources: what a probe tells of one, and the JPEG that is stored of it.

    location ──Pillow, header only──> ProbedImage ─plan─> DecodeRequest
    location ──libjpeg-turbo or Pillow──> pixels ──alpha over white, scaled, colours to sRGB, upright──> JPEG

Every picture is encoded anew, also a JPEG that would fit as it is: what is stored is then the same kind of file for all
(4:2:0, the quality set, no metadata such as the place of a photo), and a damaged one is found here, not in training.
Runs in a decoder process. Only the formats below are opened; Pillow knows others that run programs (EPS).
"""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image, ImageCms

from pipelines.ingest.limits import check_pixels
from pipelines.ingest.opening import checked_source
from pipelines.ingest.sniff import HEAD_BYTES, foreign_kind
from pipelines.ingest.types import DecodeRequest, IngestError, Location, ProbedImage

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
MAX_FILE_BYTES = 512 * 1024**2

_EXIF_ORIENTATION = 0x0112
# How to turn a picture upright, by its EXIF orientation; letters as in ProbedVideo.orientation.
_ORIENTATIONS = {2: "x", 3: "xy", 4: "y", 5: "t", 6: "tx", 7: "txy", 8: "ty"}
# Padding before the end marker. More bytes than this are left over where the decoder lost its way.
_HARMLESS_JPEG_WARNING = re.compile(r"\b[12] extraneous bytes before marker 0xd9")
_PROFILE_SPACES = {"RGB": "RGB ", "L": "GRAY", "CMYK": "CMYK", "LAB": "Lab "}

Image.MAX_IMAGE_PIXELS = None  # sizes are checked here, against the ingest's own limit


def probe_image(location: Location, max_pixels: int) -> ProbedImage:
    """Looks at the header of a picture and takes the digest of its bytes.

    Raises:
        IngestError: with class "not_found", "permission_denied", "unreachable", "io_error", "empty", "not_an_image",
            "corrupt" or "unsupported" (a format that is not read, or more than `max_pixels`).
    """
    with checked_source(location, hashing=True) as file:
        if file.size_bytes > MAX_FILE_BYTES:
            limit = f"{MAX_FILE_BYTES // 1024**2} MiB"
            raise IngestError("unsupported", f"it has {file.size_bytes} bytes; a picture may have {limit}")
        head = file.read(HEAD_BYTES)
        image = _opened(file, head)
        check_pixels(*image.size, max_pixels)
        width, height = image.size
        return ProbedImage(
            digest="sha256:" + file.sha256(),
            format="jpeg" if image.format in ("JPEG", "MPO") else str(image.format).lower(),
            mode=image.mode,
            width=width,
            height=height,
            orientation=_orientation(image),
            has_profile="icc_profile" in image.info,
        )


def decode_image(request: DecodeRequest) -> list[bytes]:
    """The JPEG file of a picture, in a list of one.

    Raises:
        IngestError: "truncated", "corrupt", or as `probe_image`.
    """
    with checked_source(request.location) as file:
        data = file.read(file.size_bytes) if file.size_bytes <= MAX_FILE_BYTES else b""
    image = _opened(io.BytesIO(data), data[:HEAD_BYTES])
    check_pixels(*image.size, request.max_pixels)
    size = (request.height, request.width) if "t" in request.orientation else (request.width, request.height)
    profile = image.info.get("icc_profile")
    try:
        image = _flattened(_pixels(image, data, size))
    except IngestError:
        raise
    except Exception as error:  # each plugin of Pillow has its own
        error_class = "truncated" if "truncated" in str(error) or "premature" in str(error).lower() else "corrupt"
        raise IngestError(error_class, f"the picture cannot be decoded: {error}") from error
    if image.size != size:
        image = image.resize(size, Image.Resampling.BOX)
    rgb = np.asarray(_in_srgb(image, profile))
    for step in request.orientation:
        rgb = rgb.transpose(1, 0, 2) if step == "t" else rgb[:, ::-1] if step == "x" else rgb[::-1]
    quality = request.jpeg_quality
    encoded = simplejpeg.encode_jpeg(np.ascontiguousarray(rgb), quality, colorspace="RGB", colorsubsampling="420")
    return [bytes(encoded)]


def _opened(file: Any, head: bytes) -> Image.Image:
    try:
        file.seek(0)
        return Image.open(file, formats=FORMATS)
    except Image.UnidentifiedImageError as error:
        kind = foreign_kind(head)
        if kind is not None and kind.endswith(" image"):  # its first bytes are right, what follows is not
            if kind.endswith(("HEIC image", "HEIF image")):
                raise IngestError("unsupported", "HEIC and HEIF are not read; convert it to JPEG or AVIF") from error
            raise IngestError("corrupt", f"it begins like {kind}, but its header is damaged") from error
        what = kind or "of a kind that is not read as a picture"
        raise IngestError("not_an_image", f"the file is {what}, whatever its name says") from error
    except IngestError:
        raise
    except Exception as error:
        raise IngestError("corrupt", f"its header is damaged: {error}") from error


def _orientation(image: Image.Image) -> str:
    """What turns the picture upright after decoding. Pillow turns TIFF itself, and gives the size after that."""
    if image.format == "TIFF":
        return ""
    try:
        return _ORIENTATIONS.get(image.getexif().get(_EXIF_ORIENTATION, 1), "")
    except Exception:  # damaged metadata do not spoil a picture
        return ""


def _pixels(image: Image.Image, data: bytes, size: tuple[int, int]) -> Image.Image:
    """The picture, decoded; a large JPEG at a half, a quarter or an eighth that is no smaller than `size`."""
    if image.format not in ("JPEG", "MPO") or image.mode not in ("RGB", "L"):
        image.load()
        return image
    colorspace = "RGB" if image.mode == "RGB" else "GRAY"
    least: dict[str, Any] = {"min_width": size[0], "min_height": size[1], "colorspace": colorspace}
    try:
        pixels = simplejpeg.decode_jpeg(data, **least)
    except ValueError as error:
        if not _HARMLESS_JPEG_WARNING.search(str(error)):
            raise
        pixels = simplejpeg.decode_jpeg(data, strict=False, **least)
    return Image.fromarray(pixels if image.mode == "RGB" else pixels[:, :, 0])


def _flattened(image: Image.Image) -> Image.Image:
    """The picture with 8 bits and without transparency, in one of the modes that a colour profile describes."""
    if image.mode.startswith(("I;16", "I")):
        levels = np.asarray(image).astype(np.int64)
        image = Image.fromarray((np.clip(levels, 0, 0xFFFF) >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise IngestError("unsupported", "its pixels are floating-point numbers; convert it to 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    if image.mode in _PROFILE_SPACES:
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The picture in sRGB; a profile that is damaged, or of another kind of colour, is as good as none."""
    if image.mode == "LAB":
        source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    else:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile or b""))
            is_srgb = ImageCms.getProfileName(source).strip().startswith("sRGB")
            if is_srgb or source.profile.xcolor_space != _PROFILE_SPACES[image.mode]:
                return image.convert("RGB")
        except (OSError, ImageCms.PyCMSError):
            return image.convert("RGB")
    try:
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except ImageCms.PyCMSError:
        return image.convert("RGB")
    assert converted is not None
    return converted
