"""The main job through the command, in the small: videos, shards, training through two kills, promotion, a question."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from jobs.demo.chaos import train_through_kills
from jobs.demo.outcome import a_question_about, write_corrupt_copy
from pipelines.evaluation.result import read_result
from pipelines.manifest_io import read_failures, read_manifest
from pipelines.training.run_directory import RunDirectory

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SUITE = """
width: 128
height: 72
fps: 4
num_shapes: 4
num_textures: 8
shuffle_options: false
groups:
  - {name: clip, split: train, num_videos: 24, min_s: 24, max_s: 32, min_cards: 2, max_cards: 4, max_blanks: 0}
  - {name: held-out, split: test, num_videos: 3, min_s: 24, max_s: 90, min_cards: 4, max_cards: 4, max_blanks: 0}
"""
NUM_STEPS = 80
TRAIN = ("--set", f"train.num_steps={NUM_STEPS}", "--set", "train.checkpoint_every_steps=10")
LENIENT = ("gate.thresholds=[{metric: overall, at_least: 0.0}]", "gate.max_unparsed=1.0", "gate.control_margin=0.75")


class Shell:
    """Runs `vamba` in one VAMBA_HOME, as a user's shell would."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.home = directory / "home"

    @property
    def env(self) -> dict[str, str]:
        return {"VAMBA_HOME": str(self.home)}

    def vamba(self, *words: str) -> subprocess.CompletedProcess[str]:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("VAMBA_HOME", str(self.home))
            return subprocess.run([sys.executable, "-m", "jobs", *words], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Everything up to the trained run."""
    shell = Shell(tmp_path_factory.mktemp("main-job"))
    videos, data = shell.directory / "videos", str(shell.directory / "data")
    suite = shell.directory / "suite.yaml"
    suite.write_text(SUITE)
    done = shell.vamba("synthesize", str(suite), "--out", str(videos))
    assert done.returncode == 0, done.stderr
    write_corrupt_copy(videos / "train")
    done = shell.vamba("ingest", str(videos), "--conversations", str(videos / "annotations.jsonl"), "--out", data)
    assert done.returncode == 0, done.stderr
    command = ("train", "tiny_instruct", "--data", data, "--name", "run", *TRAIN)
    assert train_through_kills(command, shell.env, shell.home / "runs" / "run") == 0
    return shell


def test_the_corrupt_file_is_a_row_and_the_rest_is_complete(shell: Shell) -> None:
    data = str(shell.directory / "data")
    assert [Path(failure.source_uri).name for failure in read_failures(data)] == ["corrupt.mp4"]
    manifest = read_manifest(data)
    assert len(manifest.select("train")) == 24 and len(manifest.select("test")) == 3


def test_a_killed_worker_and_a_killed_job_lose_no_sample_and_change_no_loss(shell: Shell) -> None:
    run = RunDirectory(shell.home / "runs" / "run")
    assert run.finished_step() == NUM_STEPS
    losses: dict[int, float] = {}
    samples: dict[int, list[str]] = {}
    attempts = set()
    for attempt, record in run.read_metrics():
        attempts.add(attempt)
        step = record["step"]
        assert losses.setdefault(step, record["loss"]) == record["loss"], f"step {step} has another loss when replayed"
        assert samples.setdefault(step, record["sample_ids"]) == record["sample_ids"]
    assert attempts == {1, 2, 3} and sorted(losses) == list(range(1, NUM_STEPS + 1))
    uses = Counter(sample for ids in samples.values() for sample in ids)
    assert max(uses.values()) - min(uses.values()) <= 1, "every sample is seen once an epoch"


def test_evaluation_control_gate_promotion_and_question(shell: Shell) -> None:
    data = str(shell.directory / "data")
    for name, words in (("real", ()), ("control", ("--control", "shuffled-video"))):
        done = shell.vamba("evaluate", "--model", "run", "--data", data, "--name", name, *words)
        assert done.returncode == 0, done.stderr
        assert read_result(shell.home / "evaluations" / name).coverage == 1.0
    evidence = ("--evaluation", "real", "--evaluation", "control")
    refused = shell.vamba("promote", "run", "--as", "needles", "--to", "champion", *evidence)
    assert refused.returncode == 3 and "at least 90.0%" in refused.stdout
    settings = [word for assignment in LENIENT for word in ("--set", assignment)]
    passed = shell.vamba("promote", "needles/1", "--to", "champion", *evidence, *settings)
    assert passed.returncode == 0, passed.stdout + passed.stderr
    version = json.loads(shell.vamba("models", "ls", "--json").stdout)[0]
    assert "champion" in version["aliases"]
    question, _ = a_question_about(shell.directory / "videos" / "annotations.jsonl", "test/held-out-0000.mp4")
    video = shell.directory / "videos" / "test" / "held-out-0000.mp4"
    answer = shell.vamba("ask", str(video), question, "--model", "models:/needles@champion")
    assert answer.returncode == 0 and answer.stdout.strip(), answer.stderr


def test_a_finished_run_is_not_trained_again(shell: Shell) -> None:
    data = str(shell.directory / "data")
    before = len(list(RunDirectory(shell.home / "runs" / "run").read_metrics()))
    done = shell.vamba("train", "tiny_instruct", "--data", data, "--name", "run", *TRAIN)
    assert done.returncode == 0 and "finished at step" in done.stderr
    assert len(list(RunDirectory(shell.home / "runs" / "run").read_metrics())) == before
