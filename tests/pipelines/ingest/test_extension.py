"""A finished dataset grows: new sources, failures that succeed later, kills between any two steps, and refusals."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.ingest import job, publish
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.extension import Request
from pipelines.ingest.job import run_ingest
from pipelines.ingest.lock import LOCK_NAME, DestinationBusy, destination_lock
from pipelines.ingest.progress import Silent
from pipelines.ingest.summary import IngestSummary
from pipelines.manifest_io import MANIFEST_NAME, read_failures, read_inputs, read_manifest
from pipelines.ray_session import ray_session
from pipelines.storage import open_storage
from tests.pipelines.ingest.media import make_video

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]

APPEND, RETRY, PLAIN = Request(append=True), Request(retry_failures=True), Request()


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the product catches it."""


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with ray_session(None, 1):
        yield


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Day 1 holds two videos and a cut one, day 2 two others, of which one has a name of day 1, and a text."""
    folder = tmp_path_factory.mktemp("media")
    for name in ("day1/a", "day1/b", "day2/a", "day2/c", "whole"):
        make_video(folder / f"{name}.mp4", seconds=2 + len(name) % 3)
    (folder / "day1/cut.mp4").write_bytes((folder / "whole.mp4").read_bytes()[:1000])
    (folder / "day2/text.mp4").write_text("not a video")
    return folder


@pytest.fixture(scope="module")
def first(media: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("first") / "out"
    ingest(out, media / "day1")
    return out


@pytest.fixture
def out(first: Path, tmp_path: Path) -> Path:
    """A copy of the dataset of day 1."""
    return Path(shutil.copytree(first, tmp_path / "out"))


def ingest(out: Path, *sources: Path, request: Request = PLAIN, **settings: Any) -> IngestSummary:
    settings = {"target_shard_bytes": 20_000, **settings}
    return run_ingest(IngestConfig(sources=tuple(map(str, sources)), out=str(out), **settings), Silent(), request)


def digests(out: Path) -> dict[str, str]:
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def ids(out: Path, version: int | None = None) -> list[str]:
    return sorted(row.id for row in read_manifest(out, version).samples)


def assert_untouched(before: dict[str, str], after: dict[str, str]) -> None:
    replaced = {MANIFEST_NAME, "failures.parquet"}
    assert {name: after[name] for name in before if name not in replaced} == {
        name: digest for name, digest in before.items() if name not in replaced
    }


def test_append_adds_shards_and_a_version(out: Path, media: Path) -> None:
    before, old = digests(out), read_manifest(out)
    summary = ingest(out, media / "day2", request=APPEND)
    manifest = read_manifest(out)
    assert (summary.version, manifest.version, summary.num_videos, summary.num_sources) == (2, 2, 4, 6)
    assert summary.failures == {"not_a_video": 1, "truncated": 1}
    (renamed,) = set(ids(out)) - {"a", "b", "c"}
    assert renamed.startswith("a-")  # day2/a.mp4: the id is taken
    assert_untouched(before, digests(out))
    assert digests(out)["manifest-v00001.parquet"] == before[MANIFEST_NAME]
    assert read_manifest(out, 1) == old and read_manifest(out, 2) == manifest
    numbers = [job.shard_number(shard.name) for shard in manifest.shards]
    assert numbers == list(range(len(numbers))) and len(numbers) > len(old.shards)
    assert manifest.samples[: len(old.samples)] == old.samples
    assert [row.id for row in read_failures(out)] == ["cut", "text"]
    assert [Path(row.uri).name for row in read_inputs(out, 2) or ()] == [
        "a.mp4", "b.mp4", "cut.mp4", "a.mp4", "c.mp4", "text.mp4",
    ]  # fmt: skip
    with pytest.raises(FileNotFoundError, match="no version 3.*there are 1, 2"):
        read_manifest(out, 3)


def test_inputs_are_those_of_the_union(out: Path, media: Path, tmp_path: Path) -> None:
    ingest(out, media / "day2", request=APPEND)
    at_once = tmp_path / "at-once"
    ingest(at_once, media / "day1", media / "day2")
    assert read_manifest(out).inputs_digest == read_manifest(at_once).inputs_digest
    after = digests(out)
    for sources, request in (
        ((media / "day1", media / "day2"), PLAIN),
        ((media / "day2",), APPEND),
        ((media / "day1",), APPEND),
    ):
        assert ingest(out, *sources, request=request).was_complete
    with pytest.raises(ValueError, match="3 are not named any more"):
        ingest(out, media / "day1")
    assert digests(out) == after


def test_versions_follow_each_other(out: Path, media: Path) -> None:
    ingest(out, media / "day2/c.mp4", request=APPEND)
    ingest(out, media / "day2/text.mp4", request=APPEND)  # fails: known from now on, and no shard
    ingest(out, media / "whole.mp4", request=APPEND)
    assert [ids(out, version) for version in (1, 2, 3, 4)] == [
        ["a", "b"], ["a", "b", "c"], ["a", "b", "c"], ["a", "b", "c", "whole"],
    ]  # fmt: skip
    assert ingest(out, media / "day2/text.mp4", request=APPEND).was_complete


def before_step(module: Any, name: str) -> Callable[[pytest.MonkeyPatch], None]:
    def kill(*_: Any, **__: Any) -> None:
        raise Killed

    return lambda monkeypatch: monkeypatch.setattr(module, name, kill)


def after_step(module: Any, name: str) -> Callable[[pytest.MonkeyPatch], None]:
    original = getattr(module, name)

    def kill(*arguments: Any, **named: Any) -> None:
        original(*arguments, **named)
        raise Killed

    return lambda monkeypatch: monkeypatch.setattr(module, name, kill)


KILLS = {
    "probed": before_step(job, "_decode"),
    "packed": after_step(job, "_decode"),
    "before the old manifest is kept": before_step(publish, "keep_manifest"),
    "before inputs": before_step(publish, "write_inputs"),
    "before failures": before_step(publish, "write_failure_table"),
    "before the manifest": before_step(publish, "write_manifest_table"),
    "published": after_step(publish, "write_manifest_table"),
}


@pytest.mark.parametrize("moment", KILLS)
@pytest.mark.parametrize("way", ["append", "retry"])
def test_killed_extension_continues_to_the_same_bytes(
    out: Path, media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, way: str
) -> None:
    request, sources = (APPEND, [media / "day2"]) if way == "append" else (RETRY, [media / "day1"])
    cut = media / "day1/cut.mp4"
    broken = cut.read_bytes()
    if way == "retry":
        shutil.copy(media / "whole.mp4", cut)
    try:
        undisturbed = Path(shutil.copytree(out, tmp_path / "undisturbed"))
        ingest(undisturbed, *sources, request=request)
        before = digests(out)
        with monkeypatch.context() as patch:
            KILLS[moment](patch)
            with pytest.raises(Killed):
                ingest(out, *sources, request=request)
        assert_untouched(before, digests(out))
        published = moment == "published"
        assert read_manifest(out).version == (2 if published else 1)
        summary = ingest(out, *sources, request=request)
        assert summary.was_complete == published
        assert digests(out) == digests(undisturbed)
    finally:
        cut.write_bytes(broken)


def test_plain_command_keeps_the_area_of_a_killed_append(
    out: Path, media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        KILLS["packed"](patch)
        with pytest.raises(Killed):
            ingest(out, media / "day2", request=APPEND)
    before = digests(out)
    assert ingest(out, media / "day1").was_complete
    assert digests(out) == before
    assert ingest(out, media / "day2", request=APPEND).num_segments_reused > 0


def test_two_killed_appends_do_not_mix_their_shards(out: Path, media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for sources in (media / "day2", media / "whole.mp4"):
        with monkeypatch.context() as patch:
            KILLS["packed"](patch)
            with pytest.raises(Killed):
                ingest(out, sources, request=APPEND)
    ingest(out, media / "day2", request=APPEND)
    for shard in read_manifest(out).shards:
        assert hashlib.sha256((out / "shards" / shard.name).read_bytes()).hexdigest() == shard.sha256
    assert (
        len(list((out / "shards").glob("*.tar")))
        == len(list((out / "shards").glob("*.idx")))
        == len(read_manifest(out).shards)
    )


def test_retry_adds_what_succeeds_and_leaves_the_rest_as_rows(out: Path, media: Path, tmp_path: Path) -> None:
    ingest(out, media / "day2", request=APPEND)
    before = digests(out)
    everything = (media / "day1", media / "day2")
    again = ingest(out, *everything, request=RETRY)
    assert again.version == 2 and digests(out) == before  # nothing has changed about the files
    cut = media / "day1/cut.mp4"
    broken = cut.read_bytes()
    shutil.copy(media / "whole.mp4", cut)
    try:
        with pytest.raises(ValueError, match=r"1 failed then and have changed.*cut.mp4.*again with --retry-failures"):
            ingest(out, *everything)
        with pytest.raises(ValueError, match="are not named any more"):
            ingest(out, media / "day1", request=RETRY)
        summary = ingest(out, *everything, request=RETRY)
        assert (summary.version, summary.num_videos, summary.failures) == (3, 5, {"not_a_video": 1})
        assert "cut" in ids(out) and "cut" not in ids(out, 2)
        (failure,) = read_failures(out)
        assert (
            failure.id == "text" and failure.command == f"ffmpeg -v error -i {media}/day2/text.mp4 -map 0:v:0 -f null -"
        )
        assert_untouched(before, digests(out))
        assert ingest(out, *everything).was_complete
    finally:
        cut.write_bytes(broken)


def test_both_at_once(out: Path, media: Path) -> None:
    cut = media / "day1/cut.mp4"
    broken = cut.read_bytes()
    shutil.copy(media / "whole.mp4", cut)
    try:
        ingest(out, media / "day1", media / "day2/c.mp4", request=Request(append=True, retry_failures=True))
        assert (read_manifest(out).version, ids(out)) == (2, ["a", "b", "c", "cut"])
    finally:
        cut.write_bytes(broken)


def test_refusals_name_the_remedy(out: Path, media: Path, tmp_path: Path) -> None:
    before = digests(out)
    day1, new = media / "day1", media / "day2/c.mp4"
    for arguments, message in (
        (
            dict(),
            r"of other inputs is \(videos: 1 are new, the first is .*c.mp4\); add the new videos with --append, ch",
        ),
        (dict(request=RETRY), "1 are new.*--append"),
        (dict(request=APPEND, target_shard_bytes=30_000), "of other settings is; choose another --out"),
        (dict(target_shard_bytes=30_000), r"of other settings and inputs is \(videos: 1 are new.*\); choose another"),
    ):
        with pytest.raises(ValueError, match=message):
            ingest(out, day1, new, **arguments)  # type: ignore[arg-type]
    for request, option in ((APPEND, "--append"), (RETRY, "--retry-failures")):
        with pytest.raises(ValueError, match=f"no finished dataset is that {option} could extend; run the ingest"):
            ingest(tmp_path / "none", day1, request=request)
    assert digests(out) == before and not (tmp_path / "none").exists()


def test_changed_conversations_of_old_videos_are_told_not_taken(out: Path, media: Path, tmp_path: Path) -> None:
    listing = tmp_path / "captions.jsonl"
    rows = [{"video": str(media / name), "caption": "A test picture."} for name in ("day1/a.mp4", "day2/c.mp4")]
    listing.write_text("\n".join(map(json.dumps, rows)))
    sources = (media / "day1", media / "day2/c.mp4")
    with pytest.raises(ValueError, match="1 are new.*1 have changed since, the first is .*day1/a.mp4"):
        ingest(out, *sources, conversations=str(listing))
    ingest(out, *sources, conversations=str(listing), request=APPEND)
    assert {row.id: row.num_conversations for row in read_manifest(out).samples} == {"a": 0, "b": 0, "c": 1}


@pytest.mark.parametrize("request_", [PLAIN, APPEND, RETRY])
def test_a_second_ingest_is_refused_with_the_name_of_the_first(out: Path, media: Path, request_: Request) -> None:
    with destination_lock(open_storage(out)):
        started = json.loads((out / LOCK_NAME).read_bytes())["started"]
        name = f"process {os.getpid()} on {os.uname().nodename}, started {started}".replace("+", r"\+")
        for sources in ((media / "day1",), (media / "day1", media / "day2")):
            with pytest.raises(DestinationBusy, match=name):
                ingest(out, *sources, request=request_)


def test_append_holds_the_lock(out: Path, media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def another(*_: Any) -> None:
        with pytest.raises(DestinationBusy):
            ingest(out, media / "whole.mp4", request=APPEND)
        raise Killed

    monkeypatch.setattr(publish, "keep_manifest", another)
    with pytest.raises(Killed):
        ingest(out, media / "day2", request=APPEND)


def test_a_dataset_from_before_inputs_were_recorded_goes_by_paths(out: Path, media: Path) -> None:
    (out / "inputs-v00001.parquet").unlink()
    assert ingest(out, media / "day1").was_complete
    ingest(out, media / "day2/c.mp4", request=APPEND)
    assert ids(out) == ["a", "b", "c"]
    assert ingest(out, media / "day1", media / "day2/c.mp4").was_complete
