"""Two processes at once, with real servers: one of two promotions wins, two registrations make one version."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pipelines.registry import history
from pipelines.registry.audit import open_audit_log
from pipelines.registry.audit_check import find_problems
from pipelines.registry.register import register_model
from tests.pipelines.registry.at_once import PROMOTE, REGISTER
from tests.services.bed import Bed
from tests.services.commands import aliases, tags, versions

pytestmark = [pytest.mark.services, pytest.mark.slow]


@pytest.fixture
def barrier(tmp_path: Path) -> Path:
    folder = tmp_path / "barrier"
    folder.mkdir()
    return folder


def both(program: str, words: Sequence[Sequence[object]]) -> list[tuple[int, str]]:
    """Exit code and output of two processes that wait for each other."""
    started = [
        subprocess.Popen([sys.executable, "-c", program, *map(str, each)], stdout=subprocess.PIPE, text=True)
        for each in words
    ]
    said = [process.communicate(timeout=180)[0].strip() for process in started]
    return [(process.returncode, text) for process, text in zip(started, said, strict=True)]


def test_of_two_promotions_one_wins_and_the_other_is_told(
    bed: Bed, name: str, make_run: Callable[..., Path], barrier: Path
) -> None:
    for number in (0, 1):
        make_run(f"run{number}", number)
        register_model(f"run{number}", name)
    outcomes = both(PROMOTE, [(f"{name}/1", 1, barrier), (f"{name}/2", 2, barrier)])
    assert sorted(code for code, _ in outcomes) == [0, 1], outcomes
    (winner,) = [number for number, (code, _) in enumerate(outcomes, start=1) if code == 0]
    told = outcomes[2 - winner][1]
    assert told.startswith(("AliasMoved", "AliasBusy")) and f"version {winner}" in told.replace("to ", "version ", 1)
    assert aliases(bed, name) == {"champion": winner} and find_problems(name) == []
    moved = history.moves(open_audit_log().entries(), name, "champion")
    assert [entry.body["version"] for entry in moved] == [str(winner)]
    assert "promotion.champion.decision" not in tags(bed, name, 3 - winner)


def test_two_registrations_of_a_run_make_one_version(
    bed: Bed, bucket: str, name: str, make_run: Callable[..., Path], barrier: Path
) -> None:
    run = make_run("stage2")
    outcomes = both(REGISTER, [("stage2", name, 1, barrier), ("stage2", name, 2, barrier)])
    assert [code for code, _ in outcomes] == [0, 0], outcomes
    assert sorted(text for _, text in outcomes) == [f"models:/{name}/1 False", f"models:/{name}/1 True"]
    ((version, source),) = versions(bed, name).items()
    assert version == 1 and tags(bed, name, 1)["run"] == "stage2"
    stored = {key.rpartition("/")[2] for key in bed.s3.keys(bucket, source.removeprefix(f"s3://{bucket}/"))}
    assert stored == {path.name for path in (run / "model").iterdir()}
    lines = history.about(open_audit_log().entries(), name)
    assert [entry.body["action"] for entry in lines] == [history.REGISTER] and find_problems(name) == []
    marks = json.loads((run / "model.registered.json").read_text())
    assert list(marks["versions"]) == [f"{name}/1"]
