"""Questions with cells: from the suite's rows to numbers by cell and a picture of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from pipelines.evaluation.config import EvaluationConfig
from pipelines.evaluation.heat_map import HEAT_MAP_NAME, cells_of, draw, write_heat_map
from pipelines.evaluation.job import run_evaluation
from pipelines.evaluation.result import EvaluationResult, read_result
from pipelines.evaluation.results import Tally
from pipelines.evaluation.synthetic.grid import KINDS, GridConfig
from pipelines.evaluation.synthetic.suite import annotation_rows
from tests.pipelines.evaluation.needle_data import make_sample, write_dataset, write_model
from vamba.data.sample import Conversation

CONFIG = GridConfig(lengths_s=(60, 600, 5400), videos_per_length=2)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> EvaluationResult:
    """What an untrained model answers; the frames are not the suite's, since it can't see anything anyway."""
    root = tmp_path_factory.mktemp("grid")
    samples = []
    for plan in CONFIG.plan():
        shown = make_sample(f"v-{plan.name}", num_frames=4, num_questions=0)
        asked = tuple(Conversation.from_json(row) for row in annotation_rows(plan))
        samples.append(replace(shown, conversations=asked, duration_ns=plan.duration_s * 10**9))
    write_dataset(root / "data", samples)
    model = write_model(root / "toy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAMBA_HOME", str(root / "home"))
        return run_evaluation(EvaluationConfig(model=str(model), data=str(root / "data"), log_to_mlflow=False))


def test_every_kind_is_a_category_and_every_cell_a_group(result: EvaluationResult) -> None:
    assert set(result.by_category) == set(KINDS)
    assert result.overall is not None and result.overall.num_questions == 6 * 8
    cells = cells_of(result)
    assert set(cells) == {(length, pct) for length in CONFIG.lengths_s for pct in (0, 25, 50, 75, 100)}
    assert all(tally.num_questions == 2 for tally in cells.values())
    right = sum(tally.num_correct for tally in cells.values())
    assert right == result.by_category["needle"].num_correct
    assert f"{result.metric_prefix}/cell/5400s-25pct" in result.metrics()
    assert read_result(Path(result.directory)) == result


def test_the_picture_is_there(result: EvaluationResult) -> None:
    with Image.open(Path(result.directory) / HEAT_MAP_NAME) as picture:
        assert picture.format == "PNG" and picture.width > 300


def test_a_cell_has_its_colour_its_share_and_its_number() -> None:
    cells = {(60, 0): _tally(4, 4), (60, 100): _tally(1, 4), (5400, 0): _tally(2, 3)}
    figure = draw(cells, chance=0.25, title="a run: eval/vamba/vniah")
    axes, bar = figure.axes
    values = axes.images[0].get_array().tolist()
    assert values == [[1.0, pytest.approx(2 / 3)], [0.25, None]]
    assert {text.get_text() for text in axes.texts} == {"100%\nN 4", "25%\nN 4", "67%\nN 3"}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1 min", "1.5 h"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0 %", "100 %"]
    assert "25%\nchance" in [label.get_text() for label in bar.get_yticklabels()]


def _tally(num_correct: int, num_questions: int) -> Tally:
    share = num_correct / num_questions
    return Tally(
        num_questions=num_questions, num_correct=num_correct, num_unparsed=0, num_videos=1, accuracy=share, stderr=None
    )


def test_without_cells_there_is_none(result: EvaluationResult, tmp_path: Path) -> None:
    plain = replace(result, by_group={}, directory=str(tmp_path))
    assert write_heat_map(plain) is None
    assert not [*tmp_path.iterdir()]
