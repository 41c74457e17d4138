"""`vamba ingest` as a user meets it: what it prints and the codes it ends with. Its stages run in this process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from jobs.cli.main import app
from pipelines.ingest import job
from pipelines.ingest.lock import destination_lock
from pipelines.manifest_io import read_failures, read_manifest
from pipelines.storage import open_storage
from tests.pipelines.ingest.faults import OneProcess
from tests.pipelines.ingest.media import make_video


@pytest.fixture
def media(tmp_path: Path) -> Path:
    make_video(tmp_path / "videos/a.mp4", seconds=2, size="64x48")
    make_video(tmp_path / "more/b.mp4", seconds=2, size="64x48")
    (tmp_path / "videos/cut.mp4").write_bytes((tmp_path / "more/b.mp4").read_bytes()[:900])
    return tmp_path


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[OneProcess]:
    process = OneProcess(monkeypatch)
    yield process
    process.close()


def vamba_ingest(*words: object) -> Result:
    return CliRunner().invoke(app, ["ingest", *map(str, words)])


def ids(out: Path, version: int | None = None) -> list[str]:
    return [row.id for row in read_manifest(out, version).samples]


def test_append_and_retry_publish_further_versions(media: Path, one_process: OneProcess) -> None:
    out = media / "out"
    first = vamba_ingest(media / "videos", "--out", out)
    assert first.exit_code == 0, first.output
    assert "1 of 2" in first.output and "1 truncated" in first.output
    again = vamba_ingest(media / "videos", "--out", out)
    assert again.exit_code == 0 and "Already complete" in again.output and "nothing to do" in again.output

    appended = vamba_ingest(media / "more", "--out", out, "--append", "--json")
    assert appended.exit_code == 0
    summary = json.loads(appended.stdout)
    assert (summary["version"], summary["num_videos"], summary["failures"]) == (2, 2, {"truncated": 1})

    shutil.copy(media / "more/b.mp4", media / "videos/cut.mp4")
    one_process.forget()
    retried = vamba_ingest(media / "videos", media / "more", "--out", out, "--retry-failures")
    assert retried.exit_code == 0 and "3 of 3" in retried.output and "failed   none" in retried.output
    assert [ids(out, version) for version in (1, 2, 3)] == [["a"], ["a", "b"], ["a", "b", "cut"]]
    assert [[row.id for row in read_failures(out, version)] for version in (1, 2, 3)] == [["cut"], ["cut"], []]


def test_both_options_at_once(media: Path, one_process: OneProcess) -> None:
    out = media / "out"
    vamba_ingest(media / "videos", "--out", out)
    shutil.copy(media / "more/b.mp4", media / "videos/cut.mp4")
    one_process.forget()
    result = vamba_ingest(media / "videos", media / "more", "--out", out, "--append", "--retry-failures")
    assert result.exit_code == 0 and sorted(ids(out)) == ["a", "b", "cut"] and read_manifest(out).version == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["VIDEOS", "--out", "OUT", "--append"], "no finished dataset is that --append could extend"),
        (["VIDEOS", "--out", "OUT", "--retry-failures"], "no finished dataset is that --retry-failures could extend"),
        (["missing.mp4", "--out", "OUT"], "does not exist"),
        (["VIDEOS", "--out", "OUT", "--set", "no.such=1"], "no"),
        (["VIDEOS", "--out", "OUT", "--set", "max_failure_fraction=2"], "max_failure_fraction is 2"),
        (["VIDEOS", "--out", "gopher://x"], "'gopher'"),
        (["VIDEOS"], "--out"),
    ],
)
def test_wrong_usage_ends_with_2_and_writes_nothing(media: Path, words: list[str], message: str) -> None:
    names = {"VIDEOS": str(media / "videos"), "OUT": str(media / "out")}
    result = vamba_ingest(*(names.get(word, word) for word in words))
    assert result.exit_code == 2 and message in result.output
    assert not (media / "out").exists() and "Traceback" not in result.output


def test_other_settings_and_inputs_are_refused_with_2(media: Path) -> None:
    out = media / "out"
    vamba_ingest(media / "videos", "--out", out)
    for words in (["--set", "sampling.fps=2"], [str(media / "more")]):
        result = vamba_ingest(media / "videos", "--out", out, *words)
        assert result.exit_code == 2 and "choose another --out" in result.output


def test_a_passed_failure_budget_ends_with_3_and_a_dataset(media: Path) -> None:
    out = media / "out"
    for _ in range(2):  # and so does the command that finds it finished
        result = vamba_ingest(media / "videos", "--out", out, "--set", "max_failure_fraction=0.4")
        assert result.exit_code == 3 and "more than 40% of the videos failed" in result.output
    assert ids(out) == ["a"]


def test_a_second_ingest_ends_with_2_and_the_name_of_the_first(media: Path) -> None:
    with destination_lock(open_storage(media / "out")):
        result = vamba_ingest(media / "videos", "--out", media / "out")
    assert result.exit_code == 2 and "another ingest is writing to" in result.output and "process" in result.output


@pytest.mark.parametrize(
    ("signal", "code", "words"),
    [(KeyboardInterrupt(), 130, "interrupted"), (SystemExit(15), 75, "ended by SIGTERM")],  # Ray makes this of SIGTERM
)
def test_interrupted_the_same_command_continues(
    signal: BaseException, code: int, words: str, media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = media / "out"

    def interrupted(*_: Any, **__: Any) -> None:
        raise signal

    with monkeypatch.context() as patch:
        patch.setattr(job, "_decode", interrupted)
        result = vamba_ingest(media / "videos", "--out", out)
    assert result.exit_code == code
    assert words in result.output and "the same command continues" in result.output
    assert [path.name for path in out.iterdir()] == ["_ingest"]  # the lock is free again
    assert vamba_ingest(media / "videos", "--out", out).exit_code == 0
    assert ids(out) == ["a"]
