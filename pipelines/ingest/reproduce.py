"""The ffmpeg command that shows a person what is wrong with a video, for the column `command` of failures.parquet.

It decodes one stream to nowhere and prints only errors: what the ingest saw, without the ingest. It is quoted for a
POSIX shell, and safe to pass on: what may be a credential in a URI is blotted out.
"""

from __future__ import annotations

import shlex

from pipelines.ingest.types import Location
from pipelines.redaction import redacted

FIRST_VIDEO_STREAM = "v:0"  # for a file of which no stream was chosen, because probing failed


def ffmpeg_command(source: Location, stream: int | str) -> str:
    """The command for one stream of a source: an index, or ffmpeg's name of the stream."""
    uri = redacted(source.uri)
    length = source.length_bytes
    if uri.startswith("s3://"):  # ffmpeg does not speak it
        parts = [shlex.join(["aws", "s3", "cp", uri, "-"])]
        if length is not None:
            parts += [f"tail -c +{source.offset_bytes + 1}", f"head -c {length}"]
        return " | ".join([*parts, _ffmpeg("-", stream)])
    if length is not None:
        uri = f"subfile,,start,{source.offset_bytes},end,{source.offset_bytes + length},,:{uri}"
    return _ffmpeg(uri, stream)


def _ffmpeg(url: str, stream: int | str) -> str:
    return shlex.join(["ffmpeg", "-v", "error", "-i", url, "-map", f"0:{stream}", "-f", "null", "-"])
