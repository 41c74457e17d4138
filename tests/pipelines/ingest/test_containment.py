"""A hostile file cannot make ffmpeg read another file or open a connection, nor take memory, disk or the worker."""

from __future__ import annotations

import contextlib
import os
import pickle
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import psutil
import pytest

from pipelines.ingest import sandbox
from pipelines.ingest.config import Limits
from pipelines.ingest.container import open_container
from pipelines.ingest.opening import use_ranges
from pipelines.ingest.remote import RemoteRanges
from pipelines.ingest.sandbox import DecoderProcess
from pipelines.ingest.types import IngestError, Location
from pipelines.ingest.wire import answer_from
from tests.pipelines.ingest.media import make_video


class Canary:
    """An address and a file that nobody may touch."""

    def __init__(self, folder: Path) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(0.05)
        self.port = self._socket.getsockname()[1]
        self.pipe = folder / "canary.ts"
        os.mkfifo(self.pipe)

    def was_touched(self) -> bool:
        """Whether somebody connected, or waits for the pipe."""
        with contextlib.suppress(TimeoutError):
            self._socket.accept()[0].close()
            return True
        with contextlib.suppress(OSError):
            os.close(os.open(self.pipe, os.O_WRONLY | os.O_NONBLOCK))
            return True
        return False

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Canary]:
    bird = Canary(tmp_path)
    yield bird
    bird.close()


# Bytes that are no text, so that the sniffing before ffmpeg does not settle it.
NOT_TEXT = b"#\xff\xfe\n"


def playlist(canary: Canary) -> bytes:
    head = b"#EXTM3U\n" + NOT_TEXT + b"#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n"
    parts = [f"http://127.0.0.1:{canary.port}/a.ts", canary.pipe.name, f"file:{canary.pipe}", str(canary.pipe)]
    return head + "".join(f"#EXTINF:1,\n{part}\n" for part in parts).encode() + b"#EXT-X-ENDLIST\n"


def concat_script(canary: Canary) -> bytes:
    return b"ffconcat version 1.0\n" + NOT_TEXT + f"file {canary.pipe.name}\nfile '{canary.pipe}'\n".encode()


def session_description(canary: Canary) -> bytes:
    return f"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {canary.port} RTP/AVP 96\n".encode()


def manifest(canary: Canary) -> bytes:
    base = f"http://127.0.0.1:{canary.port}/"
    head = f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><BaseURL>{base}</BaseURL>'
    middle = '<Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>a.mp4</BaseURL>'
    return (head + middle + "</Representation></AdaptationSet></Period></MPD>").encode() + NOT_TEXT


def pictures(canary: Canary) -> bytes:
    link = f'<image href="file://{canary.pipe}"/><image href="http://127.0.0.1:{canary.port}/a.png"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9">{link}</svg>'.encode() + NOT_TEXT


def with_data_reference(film: bytes, path: Path) -> bytes:
    """An MP4, with its index last, whose media are said to be in another file (a Macintosh alias)."""
    name = path.name.encode()
    record = bytes(10) + bytes([1]) + b"v".ljust(27, b"\0") + bytes(12) + bytes([len(name)]) + name.ljust(63, b"\0")
    record += bytes(16) + struct.pack(">HH", 1, 1) + bytes(16)
    absolute = str(path).encode() + b"\0" * (len(str(path)) % 2)
    record += struct.pack(">HH", 2, len(absolute)) + absolute + struct.pack(">HH", 0xFFFF, 0)
    entry = struct.pack(">I4sI", 12 + len(record), b"alis", 0) + record
    box = struct.pack(">I4sII", 16 + len(entry), b"dref", 0, 1) + entry
    data = bytearray(film)
    at = data.index(b"dref") - 4
    (old_size,) = struct.unpack_from(">I", data, at)
    data[at : at + old_size] = box
    for parent in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
        start = data.index(parent) - 4
        (size,) = struct.unpack_from(">I", data, start)
        struct.pack_into(">I", data, start, size + len(box) - old_size)
    return bytes(data)


def data_reference(canary: Canary) -> bytes:
    film = make_video(canary.pipe.with_name("film.mov"), seconds=1)
    return with_data_reference(film.read_bytes(), canary.pipe)


HOSTILE = [playlist, concat_script, session_description, manifest, pictures, data_reference]


@pytest.mark.parametrize("make", HOSTILE, ids=lambda make: make.__name__)
@pytest.mark.parametrize("place", ["file", "member", "remote"])
def test_a_hostile_file_reaches_nothing(
    make: Callable[[Canary], bytes], place: str, canary: Canary, tmp_path: Path
) -> None:
    content = make(canary)
    path = tmp_path / "innocent.mp4"
    path.write_bytes(bytes(512) + content if place == "member" else content)
    location = Location(uri=str(path))
    if place == "member":
        location = Location(uri=str(path), offset_bytes=512, length_bytes=len(content))
    if place == "remote":
        use_ranges(InMemory(content))
        location = Location(uri="s3://bucket/innocent.mp4")
    try:
        with open_container(location) as container:
            for packet in container.demux():
                with contextlib.suppress(av.error.FFmpegError):
                    packet.decode()
    except (IngestError, av.error.FFmpegError):
        pass
    finally:
        use_ranges(RemoteRanges())
    assert not canary.was_touched()


