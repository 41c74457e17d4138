"""Files that name other files or addresses, in the words of every format of ffmpeg and Pillow that can."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path

from pipelines.ffmpeg import ffmpeg_binary
from tests.pipelines.ingest.test_containment import with_data_reference

# Bytes that are no text, so that the sniffing before ffmpeg does not settle it.
NOT_TEXT = b"#\xff\xfe\n"
PASSWD = "/etc/passwd"


def hostile_files(secret: Path, port: int) -> Mapping[str, bytes]:
    """Content by file name. secret: a film that nobody named. port: of a local web server, which serves it."""
    web = f"http://127.0.0.1:{port}/secret.ts"
    places = [web, f"tcp://127.0.0.1:{port}", str(secret), f"file:{secret}", secret.name, f"../{secret.name}", PASSWD]
    places += [f"concat:{secret}|{PASSWD}", f"subfile,,start,0,end,0,,:{secret}", f"crypto:{secret}", f"cache:{secret}"]
    places += [f"async:{secret}", "fd:", "pipe:0", f"data:text/plain;base64,AAAA{PASSWD}", f"tls://127.0.0.1:{port}"]
    made: dict[str, bytes] = {}
    for number, place in enumerate(places):
        made[f"playlist-{number}.mp4"] = _playlist(place)
        made[f"concat-{number}.mkv"] = f"ffconcat version 1.0\nfile '{place}'\nduration 2\n".encode() + NOT_TEXT
    session = f"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n"
    made |= {
        "playlist.m3u8.mp4": _playlist(web).replace(NOT_TEXT, b""),
        "encrypted.ts": _playlist(secret.name, f'#EXT-X-KEY:METHOD=AES-128,URI="{web}"'),
        "map.mp4": _playlist(secret.name, f'#EXT-X-MAP:URI="{web}"'),
        "variants.mp4": f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{web}\n".encode() + NOT_TEXT,
        "subtitles.avi": _avi_with_subtitles(_playlist(web)),
        "session.mp4": session.encode(),
        "dash.mp4": _dash(web) + NOT_TEXT,
        "dash.mpd.mp4": _dash(web),
        "smooth.ism.mp4": b"<SmoothStreamingMedia/>" + NOT_TEXT,
        "picture.svg.mp4": _svg(secret, web) + NOT_TEXT,
        "entities.svg.png": f'<!DOCTYPE x [<!ENTITY a SYSTEM "file://{PASSWD}">]><svg>&a;</svg>'.encode() + NOT_TEXT,
        "eps.png": f"%!PS-Adobe-3.0 EPSF-3.0\n({PASSWD}) (r) file\n".encode() + NOT_TEXT,
        "msl.jpg": f'<image><read filename="{PASSWD}"/></image>'.encode() + NOT_TEXT,
        "tee.mp4": f"[f=mpegts]{web}|{secret}\n".encode() + NOT_TEXT,
        "filters.mp4": f"movie={secret}[out]\n".encode() + NOT_TEXT,
        "metadata.mkv": f";FFMETADATA1\ntitle={PASSWD}\n".encode() + NOT_TEXT,
        "smil.mp4": f'<smil><video src="{web}"/></smil>'.encode() + NOT_TEXT,
        "asx.wmv": f'<asx version="3.0"><entry><ref href="{web}"/></entry></asx>'.encode() + NOT_TEXT,
        "reference.asf": b"[Reference]\r\nRef1=" + web.encode() + b"\r\n" + NOT_TEXT,
        "rtsp.mov": b"rtsptext" + web.encode() + NOT_TEXT,
        "imf.mxf": f'<CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016"/>{web}'.encode()
        + NOT_TEXT,
        "avisynth.avs.avi": f'DirectShowSource("{secret}")'.encode() + NOT_TEXT,
        "vapoursynth.vpy.mkv": f'import os; open("{secret.parent}/pwned", "w")'.encode() + NOT_TEXT,
        "cover.m4a.mp4": _quicktime_redirect(web),
    }
    return made


def hostile_names(film: bytes) -> Mapping[str, bytes]:
    """Whole films under names that programs may take for something else."""
    names = ["-y.mp4", "-i.mp4", "%d.mp4", "%03d.png.mp4", "pipe:0.mp4", "http:127.0.0.1.mp4", "concat:a|b.mp4"]
    names += [
        "a'b\"c.mp4",
        "new\nline.mp4",
        "$(touch pwned).mp4",
        "`touch pwned`.mp4",
        "a;touch pwned.mp4",
        "[0-9].mp4",
    ]
    names += ["*.mp4", "?.mp4", "{a,b}.mp4", "subfile,,start,0,end,0,,:x.mp4", "\u202efdp.mp4", "file:x.mp4", "~.mp4"]
    return dict.fromkeys(names, film)


def mov_that_refers(film: Path, secret: Path) -> bytes:
    """A MOV whose media are said to lie in another file."""
    plain = film.with_suffix(".plain.mov")
    command = [ffmpeg_binary(), "-v", "error", "-y", "-i", str(film), "-c", "copy", "-f", "mov", str(plain)]
    subprocess.run(command, check=True, timeout=60)
    content = with_data_reference(plain.read_bytes(), secret)
    plain.unlink()
    return content


def secret_film(film: Path, folder: Path) -> Path:
    """A film as MPEG-TS, which playlists can name."""
    secret = folder / "secret.ts"
    command = [ffmpeg_binary(), "-v", "error", "-y", "-i", str(film), "-c", "copy", "-f", "mpegts", str(secret)]
    subprocess.run(command, check=True, timeout=60)
    shutil.copy(secret, folder / "key.bin")
    return secret


def _playlist(place: str, tag: str = "") -> bytes:
    head = b"#EXTM3U\n" + NOT_TEXT + b"#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n"
    return head + f"{tag}\n#EXTINF:2,\n{place}\n#EXT-X-ENDLIST\n".encode()


def _dash(web: str) -> bytes:
    head = '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" minBufferTime="PT1S">'
    base, close = f"<BaseURL>{web}</BaseURL>", "</Representation></AdaptationSet></Period></MPD>"
    inner = '<Period><AdaptationSet mimeType="video/mp2t"><Representation id="1" bandwidth="1">'
    return f"{head}{base}{inner}{base}{close}".encode()


def _svg(secret: Path, web: str) -> bytes:
    images = "".join(f'<image width="9" height="9" href="{place}"/>' for place in (web, f"file://{secret}", PASSWD))
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9">{images}</svg>'.encode()


def _avi_with_subtitles(script: bytes) -> bytes:
    """GAB2: the chunk in which DivX keeps subtitles, and which ffmpeg opens with whatever demuxer it looks like."""
    gab2 = b"GAB2\x00" + struct.pack("<HI", 2, 2) + b"s\x00" + struct.pack("<HI", 4, len(script)) + script
    header = b"strh" + struct.pack("<I", 56) + b"txts" + bytes(52) + b"strf" + struct.pack("<I", 0)
    stream = b"LIST" + struct.pack("<I", 4 + len(header)) + b"strl" + header
    main = b"avih" + struct.pack("<I", 56) + struct.pack("<14I", 40000, 0, 0, 0x10, 1, 0, 1, 0, 96, 64, 0, 0, 0, 0)
    headers = b"LIST" + struct.pack("<I", 4 + len(main) + len(stream)) + b"hdrl" + main + stream
    chunk = b"00tx" + struct.pack("<I", len(gab2)) + gab2 + (b"\0" if len(gab2) % 2 else b"")
    movie = b"LIST" + struct.pack("<I", 4 + len(chunk)) + b"movi" + chunk
    return b"RIFF" + struct.pack("<I", 4 + len(headers) + len(movie)) + b"AVI " + headers + movie


def _quicktime_redirect(web: str) -> bytes:
    """A QuickTime movie that is nothing but the address of another one (rmra, rmda, rdrf)."""
    url = web.encode() + b"\0"
    reference = b"rdrf" + bytes(4) + b"url " + struct.pack(">I", len(url)) + url
    box = struct.pack(">I", 4 + len(reference)) + reference
    for name in (b"rmda", b"rmra", b"moov"):
        box = struct.pack(">I", 8 + len(box)) + name + box
    return struct.pack(">I4s4sI", 16, b"ftyp", b"qt  ", 0) + box
