"""The mirror of a run: what is in it, what comes back from it, and what happens while the store is away."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import pytest
from werkzeug.wrappers import Request, Response

from pipelines.storage import open_storage
from pipelines.training.checkpoint_files import Checkpoint, checkpoint_path, commit, describe_files, remove
from pipelines.training.mirror import Mirror, MirrorError, claim, mirrored_steps, send
from pipelines.training.mirror_back import bring_back
from pipelines.training.run_directory import RunDirectory
from tests.pipelines.unruly_s3 import BUCKET, UnrulyS3, error, unruly
from tests.s3_server import S3Server, s3, s3_server

__all__ = ["s3", "s3_server", "unruly"]


def make_run(root: Path, *steps: int) -> RunDirectory:
    directory = RunDirectory(root / "runs" / "film")
    for folder in (directory.metrics, directory.checkpoints):
        folder.mkdir(parents=True)
    directory.config_path.write_text("{}")
    directory.update_run(data_digest="sha256:d")
    (directory.metrics / "attempt-0001.jsonl").write_text('{"step": 1}\n')
    directory.append_event("attempt_started", rank=0)
    for step in steps:
        save(directory, step)
    return directory


def save(directory: RunDirectory, step: int) -> Checkpoint:
    temporary = directory.checkpoints / f"step_{step:08d}.tmp"
    temporary.mkdir()
    (temporary / "__0_0.distcp").write_bytes(f"weights of {step}".encode() * 1000)
    (temporary / ".metadata").write_bytes(b"index")
    meta = {"format_version": 2, "step": step, "files": describe_files(temporary, 0)}
    return commit(temporary, checkpoint_path(directory.checkpoints, step), meta)


def content(directory: RunDirectory, step: int) -> dict[str, bytes]:
    path = checkpoint_path(directory.checkpoints, step)
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.fixture(params=["folder", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "mirror")
    server: S3Server = request.getfixturevalue("s3")
    return f"s3://{server.make_bucket()}/mirrors"


def test_a_lost_disk_is_replaced_from_the_mirror(tmp_path: Path, uri: str) -> None:
    directory = make_run(tmp_path / "first", 40, 80)
    mirror = Mirror(uri, directory, pytest.fail)
    mirror.close()
    assert content(directory, 80)  # still there: the mirror is a copy
    other = RunDirectory(tmp_path / "second" / "runs" / "film")
    assert bring_back(uri, other, lambda text: None) == 80
    assert content(other, 80) == content(directory, 80)
    assert other.read_run() == directory.read_run() and other.read_events() == directory.read_events()
    assert [record for _, record in other.read_metrics()] == [{"step": 1}]
    assert bring_back(uri, other, pytest.fail) is None  # nothing newer
    Mirror(uri, other, pytest.fail).close()  # the same run goes on from there


def test_the_mirror_keeps_what_the_run_keeps(tmp_path: Path, uri: str) -> None:
    directory = make_run(tmp_path, 40, 80)
    storage = open_storage(f"{uri}/film")
    claim(storage, directory)
    send(directory, storage, {})
    assert mirrored_steps(storage) == [40, 80]
    remove(checkpoint_path(directory.checkpoints, 40))
    save(directory, 120)
    send(directory, storage, {})
    assert mirrored_steps(storage) == [80, 120]
    shutil.rmtree(checkpoint_path(directory.checkpoints, 120))  # lost, not let go
    send(directory, storage, {})
    assert mirrored_steps(storage) == [80, 120]
    assert bring_back(uri, directory, lambda text: None) == 120


def test_half_a_checkpoint_is_none_and_a_damaged_one_is_passed_over(tmp_path: Path, uri: str) -> None:
    directory = make_run(tmp_path / "first", 40, 80, 120)
    storage = open_storage(f"{uri}/film")
    claim(storage, directory)
    send(directory, storage, {})
    storage.delete("checkpoints/step_00000120/meta.json")
    storage.write_atomic("checkpoints/step_00000080/__0_0.distcp", b"x" * 14000)
    other = RunDirectory(tmp_path / "second" / "runs" / "film")
    notices: list[str] = []
    assert bring_back(uri, other, notices.append) == 40
    assert len(notices) == 2 and "Step 80" in notices[0] and "sha256" in notices[0]
    assert [path.name for path in other.checkpoints.iterdir()] == ["step_00000040"]


def test_a_damaged_checkpoint_is_not_sent(tmp_path: Path, uri: str) -> None:
    directory = make_run(tmp_path, 40, 80)
    (checkpoint_path(directory.checkpoints, 80) / "__0_0.distcp").write_bytes(b"x")
    storage = open_storage(f"{uri}/film")
    send(directory, storage, {})
    assert mirrored_steps(storage) == [40]


def test_only_whole_checkpoints_come_back_or_it_is_said_why_none(tmp_path: Path, uri: str) -> None:
    directory = make_run(tmp_path / "first", 40)
    storage = open_storage(f"{uri}/film")
    claim(storage, directory)
    send(directory, storage, {})
    storage.delete("checkpoints/step_00000040/.metadata")
    with pytest.raises(MirrorError, match=r"step 40: .*metadata"):
        bring_back(uri, RunDirectory(tmp_path / "second" / "runs" / "film"), lambda text: None)


def test_a_mirror_belongs_to_one_run(tmp_path: Path, uri: str) -> None:
    Mirror(uri, make_run(tmp_path / "first", 40), pytest.fail).close()
    stranger = make_run(tmp_path / "second", 40)
    with pytest.raises(MirrorError, match="another run of this name"):
        Mirror(uri, stranger, pytest.fail)
    stranger.update_run(mirror_id="its own")
    with pytest.raises(MirrorError, match="another run than"):
        bring_back(uri, stranger, pytest.fail)


def test_a_run_on_two_machines_is_noticed(tmp_path: Path, uri: str) -> None:
    directory = make_run(tmp_path, 40)
    storage = open_storage(f"{uri}/film")
    send(directory, storage, {})
    meta = json.loads(storage.read_bytes("checkpoints/step_00000040/meta.json"))
    save(directory, 80)
    storage.write_atomic("checkpoints/step_00000080/meta.json", json.dumps({**meta, "step": 80}).encode())
    storage.delete("checkpoints/step_00000080/meta.json")
    create = storage.create
    storage.create = lambda path, data: storage.write_atomic(path, b"{}") or create(path, data)  # type: ignore[method-assign]
    with pytest.raises(MirrorError, match="two machines"):
        send(directory, storage, {})


def test_a_checkpoint_is_sent_after_the_records_of_its_steps(tmp_path: Path, uri: str) -> None:
    directory = make_run(tmp_path / "first", 40)
    storage = open_storage(f"{uri}/film")
    claim(storage, directory)
    create = storage.create

    def lost_after(path: str, data: bytes) -> bool:
        create(path, data)
        raise ConnectionError("the machine is gone")

    storage.create = lost_after  # type: ignore[method-assign]
    with pytest.raises(ConnectionError):
        send(directory, storage, {})
    other = RunDirectory(tmp_path / "second" / "runs" / "film")
    assert bring_back(uri, other, lambda text: None) == 40
    assert [record for _, record in other.read_metrics()] == [{"step": 1}]
    assert other.read_run() == directory.read_run()


@pytest.mark.parametrize("was_sent", [True, False])
def test_a_run_that_was_lost_before_its_first_checkpoint_begins_again(tmp_path: Path, uri: str, was_sent: bool) -> None:
    directory = make_run(tmp_path / "first")
    storage = open_storage(f"{uri}/film")
    claim(storage, directory)
    if was_sent:
        send(directory, storage, {})
    other = RunDirectory(tmp_path / "second" / "runs" / "film")
    notices: list[str] = []
    assert bring_back(uri, other, notices.append) is None
    assert "begins again" in notices[0]
    assert other.read_run() == (directory.read_run() if was_sent else {"mirror_id": directory.read_run()["mirror_id"]})
    Mirror(uri, other, pytest.fail).close()


def test_no_mirror_is_no_error(tmp_path: Path, uri: str) -> None:
    assert bring_back(uri, RunDirectory(tmp_path / "runs" / "film"), pytest.fail) is None


def test_a_store_that_fails_half_of_its_requests_gets_everything(tmp_path: Path, unruly: UnrulyS3) -> None:
    directory = make_run(tmp_path / "first", 40, 80, 120)
    number = iter(range(10**6))

    def every_second(request: Request) -> Response | None:
        return error(503, "SlowDown") if request.method == "PUT" and next(number) % 2 else None

    unruly.rule = every_second
    notices: list[str] = []
    mirror = Mirror(f"s3://{BUCKET}", directory, notices.append, pass_every_s=0.01, retry_s=0.01)
    mirror.close()
    unruly.rule = None
    other = RunDirectory(tmp_path / "second" / "runs" / "film")
    assert bring_back(f"s3://{BUCKET}", other, notices.append) == 120
    assert not any("can't be used" in text for text in notices)


def test_a_store_that_is_away_is_said_once_and_its_return_too(tmp_path: Path, unruly: UnrulyS3) -> None:
    directory = make_run(tmp_path, 40)
    claim(open_storage(f"s3://{BUCKET}/film"), directory)
    unruly.rule = lambda request: error(403, "AccessDenied")
    notices: list[str] = []
    told = threading.Event()

    def notice(text: str) -> None:
        notices.append(text)
        told.set()

    with pytest.raises(ValueError, match="denied"):  # before anything is trained, it is an error
        Mirror(f"s3://{BUCKET}", directory, notices.append)
    unruly.rule = lambda request: error(403, "AccessDenied") if "checkpoints" in request.full_path else None
    mirror = Mirror(f"s3://{BUCKET}", directory, notice, pass_every_s=0.01, retry_s=0.01)
    assert told.wait(60)
    mirror.close()
    assert len(notices) == 2 and "training goes on" in notices[0] and "newest state" in notices[1]
    unruly.rule = None
    Mirror(f"s3://{BUCKET}", directory, notices.append).close()
    assert mirrored_steps(open_storage(f"s3://{BUCKET}/film")) == [40]
