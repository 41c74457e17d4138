"""`vamba evaluate compare` as a user meets it: the table, JSON, and the page with the frames."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner, Result

from jobs.cli.main import app
from pipelines.evaluation.config import EvaluationConfig
from pipelines.evaluation.job import run_evaluation
from pipelines.evaluation.result import ANSWERS_NAME
from tests.pipelines.evaluation.benchmarks import folders
from tests.pipelines.evaluation.needle_data import make_sample, write_dataset, write_model
from tests.pipelines.ingest.media import make_video

SMALL = {"shortest_edge": 28, "longest_edge": 56, "num_frames": 6, "max_new_tokens": 2, "log_to_mlflow": False}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "toy")


def vamba(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def answer_as(directory: str, right: set[int]) -> None:
    """Rewrite the answers, so that the model has these right, by number, and no other."""
    file = Path(directory) / ANSWERS_NAME
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for number, row in enumerate(rows):
        letter = row["answer"] if number in right else "E"
        row.update(prediction=letter, raw=f"<b>{letter}</b>", correct=number in right)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_of_a_dataset(model: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", [make_sample(f"clip-{i}", num_frames=12, num_questions=2) for i in range(3)])
    for name, right in (("one", {0, 1}), ("two", {1, 2, 3, 4, 5})):
        config = EvaluationConfig(model=str(model), data=str(tmp_path / "data"), name=name, log_to_mlflow=False)
        answer_as(run_evaluation(config).directory, right)
    page = tmp_path / "compared.html"
    shown = vamba("evaluate", "compare", "one", "two", "--html", page, "--examples", "2")
    assert shown.exit_code == 0, shown.output
    for text in (
        "category/colour",
        "+50.0%",
        "Question 0?",
        "Wins (the first 2 of 4)",
        "4 won, 1 lost",
        "95% interval",
    ):
        assert text in shown.output
    html = page.read_text()
    assert not re.search(r"(src|href)=\"(?!data:)", html) and "<script" not in html and "@import" not in html
    assert html.count("data:image/jpeg") == 3 * 8, "two wins and a loss, eight frames each"
    (chart,) = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    places = [float(dot.attrib["cx"]) for dot in ElementTree.fromstring(chart).iter("circle")]
    assert places[0] == pytest.approx(places[1]) and len(places) == 4, "micro, macro and two categories"
    assert min(places) > 290 + (1000 - 190 - 290) / 2, "B is better everywhere: right of the middle"
    assert "&lt;b&gt;" in html and "<b>E</b>" not in html
    assert "8 of the 12 frames that were shown" in html and "0:00:11" in html
    answered = json.loads(vamba("evaluate", "compare", "one", "two", "--json").output)
    assert answered["micro"]["difference"] == pytest.approx(0.5)
    assert len(answered["wins"]) == 4 and answered["wins"][0]["asked"]["text"].startswith("<video>")
    assert answered["losses"][0]["raw_b"] == "<b>E</b>"


def test_of_a_benchmark_whose_video_went_away(model: Path, tmp_path: Path) -> None:
    def video(path: Path) -> Path:
        return make_video(path, seconds=1.2, fps=10, size="64x48")

    folder = folders.lvbench(tmp_path / "data", video)
    for name, right in (("one", {0}), ("two", {1, 2})):
        config = EvaluationConfig(model=str(model), data=str(folder), benchmark="lvbench", name=name, **SMALL)  # type: ignore[arg-type]
        answer_as(run_evaluation(config).directory, right)
    page = tmp_path / "compared.html"
    assert vamba("evaluate", "compare", "one", "two", "--html", page).exit_code == 0
    html = page.read_text()
    assert html.count("data:image/jpeg") == 3 * 6 and "6 of the 6 frames that were shown" in html
    assert "category/summarization" in html and "abc · 00:01 · " in html and "Select the best answer" in html
    (folder / "videos" / "-def.mp4").unlink()
    (folder / "videos" / "abc.mp4").write_bytes(b"no video any more")
    assert vamba("evaluate", "compare", "one", "two", "--html", page).exit_code == 0
    html = page.read_text()
    assert "is not there any more" in html and "can&#x27;t be read as a video" in html
    assert "data:image/jpeg" not in html


def test_what_cannot_be_compared_is_said_in_a_paragraph(model: Path, tmp_path: Path) -> None:
    folder = folders.lvbench(tmp_path / "data", lambda path: make_video(path, seconds=0.6, fps=10, size="64x48"))
    for protocol in ("vamba", "lmms-eval-0.7.3"):
        settings = {**SMALL, "name": protocol, "protocol": protocol, "num_questions": 1}
        run_evaluation(EvaluationConfig(model=str(model), data=str(folder), benchmark="lvbench", **settings))  # type: ignore[arg-type]
    refused = vamba("evaluate", "compare", "vamba", "lmms-eval-0.7.3")
    assert refused.exit_code == 2 and "protocol vamba and lmms-eval-0.7.3" in refused.output
    nobody = vamba("evaluate", "compare", "vamba", "nobody")
    assert nobody.exit_code == 2 and "no evaluation 'nobody'" in nobody.output
    alone = vamba("evaluate", "compare", "vamba", "vamba", "--examples", "0")
    assert alone.exit_code == 0 and "no interval" in alone.output


def test_a_model_that_is_called_compare_is_still_evaluated() -> None:
    assert "no model 'compare'" in vamba("evaluate", "--model", "compare", "--data", "x").output
    helped = vamba("evaluate", "compare", "--help").output
    assert "evaluate compare [OPTIONS]" in helped and "--html" in helped and "Example:" in helped
    assert "vamba evaluate compare A B" in vamba("evaluate", "--help").output
