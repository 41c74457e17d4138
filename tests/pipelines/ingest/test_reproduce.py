"""The command of a failure row: a shell runs it, it shows the problem, and no credential is in it."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from pipelines.ffmpeg import ffmpeg_binary
from pipelines.ingest.reproduce import FIRST_VIDEO_STREAM, ffmpeg_command
from pipelines.ingest.types import Location
from pipelines.redaction import redacted
from tests.pipelines.ingest.media import make_video


def test_a_shell_runs_it_and_it_tells_good_from_bad(tmp_path: Path) -> None:
    good = make_video(tmp_path / "it's $HOME, a; film.mp4", seconds=1)
    bad = tmp_path / "cut; touch pwned.mp4"
    bad.write_bytes(good.read_bytes()[:500])
    for path, stream, is_good in ((good, 0, True), (good, 5, False), (bad, FIRST_VIDEO_STREAM, False)):
        command = ffmpeg_command(Location(uri=str(path)), stream)
        assert command.startswith("ffmpeg -v error -i ") and command.endswith(f" -map 0:{stream} -f null -")
        shell = f'ffmpeg() {{ {shlex.quote(ffmpeg_binary())} -nostdin "$@"; }}; {command}'
        result = subprocess.run(["sh", "-c", shell], capture_output=True, cwd=tmp_path)
        assert (result.returncode == 0 and not result.stderr) == is_good
    assert not (tmp_path / "pwned.mp4").exists()


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("/videos/a?b=c#d@e.mp4", "/videos/a?b=c#d@e.mp4"),
        ("https://user:secret@host:8443/a.mp4", "https://REDACTED@host:8443/a.mp4"),
        ("https://token@host/a.mp4#secret", "https://REDACTED@host/a.mp4#REDACTED"),
        (
            "https://b.s3.amazonaws.com/a.mp4?X-Amz-Credential=AKIA&X-Amz-Signature=abc&v",
            "https://b.s3.amazonaws.com/a.mp4?X-Amz-Credential=REDACTED&X-Amz-Signature=REDACTED&REDACTED",
        ),
    ],
)
def test_credentials_are_blotted_out(uri: str, shown: str) -> None:
    assert redacted(uri) == shown
    assert shlex.split(ffmpeg_command(Location(uri=uri), 1))[4] == shown


def test_a_member_of_a_tar_is_decoded_from_inside_it(tmp_path: Path) -> None:
    film = make_video(tmp_path / "a.mp4", seconds=1).read_bytes()
    tar = tmp_path / "some films.tar"
    tar.write_bytes(bytes(1536) + film + bytes(512))
    command = ffmpeg_command(Location(uri=str(tar), offset_bytes=1536, length_bytes=len(film)), 0)
    result = subprocess.run([ffmpeg_binary(), "-nostdin", *shlex.split(command)[1:]], capture_output=True)
    assert (result.returncode, result.stderr) == (0, b"")


def test_an_object_of_s3_comes_through_the_aws_program() -> None:
    assert ffmpeg_command(Location(uri="s3://bucket/my film.mp4"), 0) == (
        "aws s3 cp 's3://bucket/my film.mp4' - | ffmpeg -v error -i - -map 0:0 -f null -"
    )
    member = Location(uri="s3://bucket/a.tar", offset_bytes=512, length_bytes=100)
    assert " | tail -c +513 | head -c 100 | ffmpeg " in ffmpeg_command(member, 0)
