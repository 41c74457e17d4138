"""Says what a file really is from its first bytes, and whether an MP4 was cut, before any decoder sees it.

ffmpeg opens pictures, text and subtitles as if they were video, and reads an MP4 whose end is missing without an error;
a user wants to be told "this is a PNG" or "0.4 of 1.2 MB are there".
"""

from __future__ import annotations

from io import RawIOBase
from typing import IO

HEAD_BYTES = 4096

_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"BM", "a BMP image"),
    (0, b"II*\x00", "a TIFF image"),
    (0, b"MM\x00*", "a TIFF image"),
    (8, b"WEBP", "a WebP image"),
    (4, b"ftypavif", "an AVIF image"),
    (4, b"ftypheic", "a HEIC image"),
    (4, b"ftypheix", "a HEIC image"),
    (4, b"ftypmif1", "a HEIF image"),
    (0, b"%PDF-", "a PDF document"),
    (0, b"PK\x03\x04", "a ZIP archive (or an office document)"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (0, b"Rar!", "a RAR archive"),
    (0, b"SQLite format 3", "an SQLite database"),
    (0, b"PAR1", "a Parquet file"),
    (0, b"\x7fELF", "a program"),
    (257, b"ustar", "a tar archive"),
)
_TOP_LEVEL_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"}


def foreign_kind(head: bytes) -> str | None:
    """What a file that is no video is, in words ("a PNG image"); None if its head does not tell."""
    for offset, signature, kind in _SIGNATURES:
        if head[offset : offset + len(signature)] == signature:
            return kind
    if not head.strip(b"\x00"):
        return "a file of zero bytes only" if head else None
    start = head.lstrip()[:16].lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "an HTML page (perhaps an error page that was saved as the video)"
    return "text" if _is_text(head) else None


def _is_text(head: bytes) -> bool:
    for cut in range(4):  # the head may end inside a UTF-8 character
        try:
            text = head[: len(head) - cut].decode()
        except UnicodeDecodeError:
            continue
        return all(character.isprintable() or character in "\t\r\n\f\ufeff" for character in text)
    return False


def mp4_damage(file: IO[bytes] | RawIOBase, size_bytes: int) -> str | None:
    """Why an MP4 or MOV file cannot be whole; None if its boxes add up, or it is of another kind."""
    offset = 0
    has_index = has_media = False
    while offset + 8 <= size_bytes:
        file.seek(offset)
        header = file.read(16)
        length, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if offset == 0 and kind not in _TOP_LEVEL_BOXES:
            return None
        if length == 1 and len(header) == 16:
            length = int.from_bytes(header[8:16], "big")
        elif length == 0:
            length = size_bytes - offset
        has_index |= kind in (b"moov", b"moof")
        has_media |= kind == b"mdat"
        if length < 8:
            break
        if offset + length > size_bytes and kind in (b"moov", b"moof", b"mdat"):
            return f"it should have at least {offset + length} bytes but has {size_bytes}: it was cut"
        offset += length
    if offset and not has_index:
        return "its index (the moov box) is missing: the recording or download did not finish"
    return None
