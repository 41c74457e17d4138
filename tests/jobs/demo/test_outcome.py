"""The demo's last table reads what the steps left; its corrupt file must really be refused by ingest."""

from __future__ import annotations

import json

import pytest

from jobs.demo.outcome import a_question_about, describe_run, write_corrupt_copy
from jobs.demo.run import Demo, DemoFailedError
from pipelines.evaluation.synthetic.plan import LengthGroup, SuiteConfig
from pipelines.evaluation.synthetic.suite import write_suite
from pipelines.ingest.probe import probe_video
from pipelines.ingest.types import IngestError
from pipelines.training.run_directory import RunDirectory


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    group = LengthGroup(split="train", num_videos=1, min_s=24, max_s=24, min_cards=2, max_cards=2)
    config = SuiteConfig(groups=(group,), width=64, height=36, fps=4, num_textures=4)
    return write_suite(config, tmp_path_factory.mktemp("suite"), num_processes=1)


def test_the_question_is_asked_without_its_placeholder(suite):
    question, letter = a_question_about(suite.annotations, "train/clip.mp4")
    assert question.startswith("What colour is the card with the ") and letter in "ABCD"
    with pytest.raises(ValueError, match="asks nothing about train/none.mp4"):
        a_question_about(suite.annotations, "train/none.mp4")


def test_the_corrupt_file_is_refused_by_the_probe_and_the_clip_it_came_from_is_not(suite, tmp_path):
    whole = suite.directory / "train" / "clip.mp4"
    probe_video(str(whole))
    corrupt = write_corrupt_copy(whole.parent)
    with pytest.raises(IngestError, match="it was cut"):
        probe_video(str(corrupt))


def test_a_run_is_described_with_the_steps_it_resumed_at_and_how_the_replay_compares(tmp_path):
    run = RunDirectory(tmp_path)
    run.metrics.mkdir()
    for attempt, (first, last) in enumerate(((0, 45), (40, 100)), start=1):
        run.append_event(
            "attempt_started", attempt=attempt, rank=0, pid=1, world_size=1, resumed_from_step=first, num_steps=100
        )
        lines = [json.dumps({"step": step, "loss": 1.0 / step, "time": 0.0}) for step in range(first + 1, last + 1)]
        run.metrics_path(attempt).write_text("\n".join(lines) + "\n")
    run.append_event("finished", attempt=2, step=100)
    assert describe_run(tmp_path) == "100 steps; resumed at 40; 5 trained again with equal losses"


def test_a_failing_command_ends_the_demo_with_its_name(tmp_path, capfd):
    with pytest.raises(DemoFailedError, match="`vamba ingest` ended with exit code 2"):
        Demo(tmp_path).run("ingest", str(tmp_path / "missing"), "--out", str(tmp_path / "out"))
    shown = capfd.readouterr()
    assert "$ vamba ingest" in shown.out and "does not exist" in shown.err
