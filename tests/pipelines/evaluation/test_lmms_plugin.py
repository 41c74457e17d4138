"""Our models inside lmms-eval: found by its entry point, and the same prompts, letters and scores as our protocol's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from pipelines.evaluation.answering import Answerer
from pipelines.evaluation.config import EvaluationConfig
from pipelines.evaluation.job import run_evaluation
from pipelines.evaluation.lmms_plugin.requests import Asked, frame_rule, read_request, showings_of
from pipelines.evaluation.plan import plan_evaluation
from tests.architecture.sources import ROOT
from tests.pipelines.evaluation.benchmarks.folders import write_json
from tests.pipelines.evaluation.lmms_run import answer_by_script
from tests.pipelines.evaluation.needle_data import write_model
from tests.pipelines.ingest.media import make_video

SMALL = {"shortest_edge": 28, "longest_edge": 56, "num_frames": 4, "log_to_mlflow": False}
QUESTIONS = 12
LETTERS = "ABCD"
# By benchmark: the library's folder of tasks, the YAML of one, and its key of a score in the library's results.
TASKS = {
    "lvbench": ("lvbench", "lvbench.yaml", "lvbench", "lvbench_score"),
    "mlvu": ("mlvu", "mlvu_dev.yaml", "mlvu_dev", "mlvu_percetion_score"),
    "mvbench": ("mvbench", "mvbench_moving_count.yaml", "mvbench_moving_count", "mvbench_accuracy"),
}


def annotate(root: Path, home: Path) -> dict[str, list[dict[str, Any]]]:
    """Folders of the three benchmarks as published, and as the library's datasets have them; the rows by task."""
    films = [make_video(root / f"film-{n}.mp4", seconds=0.4 + 0.2 * n, fps=10, size="64x48") for n in range(2)]

    def show(folder: Path, name: str, film: int) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if not (folder / name).exists():
            (folder / name).symlink_to(films[film])

    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in TASKS}
    lvbench: list[dict[str, Any]] = [{"key": f"film-{n}", "qa": []} for n in range(2)]
    mlvu, mvbench = [], []
    for number in range(QUESTIONS):
        film, letter = number % 2, LETTERS[number * 7 % 4]
        name, options = f"film-{film}.mp4", [f"{word} {number}" for word in ("red", "blue", "green", "grey")]
        listed = "\n".join(f"({a}) {option}" for a, option in zip(LETTERS, options, strict=True))
        right = options[LETTERS.index(letter)]
        text = f"What is number {number}?"
        asked = {"uid": str(number), "question": f"{text}\n{listed}", "answer": letter, "question_type": ["reasoning"]}
        lvbench[film]["qa"].append(asked)
        rows["lvbench"].append({"question": asked["question"], "answer": letter, "video_path": f"videos/{name}"})
        mlvu.append({"video": name, "question": text, "candidates": options, "answer": right, "question_type": "count"})
        rows["mlvu"].append(
            {
                "question": asked["question"],
                "answer": letter,
                "task_type": "count",
                "video_name": f"video/4_count/{name}",
            }
        )
        mvbench.append({"video": name, "question": text, "candidates": options, "answer": right})
        rows["mvbench"].append({"video": name, "question": text, "candidates": options, "answer": right})
        show(root / "lvbench" / "videos", name, film)
        show(root / "mlvu" / "video" / "4_count", name, film)
        show(root / "mvbench" / "video" / "clevrer" / "video_validation", name, film)
    (root / "lvbench" / "video_info.meta.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lvbench))
    write_json(root / "mlvu" / "json" / "4_count.json", mlvu)
    write_json(root / "mvbench" / "json" / "moving_count.json", mvbench)
    home.mkdir()
    for name, place in (("lvbench", "lvbench"), ("mlvu", "mlvu"), ("mvbench/video", "mvbench_video")):
        (home / place).symlink_to(root / name)
    return rows


def write_tasks(folder: Path, rows: dict[str, list[dict[str, Any]]]) -> None:
    """The library's own tasks, with local rows in the place of a dataset on the hub."""
    import importlib.util

    library = Path(str(importlib.util.find_spec("lmms_eval").submodule_search_locations[0])) / "tasks"  # type: ignore[union-attr, index]
    for benchmark, (package, file, _, _) in TASKS.items():
        place = folder / benchmark
        place.mkdir(parents=True)
        data = write_json(place / "rows.json", [{"id": n, **row} for n, row in enumerate(rows[benchmark])])
        (place / "utils.py").write_text(f"from lmms_eval.tasks.{package}.utils import *  # noqa: F403\n")
        template = library / package / "_default_template_yaml"
        task = (library / package / file).read_text()
        if template.exists():
            task = template.read_text() + "\n" + task.replace("include: _default_template_yaml\n", "")
        kept, skipping = [], False
        for line in task.splitlines():
            skipping = line.startswith("dataset_kwargs:") or (skipping and line.startswith(" "))
            if not skipping and not line.startswith(("dataset_", "test_split:")):
                kept.append(line)
        kept += ["dataset_path: json", "test_split: test", f"dataset_kwargs: {{data_files: {{test: {data}}}}}"]
        (place / file).write_text("\n".join(kept) + "\n")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the library found, and what our protocol did, of the same questions."""
    root = tmp_path_factory.mktemp("lmms")
    model = write_model(root / "toy")
    write_tasks(root / "tasks", annotate(root, root / "home"))
    offline = {"HF_HOME": str(root / "home"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    names = [task for _, _, task, _ in TASKS.values()]
    command = [sys.executable, "-m", "tests.pipelines.evaluation.lmms_run", str(model), str(root / "tasks")]
    environment = {**os.environ, **offline, "VAMBA_HOME": str(root / "theirs"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, str(root / "found.json"), *names], cwd=root, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    found = json.loads((root / "found.json").read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAMBA_HOME", str(root / "ours"))
        patch.setattr(Answerer, "ask", answer_by_script)
        for benchmark in TASKS:
            config = EvaluationConfig(
                model=str(model), data=str(root / benchmark), benchmark=benchmark, protocol="lmms-eval-0.7.3", **SMALL
            )  # type: ignore[arg-type]
            plan, result = plan_evaluation(config), run_evaluation(config)
            lines = (Path(result.directory) / "answers.jsonl").read_text().splitlines()
            found[benchmark] = {"result": result, "plan": plan, "answers": [json.loads(line) for line in lines]}
    return found


def test_the_library_finds_the_model_by_its_entry_point() -> None:
    (point,) = entry_points(group="lmms_eval.models", name="vamba")
    assert point.load().__module__ == "pipelines.evaluation.lmms_plugin.manifest"


@pytest.mark.parametrize("benchmark", TASKS)
def test_prompts_and_answers_are_those_of_our_protocol(both: dict[str, Any], benchmark: str) -> None:
    theirs = {sample["prompt"]: sample["raw"] for sample in both["samples"][TASKS[benchmark][2]]}
    raw = {answer["question"]: answer["raw"] for answer in both[benchmark]["answers"]}
    ours = {question.text: raw[question.key] for question in both[benchmark]["plan"].questions}
    assert len(ours) == QUESTIONS
    assert theirs == ours
    assert len(set(ours.values())) > 3, "the replies differ"


@pytest.mark.parametrize("benchmark", TASKS)
def test_letters_and_scores_are_those_of_our_protocol(both: dict[str, Any], benchmark: str) -> None:
    _, _, task, metric = TASKS[benchmark]
    prompts = {question.key: question.text for question in both[benchmark]["plan"].questions}
    ours = {prompts[answer["question"]]: answer for answer in both[benchmark]["answers"]}
    num_right = 0
    for sample in both["samples"][task]:
        answer, score = ours[sample["prompt"]], sample["scored"][metric]
        if benchmark == "lvbench":
            is_right = bool(score)
        elif benchmark == "mlvu":
            is_right = score["pred_answer"] == score["answer"]
            assert score["pred_answer"] == answer["prediction"]
        else:
            is_right = bool(score["score"])
        assert is_right == answer["correct"]
        num_right += is_right
    assert 0 < num_right < QUESTIONS
    whole = both["results"][task][f"{metric},none"]
    result = both[benchmark]["result"]
    # The library gives MLVU and MVBench in percent.
    expected = result.overall.accuracy * (1 if benchmark == "lvbench" else 100)
    assert whole == pytest.approx(expected)


def request(number: int, text: str, visuals: list[Any], settings: dict[str, Any] | None = None) -> Asked:
    documents = {"mlvu_dev": {"test": [visuals]}}
    return read_request(number, (text, settings or {}, lambda doc: doc, 0, "mlvu_dev", "test"), documents)


def test_a_video_is_shown_once_for_all_requests_about_it() -> None:
    asked = [request(0, "a", ["x.mp4"]), request(1, "b", ["y.mp4"]), request(2, "<video>c", ["x.mp4"])]
    shown = [(showing.source.id, [one.number for one in members]) for showing, members in showings_of(asked, {})]
    assert shown == [("x.mp4", [0, 2]), ("y.mp4", [1])]
    assert asked[2].text == "c"


def test_frames_are_those_of_the_task_s_benchmark() -> None:
    assert frame_rule("lvbench", {}).num_frames == 1024
    assert (frame_rule("mlvu_dev", {}).num_frames, frame_rule("mlvu_dev", {}).longest_edge) == (512, 480)
    assert frame_rule("something_else", {"num_frames": 7}).num_frames == 7


@pytest.mark.parametrize(
    ("visuals", "settings", "words"),
    [
        ([], {}, "0 visuals"),
        (["a.mp4", "b.mp4"], {}, "2 visuals"),
        ([b"picture"], {}, "1 visuals .bytes."),
        (["a.mp4"], {"temperature": 0.7}, "answers greedily"),
        (["a.mp4"], {"num_beams": 3}, "answers greedily"),
    ],
)
def test_what_it_cannot_be_asked_is_refused(visuals: list[Any], settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        request(0, "a", visuals, settings)
