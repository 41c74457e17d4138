"""The one place where an ingest opens a media container, and where ffmpeg is told what it may touch.

    local bytes  ──descriptor──> fd: (or subfile over it, for a member of a tar) ──> av container
    remote bytes ──RangeFile───> av's custom IO, no protocol allowed ─────────────> av container

A file says itself what it is, and some kinds (HLS and other playlists, concat scripts, SDP, MOV data references) name
other files or addresses to read. None of these can be followed: the only protocols that ffmpeg may use are those that
lead to the bytes that were opened here, and the only demuxers it may use read nothing but their input.
"""

from __future__ import annotations

import os
from typing import Any

import av

from pipelines.ingest.opening import LocalFile, SourceFile, open_source
from pipelines.ingest.ranges import RangeFile
from pipelines.ingest.types import MAX_PIXELS, IngestError, Location

# Those of files that hold sound or a picture only, so that a failure can say so.
_SILENT_FORMATS = "apng,gif,bmp_pipe,jpeg_pipe,png_pipe,tiff_pipe,webp_pipe,svg_pipe,jpegxl_anim"
_SOUND_FORMATS = "aac,ac3,aiff,amr,ape,au,caf,dts,eac3,flac,mp3,oma,truehd,tta,w64,wav,wv"
_FILM_FORMATS = (
    "mov,matroska,avi,flv,live_flv,asf,ogg,mpegts,mpeg,mpegvideo,mxf,rm,nut,wtv,dv,gxf,ivf,obu,av1,h264,hevc,vvc,m4v,"
    "vc1,vc1test,cavsvideo,dirac,dnxhd,h261,h263,mjpeg,mjpeg_2000,yuv4mpegpipe,nsv,nuv,roq,smk,bink,flic,swf,dxa"
)
_OPTIONS = {
    # The demuxer makes up missing pts (AVI with B-frames) by looking ahead.
    "fflags": "+genpts",
    "format_whitelist": f"{_FILM_FORMATS},{_SOUND_FORMATS},{_SILENT_FORMATS}",
    "enable_drefs": "0",  # MOV data references; ffmpeg's default, which nothing may change
}
_IO_BUFFER_BYTES = 64 * 1024  # a jump reads at least as much


def open_container(source: Location | SourceFile, max_pixels: int = MAX_PIXELS) -> Any:
    """An open av container over the bytes of a source, to be used as a context manager.

    No picture of more than `max_pixels` is decoded from it: to ffmpeg that is an error, before it takes the memory.

    Raises:
        IngestError: the bytes cannot be had ("not_found", "permission_denied", "unreachable"), or they are of a kind
            that is not read ("unsupported").
        OSError, av.error.FFmpegError: they cannot be read, or are no container that ffmpeg knows.
    """
    file = open_source(source) if isinstance(source, Location) else source
    options = {**_OPTIONS, "max_pixels": str(max_pixels)}
    try:
        container = _open_local(file, options) if isinstance(file, LocalFile) else _open_remote(file, options)
    except av.error.ArgumentError as error:
        message = "its format is none of those that an ingest reads: it is a playlist, a rare kind of file or damaged"
        raise IngestError("unsupported", f"{message}; remux it, e.g. to MP4 or MKV") from error
    finally:
        if file is not source and isinstance(file, LocalFile):
            file.close()
    for stream in container.streams.video:
        if stream.codec_context is not None:
            stream.codec_context.options = {"max_pixels": str(max_pixels)}
    return container


def _open_remote(file: RangeFile, options: dict[str, str]) -> Any:
    # An empty list would allow everything.
    options = {**options, "protocol_whitelist": "none"}
    return av.open(RangeFile(file.cache), options=options, buffer_size=_IO_BUFFER_BYTES, metadata_errors="replace")


def _open_local(file: LocalFile, options: dict[str, str]) -> Any:
    # ffmpeg keeps a duplicate of the descriptor, and duplicates share their position: each container gets its own.
    descriptor = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        url = "fd:"
        if file.is_part:
            start, end = file.offset_bytes, file.offset_bytes + file.size_bytes
            url = f"subfile,,start,{start},end,{end},,:fd:"
        options = {**options, "protocol_whitelist": "fd,subfile", "fd": str(descriptor)}
        return av.open(url, options=options, metadata_errors="replace")
    finally:
        os.close(descriptor)
