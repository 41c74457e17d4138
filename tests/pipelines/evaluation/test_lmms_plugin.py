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
from pipelines.evaluation.lmms_plugin.placement import own_device
from pipelines.evaluation.lmms_plugin.requests import Asked, frame_rule, read_request, showings_of
from pipelines.evaluation.plan import plan_evaluation
from tests.architecture.sources import ROOT
from tests.pipelines.evaluation.lmms_data import QUESTIONS, TASKS, annotate, write_tasks
from tests.pipelines.evaluation.lmms_run import answer_by_script
from tests.pipelines.evaluation.needle_data import write_model

SMALL = {"shortest_edge": 28, "longest_edge": 56, "num_frames": 4, "log_to_mlflow": False}
# The key of the letter that was read, where a task's samples have it.
READ_AS = {"videomme": "pred_answer", "mlvu": "pred_answer", "longvideobench": "parsed_pred"}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the library found, and what our protocol did, of the same questions."""
    root = tmp_path_factory.mktemp("lmms")
    model = write_model(root / "toy")
    write_tasks(root / "tasks", annotate(root, root / "home"))
    offline = {"HF_HOME": str(root / "home"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    names = [task.name for task in TASKS.values()]
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
    theirs = {sample["prompt"]: sample["raw"] for sample in both["samples"][TASKS[benchmark].name]}
    raw = {answer["question"]: answer["raw"] for answer in both[benchmark]["answers"]}
    ours = {question.text: raw[question.key] for question in both[benchmark]["plan"].questions}
    assert len(ours) == QUESTIONS
    assert theirs == ours
    assert len(set(ours.values())) > 3, "the replies differ"


@pytest.mark.parametrize("benchmark", TASKS)
def test_letters_and_scores_are_those_of_our_protocol(both: dict[str, Any], benchmark: str) -> None:
    task = TASKS[benchmark]
    prompts = {question.key: question.text for question in both[benchmark]["plan"].questions}
    ours = {prompts[answer["question"]]: answer for answer in both[benchmark]["answers"]}
    num_right = 0
    for sample in both["samples"][task.name]:
        answer, score = ours[sample["prompt"]], sample["scored"][task.metric]
        if letter := READ_AS.get(benchmark):
            assert score[letter] == answer["prediction"]
            is_right = score[letter] == score["answer"]
        else:
            is_right = bool(score["score"] if benchmark == "mvbench" else score)
        assert is_right == answer["correct"]
        num_right += is_right
    assert 0 < num_right < QUESTIONS
    whole = both["results"][task.name][f"{task.metric},none"]
    # The library rounds LongVideoBench's to five digits.
    assert whole == pytest.approx(both[benchmark]["result"].overall.accuracy * task.scale, abs=1e-5)


def request(number: int, text: str, visuals: list[Any], settings: dict[str, Any] | None = None) -> Asked:
    documents = {"mlvu_dev": {"test": [visuals]}}
    return read_request(number, (text, settings or {}, lambda doc: doc, 0, "mlvu_dev", "test"), documents)


def test_a_video_is_shown_once_for_all_requests_about_it() -> None:
    asked = [request(0, "a", ["x.mp4"]), request(1, "b", ["y.mp4"]), request(2, "<video>c", ["x.mp4"])]
    shown = [(showing.source.id, [one.number for one in members]) for showing, members in showings_of(asked, {})]
    assert shown == [("x.mp4", [0, 2]), ("y.mp4", [1])]
    assert asked[2].text == "c"


@pytest.mark.parametrize(
    ("wanted", "place", "device"),
    [("cpu", "1", "cpu"), ("cuda", "1", "cuda:1"), ("cuda", None, "cuda"), ("cuda:0", "1", "cuda:0")],
)
def test_each_of_several_processes_has_a_device_of_its_own(
    wanted: str, place: str | None, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if place is not None:
        monkeypatch.setenv("LOCAL_RANK", place)
    assert own_device(wanted) == device


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
