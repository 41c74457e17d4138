"""Sources that are not plain files: the same frames and digest from a tar, from S3 and from a tar on S3."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.ingest import remote
from pipelines.ingest.config import IngestConfig, Limits
from pipelines.ingest.decode import decode_segment
from pipelines.ingest.plan import plan_video
from pipelines.ingest.probe import probe_video
from pipelines.ingest.remote import RemoteRanges
from pipelines.ingest.sandbox import DecoderProcess
from pipelines.ingest.types import DecodeRequest, IngestError, Location, PlannedVideo, VideoSource
from tests.pipelines.ingest.media import make_video
from tests.s3_server import S3Server, s3, s3_server  # noqa: F401 - fixtures
from vamba.data.sampling import FrameSampling

FORMATS = {
    "mp4": {"bf": 2},
    "mkv": {"bf": 2},
    "ts": {"bf": 2},
    "avi": {"vcodec": "mpeg4"},
}


class CountedRanges(RemoteRanges):
    """Counts what is requested."""

    def __init__(self) -> None:
        super().__init__(pause=lambda _: None)
        self.requested_bytes = 0

    def read(self, uri: str, offset: int, length: int) -> bytes:
        self.requested_bytes += length
        return super().read(uri, offset, length)


@pytest.fixture
def ranges() -> CountedRanges:
    return CountedRanges()


@pytest.fixture
def decoder(ranges: CountedRanges) -> Iterator[DecoderProcess]:
    process = DecoderProcess(max_rss_bytes=1 << 30, ranges=ranges)
    yield process
    process.close()


def planned(location: Location, decoder: DecoderProcess, **settings: Any) -> PlannedVideo:
    config = IngestConfig(sources=("-",), out="-", **settings)
    is_part = location.length_bytes is not None
    source = VideoSource(
        id="v",
        uri=f"{location.uri}#v" if is_part else location.uri,
        size_bytes=location.length_bytes or 0,
        mtime_ns=0,
        split=None,
        conversations=(),
        offset_bytes=location.offset_bytes if is_part else None,
    )
    assert source.location == location
    return plan_video(source, decoder.probe(location, Limits(), limit_s=60), config)


def frames(video: PlannedVideo, decoder: DecoderProcess, *, sequentially: bool = False) -> list[bytes]:
    location = video.source.location
    jpegs = []
    for segment in video.segments:
        request = DecodeRequest(
            uri=location.uri,
            offset_bytes=location.offset_bytes,
            length_bytes=location.length_bytes,
            codec=video.codec,
            stream_index=video.stream_index,
            key_pts=segment.key_pts,
            key_dts=segment.key_dts,
            target_pts=segment.target_pts,
            width=video.width,
            height=video.height,
            orientation=video.orientation,
            jpeg_quality=85,
        )
        jpegs += decoder.decode(request, limit_s=60, sequentially=sequentially)
    return jpegs


def packed(folder: Path, files: list[Path]) -> tuple[Path, dict[str, Location]]:
    """A tar of the files, and where each is in it."""
    path = folder / "films.tar"
    with tarfile.open(path, "w") as tar:
        for file in files:
            tar.add(file, file.name)
    with tarfile.open(path) as tar:
        members = {info.name: (info.offset_data, info.size) for info in tar.getmembers()}
    return path, {
        name: Location(uri=str(path), offset_bytes=offset, length_bytes=size)
        for name, (offset, size) in members.items()
    }


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("films")
    return [make_video(folder / f"a.{suffix}", **options) for suffix, options in FORMATS.items()]  # type: ignore[arg-type]


def test_a_film_is_the_same_wherever_its_bytes_are(
    films: list[Path],
    tmp_path: Path,
    s3: S3Server,  # noqa: F811
    decoder: DecoderProcess,
) -> None:
    tar, members = packed(tmp_path, films)
    bucket = s3.make_bucket()
    s3.put_folder(tmp_path, bucket)
    s3.put_folder(films[0].parent, bucket, "films/")
    for film in films:
        local = planned(Location(uri=str(film)), decoder)
        expected = frames(local, decoder)
        member = members[film.name]
        offset, length = member.offset_bytes, member.length_bytes
        for location in (
            Location(uri=f"s3://{bucket}/films/{film.name}"),
            member,
            Location(uri=f"s3://{bucket}/{tar.name}", offset_bytes=offset, length_bytes=length),
        ):
            video = planned(location, decoder)
            assert (video.digest, video.probe["codec"]) == (local.digest, local.probe["codec"]), location
            assert video.timestamps_ns == local.timestamps_ns
            assert frames(video, decoder) == expected, location
            assert frames(video, decoder, sequentially=True) == expected, location


@pytest.fixture(scope="module")
def long_film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 30 MB."""
    path = tmp_path_factory.mktemp("long") / "a.mp4"
    return make_video(path, seconds=300, fps=12, size="320x180", vcodec="mpeg4", g=12, **{"q:v": 1})


