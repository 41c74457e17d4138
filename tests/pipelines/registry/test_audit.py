"""The audit log: several writers, and whatever is done to its file behind its back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.registry.audit import LOG_NAME, AuditLog, open_audit_log
from pipelines.storage import open_storage
from tests.s3_server import S3Server, s3, s3_server  # noqa: F401

WRITER = """
import sys
from pipelines.registry.audit import AuditLog
from pipelines.storage import open_storage
log = AuditLog(open_storage(sys.argv[1]))
for index in range(25):
    log.append(lambda entries: {"action": "test", "who": sys.argv[2], "seen": len(entries)})
"""


def filled(folder: Path, count: int = 5) -> AuditLog:
    log = AuditLog(open_storage(folder))
    for index in range(count):
        log.append(lambda entries, index=index: {"action": "test", "index": index})  # type: ignore[misc]
    return log


def test_lines_are_chained_and_found_again(tmp_path: Path) -> None:
    entries = filled(tmp_path).entries()
    assert [entry.body["index"] for entry in entries] == [0, 1, 2, 3, 4]
    assert [entry.body["prev"] for entry in entries] == ["", *(entry.digest for entry in entries[:-1])]
    assert filled(tmp_path, 0).find_damage() == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda lines: [*lines[:1], lines[1].replace(b'"index": 1', b'"index": 7'), *lines[2:]], "line 2 was changed"),
        (lambda lines: [*lines[:2], *lines[3:]], "line 2 was changed or removed: line 3"),
        (lambda lines: lines[1:], "lines before line 1"),
        (lambda lines: [lines[1], lines[0], *lines[2:]], "does not follow"),
        (lambda lines: [*lines[:2], b"", *lines[2:]], "line 3 is no JSON object"),
        (lambda lines: [*lines[:4], lines[4][:-9]], "line 5 is no JSON object"),
    ],
    ids=["changed", "removed", "first cut", "swapped", "blank", "torn"],
)
def test_a_changed_log_is_noticed(tmp_path: Path, change: Callable[[list[bytes]], list[bytes]], told: str) -> None:
    log, path = filled(tmp_path), tmp_path / LOG_NAME
    path.write_bytes(b"\n".join([*change(path.read_bytes().splitlines()), b""]))
    assert any(told in sentence for sentence in log.find_damage()), log.find_damage()
    log.append(lambda entries: {"action": "test"})
    assert any(told in sentence for sentence in log.find_damage()), "a later line must not hide it"


def test_two_processes_append_without_losing_a_line(tmp_path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), who]) for who in "ab"]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    log = AuditLog(open_storage(tmp_path))
    assert log.find_damage() == [] and len(log.entries()) == 50
    assert [entry.body["seen"] for entry in log.entries()] == list(range(50))


def test_what_decide_raises_ends_the_attempt(tmp_path: Path) -> None:
    log = filled(tmp_path, 1)

    def refuse(entries: object) -> dict[str, str]:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        log.append(refuse)
    assert len(log.entries()) == 1


def test_the_same_on_s3(s3: S3Server) -> None:  # noqa: F811
    log = AuditLog(open_storage(f"s3://{s3.make_bucket()}/audit"))
    overtaken: list[bool] = []

    def slowly(entries: object) -> dict[str, str]:
        if not overtaken:
            overtaken.append(True)
            log.append(lambda entries: {"action": "faster"})
        return {"action": "slower"}

    log.append(slowly)
    assert [entry.body["action"] for entry in log.entries()] == ["faster", "slower"]
    assert log.find_damage() == []
    digest = log.keep({"a": 1})
    assert log.kept(digest) == {"a": 1}


def test_a_changed_document_is_not_taken(tmp_path: Path) -> None:
    log = filled(tmp_path, 1)
    digest = log.keep({"verdict": "refused"})
    path = tmp_path / "evidence" / f"{digest.removeprefix('sha256:')}.json"
    path.write_text(path.read_text().replace("refused", "promoted"))
    with pytest.raises(ValueError, match="was changed"):
        log.kept(digest)


def test_the_log_lies_beside_the_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_audit_log().uri == f"{tmp_path}/vamba-home/audit/{LOG_NAME}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/team/mlflow.db")
    assert open_audit_log().uri == f"{tmp_path}/team/audit/{LOG_NAME}"
    monkeypatch.setenv("VAMBA_AUDIT", str(tmp_path / "elsewhere"))
    assert open_audit_log().uri == f"{tmp_path}/elsewhere/{LOG_NAME}"