class InMemory:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def size(self, uri: str) -> int:
        return len(self.content)

    def read(self, uri: str, offset: int, length: int) -> bytes:
        return self.content[offset : offset + length]


@pytest.mark.parametrize(
    ("make", "options"),
    [(playlist, {"extension_picky": "0"}), (concat_script, {"safe": "0"}), (data_reference, {"enable_drefs": "1"})],
)
def test_without_the_fences_it_would(
    make: Callable[[Canary], bytes], options: dict[str, str], canary: Canary, tmp_path: Path
) -> None:
    """Else the test above would show nothing."""
    path = tmp_path / ("playlist.m3u8" if make is playlist else "innocent.mp4")
    path.write_bytes(make(canary))
    options |= {"use_absolute_path": "1"} if make is data_reference else {}
    code = f"import av; av.open({str(path)!r}, options={options!r})"
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 30
        while not (touched := canary.was_touched()) and child.poll() is None and time.monotonic() < until:
            pass
        assert touched
    finally:
        child.kill()
        child.wait()


@pytest.fixture
def decoder() -> Iterator[DecoderProcess]:
    process = DecoderProcess(max_rss_bytes=1 << 30)
    yield process
    process.close()


def test_the_decoder_gets_no_secrets_and_may_write_no_files(
    decoder: DecoderProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    monkeypatch.setenv("WANDB_API_KEY", "hidden")
    decoder.probe(Location(uri=str(make_video(tmp_path / "a.mp4", seconds=1))), Limits(), limit_s=60)
    assert decoder._child is not None
    child = psutil.Process(decoder._child.pid)
    assert "hidden" not in child.environ().values()
    assert child.rlimit(resource.RLIMIT_CORE) == (0, 0)
    assert child.rlimit(resource.RLIMIT_FSIZE)[1] <= 1 << 20
    assert child.rlimit(resource.RLIMIT_DATA)[1] <= 2 << 30
    assert 0 < child.rlimit(resource.RLIMIT_CPU)[0] < 120


def test_the_decoder_ends_with_its_worker(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.mp4"
    os.mkfifo(pipe)
    code = f"""
from pipelines.ingest.sandbox import DecoderProcess
from pipelines.ingest.types import DecodeRequest
decoder = DecoderProcess(max_rss_bytes=1 << 30)
print(decoder._running_child().pid, flush=True)
decoder.decode(DecodeRequest(uri={str(pipe)!r}, codec="h264", stream_index=0, key_pts=0, key_dts=0, target_pts=(0,),
               width=2, height=2, orientation="", jpeg_quality=85), limit_s=600)
"""
    worker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=Path(__file__).parents[3])
    assert worker.stdout is not None
    child = psutil.Process(int(worker.stdout.readline()))
    writer = os.open(pipe, os.O_WRONLY)  # returns when the decoder has opened it: it hangs in a read now
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    assert child.wait(timeout=60) in (-signal.SIGKILL, None)
    os.close(writer)
    worker.stdout.close()


class Exploit:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("true",)


def test_the_worker_unpickles_answers_only() -> None:
    with pytest.raises(pickle.UnpicklingError, match="system"):
        answer_from(pickle.dumps(("answer", Exploit())))


@pytest.fixture(scope="module")
def huge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film of 15000 x 10000 pixels."""
    path = tmp_path_factory.mktemp("huge") / "a.avi"
    return make_video(path, seconds=0.1, size="15000x10000", vcodec="mjpeg", pix_fmt="yuvj420p")


def test_too_large_pictures_are_refused_before_they_take_memory(huge: Path, decoder: DecoderProcess) -> None:
    with pytest.raises(IngestError) as error:
        decoder.probe(Location(uri=str(huge)), Limits(), limit_s=60)
    assert error.value.error_class == "unsupported" and "limits.max_pixels" in error.value.message
    assert decoder._child is not None
    assert psutil.Process(decoder._child.pid).memory_info().rss < 150e6


def test_a_decoder_that_needs_too_much_memory_says_so(huge: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_POLL_S", 0.01)  # else a fast machine is done before the worker looks
    decoder = DecoderProcess(max_rss_bytes=1)
    try:
        with pytest.raises(IngestError) as error:
            decoder.probe(Location(uri=str(huge)), Limits(max_pixels=2**30), limit_s=60)
        assert error.value.error_class == "decoder_memory"
    finally:
        decoder.close()


@pytest.mark.parametrize("name", ["a.mp4", "a.ts"])
def test_too_long_videos_are_refused(name: str, decoder: DecoderProcess, tmp_path: Path) -> None:
    location = Location(uri=str(make_video(tmp_path / name, seconds=6)))
    assert decoder.probe(location, Limits(max_duration_s=6.5), limit_s=60).codec == "h264"
    with pytest.raises(IngestError) as error:
        decoder.probe(location, Limits(max_duration_s=5.5), limit_s=60)
    assert error.value.error_class == "too_long" and "limits.max_duration_s" in error.value.message