def test_a_few_frames_of_a_long_film_take_a_small_part_of_it(
    long_film: Path,
    s3: S3Server,  # noqa: F811
    ranges: CountedRanges,
    decoder: DecoderProcess,
) -> None:
    size_bytes = long_film.stat().st_size
    assert size_bytes > 20e6
    bucket = s3.make_bucket()
    s3.put_folder(long_film.parent, bucket)
    sampling = FrameSampling(policy="uniform", num_frames=4)
    video = planned(Location(uri=f"s3://{bucket}/a.mp4"), decoder, sampling=sampling, segment_cost_s=1e-9)
    assert ranges.requested_bytes < 1.05 * size_bytes  # digest, packets and first frame in one reading
    ranges.requested_bytes = 0
    assert len(frames(video, decoder)) == 4
    assert ranges.requested_bytes < 0.2 * size_bytes


def test_a_decoder_may_ask_for_the_bytes_of_its_source_only(
    s3: S3Server,  # noqa: F811
    films: list[Path],
    decoder: DecoderProcess,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bucket = s3.make_bucket()
    s3.put_folder(films[0].parent, bucket)
    seen = []
    monkeypatch.setattr(decoder._ranges, "read", lambda uri, offset, length: seen.append((offset, length)) or b"")
    member = Location(uri=f"s3://{bucket}/a.mkv", offset_bytes=1000, length_bytes=500)
    assert decoder._ranged(member, "read", [1000, 500])[0]
    for offset, length in ((999, 10), (1400, 101), (1000, -1), (0, 10**12)):
        assert not decoder._ranged(member, "read", [offset, length])[0]
    assert seen == [(1000, 500)]


class FailingFile:
    """Fails as often as it is told, then gives bytes."""

    size = 100

    def __init__(self, failures: list[Exception]) -> None:
        self._failures = failures

    def open(self, path: str, mode: str, **_: object) -> FailingFile:
        return self

    def seek(self, offset: int) -> None:
        self._offset = offset

    def read(self, length: int) -> bytes:
        if self._failures:
            raise self._failures.pop(0)
        return bytes(range(100))[self._offset : self._offset + length]

    def close(self) -> None:
        pass


def test_a_broken_connection_is_tried_again_with_growing_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    file = FailingFile([OSError("connection reset"), TimeoutError(), OSError("SlowDown")])
    monkeypatch.setattr("pipelines.filesystems.filesystem_of", lambda uri: (file, "a"))
    pauses: list[float] = []
    assert RemoteRanges(pause=pauses.append).read("s3://b/a", 10, 5) == bytes(range(10, 15))
    assert len(pauses) == 3 and pauses == sorted(pauses)


@pytest.mark.parametrize(
    ("error", "error_class", "num_tries"),
    [
        (OSError("curlCode: 7, Could not connect"), "unreachable", remote._MAX_ATTEMPTS),
        (FileNotFoundError("gone"), "not_found", 1),
        (OSError("AWS Error ACCESS_DENIED during HeadObject operation"), "permission_denied", 1),
    ],
)
def test_what_stays_wrong_has_a_class_and_tells_no_secret(
    error: Exception, error_class: str, num_tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [error] * 9
    file = FailingFile(failures)
    monkeypatch.setattr("pipelines.filesystems.filesystem_of", lambda uri: (file, "a"))
    with pytest.raises(IngestError) as raised:
        RemoteRanges(pause=lambda _: None).read("https://user:secret@host/a.mp4?sig=abc", 10, 5)
    assert raised.value.error_class == error_class
    assert "secret" not in raised.value.message and "abc" not in raised.value.message
    assert len(failures) == 9 - num_tries


def test_a_missing_object_and_a_lost_server_are_named(
    s3: S3Server,  # noqa: F811
    decoder: DecoderProcess,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bucket = s3.make_bucket()
    with pytest.raises(IngestError) as error:
        decoder.probe(Location(uri=f"s3://{bucket}/none.mp4"), Limits(), limit_s=60)
    assert error.value.error_class == "not_found" and f"s3://{bucket}/none.mp4" in error.value.message
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(IngestError) as error:
        decoder.probe(Location(uri=f"s3://{bucket}/film-404-forbidden.mp4"), Limits(), limit_s=60)
    assert error.value.error_class == "unreachable"


@pytest.mark.parametrize(
    ("text", "error_class"),
    [
        (
            "for key 'a' in bucket 'b': AWS Error ACCESS_DENIED during HeadObject operation: no body",
            "permission_denied",
        ),
        ("AWS Error NO_SUCH_BUCKET during GetObject operation: it does not exist", "not_found"),
        ("AWS Error UNKNOWN (HTTP status 403) during HeadObject operation", "permission_denied"),
        ("404, message='Not Found', url='http://h/film'", "unreachable"),
        ("for key '403.mp4' in bucket '404': AWS Error NETWORK_CONNECTION during HeadObject operation", "unreachable"),
    ],
)
def test_errors_are_told_apart_by_what_they_say_not_by_the_address(text: str, error_class: str) -> None:
    assert remote._error_class(OSError(text)) == error_class


def test_an_http_status_tells_what_is_wrong() -> None:
    class ResponseError(Exception):
        status = 404

    assert remote._error_class(ResponseError("Not Found")) == "not_found"


def test_an_object_that_vanishes_is_named_while_decoding(
    s3: S3Server,  # noqa: F811
    films: list[Path],
    decoder: DecoderProcess,
) -> None:
    bucket = s3.make_bucket()
    s3.put_folder(films[0].parent, bucket)
    video = planned(Location(uri=f"s3://{bucket}/a.mkv"), decoder)
    decoder.close()  # with what it remembers of the film
    s3.client.delete_object(Bucket=bucket, Key="a.mkv")
    with pytest.raises(IngestError) as error:
        frames(video, decoder)
    assert error.value.error_class in ("not_found", "unreachable")


def test_a_tar_that_ends_inside_its_member_is_cut(films: list[Path], tmp_path: Path) -> None:
    tar, members = packed(tmp_path, films)
    last = members[films[-1].name]
    with open(tar, "rb+") as file:
        file.truncate(last.offset_bytes + 1000)
    with pytest.raises(IngestError) as error:
        probe_video(last)
    assert error.value.error_class == "truncated" and "tar" in error.value.message


def test_decoding_without_a_sandbox_reads_objects_itself(s3: S3Server, films: list[Path]) -> None:  # noqa: F811
    bucket = s3.make_bucket()
    s3.put_folder(films[0].parent, bucket)
    location = Location(uri=f"s3://{bucket}/a.mp4")
    probe = probe_video(location)
    assert probe.digest == probe_video(str(films[0])).digest
    request = DecodeRequest(
        uri=location.uri,
        codec="h264",
        stream_index=0,
        key_pts=int(probe.pts[0]),
        key_dts=int(probe.dts[0]),
        target_pts=(int(probe.pts[0]),),
        width=96,
        height=64,
        orientation="",
        jpeg_quality=85,
    )
    assert len(decode_segment(request)) == 1
