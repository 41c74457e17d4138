"""The decoder process: its errors arrive, its hangs and deaths are contained, and it is light."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.ingest.config import Limits
from pipelines.ingest.sandbox import DecoderProcess
from pipelines.ingest.types import DecodeRequest, IngestError, Location
from pipelines.ingest.wire import framed
from tests.pipelines.ingest.media import make_video


@pytest.fixture
def decoder() -> Iterator[DecoderProcess]:
    process = DecoderProcess(max_rss_bytes=1 << 30)
    yield process
    process.close()


@pytest.fixture
def hanging_request(tmp_path: Path) -> DecodeRequest:
    """A pipe that nobody writes to: opening it waits for ever inside a system call."""
    pipe = tmp_path / "pipe.mp4"
    os.mkfifo(pipe)
    return DecodeRequest(
        uri=str(pipe),
        codec="h264",
        stream_index=0,
        key_pts=0,
        key_dts=0,
        target_pts=(0,),
        width=2,
        height=2,
        orientation="",
        jpeg_quality=85,
    )


def test_errors_arrive_and_the_process_serves_on(decoder: DecoderProcess, tmp_path: Path) -> None:
    with pytest.raises(IngestError) as error:
        decoder.probe(Location(uri=str(tmp_path / "missing.mp4")), Limits(), limit_s=60)
    assert error.value.error_class == "not_found"
    assert (
        decoder.probe(Location(uri=str(make_video(tmp_path / "a.mp4", seconds=1))), Limits(), limit_s=60).codec
        == "h264"
    )


def test_a_hang_is_ended_and_the_next_request_served(
    decoder: DecoderProcess, hanging_request: DecodeRequest, tmp_path: Path
) -> None:
    with pytest.raises(IngestError) as error:
        decoder.decode(hanging_request, limit_s=0.1)
    assert error.value.error_class == "decoder_timeout"
    assert (
        decoder.probe(Location(uri=str(make_video(tmp_path / "a.mp4", seconds=1))), Limits(), limit_s=60).codec
        == "h264"
    )


def test_a_crash_is_reported_with_its_signal(
    decoder: DecoderProcess, hanging_request: DecodeRequest, tmp_path: Path
) -> None:
    decoder.probe(Location(uri=str(make_video(tmp_path / "a.mp4", seconds=1))), Limits(), limit_s=60)
    assert decoder._child is not None
    pid = decoder._child.pid

    def crash() -> None:
        time.sleep(0.3)
        os.kill(pid, signal.SIGSEGV)

    thread = threading.Thread(target=crash)
    thread.start()
    with pytest.raises(IngestError) as error:
        decoder.decode(hanging_request, limit_s=60)
    thread.join()
    assert error.value.error_class == "decoder_crash" and "SIGSEGV" in error.value.message


def test_a_hanging_process_without_its_worker_ends_by_itself(hanging_request: DecodeRequest) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "pipelines.ingest.sandbox_child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        cwd=Path(__file__).parents[3],
    )
    child.communicate(framed(("decode", (hanging_request,), 0.01)), timeout=60)
    assert child.returncode == -signal.SIGALRM


def test_memory_limit(hanging_request: DecodeRequest) -> None:
    decoder = DecoderProcess(max_rss_bytes=1)
    try:
        with pytest.raises(IngestError) as error:
            decoder.decode(hanging_request, limit_s=60)
        assert error.value.error_class == "decoder_memory"
    finally:
        decoder.close()


@pytest.mark.parametrize("module", ["pipelines.ingest.sandbox_child", "pipelines.ingest.stages"])
def test_workers_load_nothing_heavy(module: str) -> None:
    code = (
        f"import sys, {module}; print(*({{'torch', 'webdataset', 'mlflow', 'transformers', 'ray'}} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""
