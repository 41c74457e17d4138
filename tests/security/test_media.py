"""A real ingest of hostile films: none makes a decoder read another file, ask an address or run what it is called."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from jobs.cli.main import app
from pipelines.evaluation.benchmarks.question import Clip
from pipelines.evaluation.clips import ShownClip, clip_pixels
from pipelines.evaluation.decoding import UnreadableVideoError
from pipelines.evaluation.protocols.recipe import FrameRule
from pipelines.manifest_io import read_failures, read_manifest
from tests.pipelines.ingest.faults import OneProcess
from tests.pipelines.ingest.media import make_video
from tests.security.hostile_media import hostile_files, hostile_names, mov_that_refers, secret_film

FIRST_LINE_OF_PASSWD = b"root:x:0"


@dataclass
class Web:
    """A web server that notes who came."""

    port: int = 0
    asked: list[str] = field(default_factory=list)


class _Handler(http.server.SimpleHTTPRequestHandler):
    web: Web

    def handle_one_request(self) -> None:
        self.web.asked.append(str(self.client_address))
        super().handle_one_request()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path, Web]]:
    """(folder of hostile films, film that none of them may read, web server that serves it)."""
    root = tmp_path_factory.mktemp("hostile")
    film = make_video(root / "film.mp4", seconds=2, size="96x64")
    secret = secret_film(film, root)
    web = Web()
    handler = type("Handler", (_Handler,), {"web": web})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(root)))
    web.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    folder = root / "films"
    folder.mkdir()
    for name, content in {**hostile_files(secret, web.port), **hostile_names(film.read_bytes())}.items():
        (folder / name).write_bytes(content)
    (folder / "refers.mov").write_bytes(mov_that_refers(film, secret))
    (folder / "secret.ts.txt").write_bytes(secret.read_bytes())  # beside them, as a playlist may name it
    (folder / "passwd.mp4").symlink_to("/etc/passwd")
    (folder / "secret.mp4").mkdir()
    yield folder, secret, web
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def ingested(world: tuple[Path, Path, Web], tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    folder, _, _ = world
    out = tmp_path_factory.mktemp("out") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAMBA_HOME", str(out.parent / "home"))
        process = OneProcess(patch)
        words = ["ingest", str(folder), "--out", str(out), "--set", "max_failure_fraction=1.0"]
        result = CliRunner().invoke(app, words)
        process.close()
    return result, out


def test_only_whole_films_become_samples(world: tuple[Path, Path, Web], ingested: tuple[Result, Path]) -> None:
    result, out = ingested
    assert result.exit_code == 0, result.output
    sources = {Path(row.source_uri).name for row in read_manifest(out).samples}
    assert sources == set(hostile_names(b""))
    failed = {Path(row.source_uri).name: row.error_class for row in read_failures(out)}
    assert {*hostile_files(Path("/x/secret.ts"), 1), "refers.mov", "passwd.mp4"} <= set(failed)
    assert not {kind for kind in failed.values() if kind.startswith("decoder_")}, "no decoder had to be ended"


def test_nobody_came_to_the_server_and_nothing_ran(world: tuple[Path, Path, Web], ingested: object) -> None:
    folder, secret, web = world
    assert web.asked == []
    assert not [*secret.parent.rglob("pwned"), *Path().glob("pwned")]


def test_nothing_written_or_printed_holds_what_was_not_named(ingested: tuple[Result, Path]) -> None:
    result, out = ingested
    written = {path: path.read_bytes() for path in out.parent.rglob("*") if path.is_file()}
    assert written
    assert [path for path, content in written.items() if FIRST_LINE_OF_PASSWD in content] == []
    assert FIRST_LINE_OF_PASSWD.decode() not in result.output


def test_an_evaluation_decodes_none_of_them_either(world: tuple[Path, Path, Web]) -> None:
    folder, secret, web = world
    frames = FrameRule(num_frames=4, shortest_edge=0, longest_edge=0)
    for name in (*hostile_files(secret, web.port), "refers.mov", "passwd.mp4"):
        shown = ShownClip(id="c", clip=Clip(path=str(folder / name)), frames=frames)
        with pytest.raises(UnreadableVideoError):
            pixels = clip_pixels(shown, num_processes=1)
            with contextlib.closing(pixels.pieces) as pieces:
                list(pieces)
    assert web.asked == []


@pytest.mark.parametrize("decode", [True, False])
def test_a_stream_in_a_shard_is_an_mp4_or_nothing(world: tuple[Path, Path, Web], decode: bool) -> None:
    """Shards come from elsewhere too, and their H.264 streams are opened by training and `vamba data verify`."""
    import io

    from pipelines.datasets.verify_h264 import h264_problem
    from tests.pipelines.test_manifest_io import make_manifest
    from vamba.data.h264 import decode_h264

    folder, secret, web = world
    row = make_manifest().samples[0]
    for name, content in hostile_files(secret, web.port).items():
        assert h264_problem(io.BytesIO(content), row, [0], decode=decode), name
        with pytest.raises((ValueError, IndexError)):
            decode_h264(content, [0], width=96, height=64)
    assert web.asked == []
