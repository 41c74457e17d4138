"""Every command of docs/submit.md: rendered here, or marked as needing what is not here."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.cli.main import app
from tests.architecture.sources import ROOT

PAGE = (ROOT / "docs" / "submit.md").read_text(encoding="utf-8")
LINES = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL) for line in block.splitlines()]
_NEEDS = re.compile(r"  # needs (?:a cluster|Kubernetes|a cloud account|the run's storage)$")


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("vamba submit ")])
def test_what_is_submitted_can_be_sent(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short of sending it: the plan is made in full, and a manifest is rendered."""
    (tmp_path / "mine.yaml").write_text("model: {preset: tiny}\nworkers: {num_workers: 8, cpus: 8, device: cuda}\n")
    monkeypatch.chdir(tmp_path)
    words = shlex.split(_NEEDS.sub("", line))[1:]
    added = [] if "--dry-run" in words else ["--dry-run"]
    done = CliRunner().invoke(app, [words[0], *added, "--working-dir", str(ROOT), *words[1:]])
    assert done.exit_code == 0, done.output
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
