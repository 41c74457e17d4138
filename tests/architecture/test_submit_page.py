"""Every command that submits a job, in any document, is rendered here; docs/submit.md marks those that need more."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.cli.main import app
from tests.architecture.sources import ROOT
from tests.architecture.test_documents import DOCUMENTS


def _lines(document: Path) -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


LINES = _lines(ROOT / "docs" / "submit.md")
OTHERS = [document for document in DOCUMENTS if document.name != "submit.md"]
SUBMITTED = [line for document in OTHERS for line in _lines(document) if line.startswith("vamba submit ")]
_NEEDS = re.compile(r"  # needs (?:a cluster|Kubernetes|a cloud account|the run's storage)$")


@pytest.mark.parametrize("line", [*SUBMITTED, *(line for line in LINES if line.startswith("vamba submit "))])
def test_what_is_submitted_can_be_sent(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short of sending it: the plan is made in full, and a manifest is rendered."""
    (tmp_path / "mine.yaml").write_text("model: {preset: tiny}\nworkers: {num_workers: 8, cpus: 8, device: cuda}\n")
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line, comments=True)[1:]
    added = [] if "--dry-run" in words else ["--dry-run"]
    done = CliRunner().invoke(app, [words[0], *added, "--working-dir", str(ROOT), *words[1:]])
    assert done.exit_code == 0, done.output
    if line not in SUBMITTED:
        assert _NEEDS.search(line) or "--dry-run" in words or "--write" in words, "it sends something: mark it"


def test_every_other_command_is_marked_or_is_pythons() -> None:
    for line in LINES:
        if not line.startswith(("vamba submit ", "export RAY_AUTH_TOKEN=$(python3 ")):
            assert _NEEDS.search(line), line


@pytest.mark.parametrize("line", [line for line in LINES if re.match(r"vamba (?:jobs|runs) ", line)])
def test_commands_about_submitted_jobs_exist(line: str) -> None:
    _, group, verb, *words = shlex.split(_NEEDS.sub("", line))
    shown = CliRunner().invoke(app, [group, verb, "--help"]).output
    assert all(word in shown for word in words if word.startswith("--")) and "Usage" in shown
