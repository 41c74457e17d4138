"""A small grid from its plan to its heat map: drawn, encoded, ingested, and asked about by one who sees the frames."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.evaluation import job
from pipelines.evaluation.config import EvaluationConfig
from pipelines.evaluation.heat_map import HEAT_MAP_NAME, cells_of
from pipelines.evaluation.job import run_evaluation
from pipelines.evaluation.result import EvaluationResult
from pipelines.evaluation.synthetic.grid import KINDS, GridConfig
from pipelines.evaluation.synthetic.suite import write_suite
from pipelines.ingest.sources import find_sources
from tests.pipelines.evaluation.synthetic.oracle import Oracle
from tests.pipelines.ingest.in_process import ingested

CONFIG = GridConfig(lengths_s=(50, 120), videos_per_length=2, width=128, height=72, fps=4, num_textures=16)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("grid")
    suite = write_suite(CONFIG, root / "videos", num_processes=1)
    with find_sources([str(suite.directory)], str(suite.annotations)) as found:
        ingested(list(found.videos()), root / "data")
    return root / "data"


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An oracle is asked, so there is nothing in it."""
    monkeypatch.setenv("VAMBA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(job, "Answerer", Oracle)
    directory = tmp_path / "oracle"
    directory.mkdir()
    for name in ("config.json", "model.safetensors"):
        (directory / name).write_bytes(b"{}")
    return directory


def evaluated(model: Path, data: Path, **changes: object) -> EvaluationResult:
    return run_evaluation(EvaluationConfig(model=str(model), data=str(data), log_to_mlflow=False, **changes))  # type: ignore[arg-type]


def test_who_sees_the_frames_answers_everything(model: Path, data: Path) -> None:
    result = evaluated(model, data)
    assert result.chance == 0.25 and result.coverage == 1
    assert {kind: tally.accuracy for kind, tally in result.by_category.items()} == dict.fromkeys(KINDS, 1.0)
    assert {kind: tally.num_questions for kind, tally in result.by_category.items()} == {
        "needle": 20, "order": 4, "count": 4, "last_seen": 4,
    }  # fmt: skip
    cells = cells_of(result)
    assert cells.keys() == {(length, pct) for length in (50, 120) for pct in (0, 25, 50, 75, 100)}
    assert all((tally.accuracy, tally.num_questions) == (1.0, 2) for tally in cells.values())


def test_who_comes_late_misses_what_was_early(model: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Oracle, "blind_s", 40)
    result = evaluated(model, data)
    accuracy = {cell: tally.accuracy for cell, tally in cells_of(result).items()}
    assert {cell for cell, share in accuracy.items() if share == 0} == {(50, 0), (50, 25), (50, 50), (50, 75)} | {
        (120, 0), (120, 25),
    }  # fmt: skip
    assert {share for cell, share in accuracy.items() if cell in ((50, 100), (120, 50), (120, 75), (120, 100))} == {1.0}
    assert result.by_category["last_seen"].accuracy == 1


def test_the_text_alone_is_no_better_than_chance(model: Path, data: Path) -> None:
    result = evaluated(model, data, shuffle_videos=True)
    assert result.overall is not None and result.overall.accuracy < 0.45


def test_a_finished_evaluation_gets_its_picture_again(model: Path, data: Path) -> None:
    result = evaluated(model, data)
    picture = Path(result.directory) / HEAT_MAP_NAME
    picture.unlink()
    assert evaluated(model, data) == result
    assert picture.is_file()
