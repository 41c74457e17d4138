"""`vamba runs` and `vamba resume`, on small runs that were really trained, and on files where those suffice."""

from __future__ import annotations

import json
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from jobs.cli.main import app
from pipelines.training.config import TrainingConfig
from pipelines.training.here import train_here
from pipelines.training.json_lines import append_line
from pipelines.training.run_directory import RunDirectory, run_directory
from pipelines.training.run_lock import exclusive, only_job
from tests.distributed.dataset import make_sample, write_dataset
from tests.distributed.processes import tiny_config

NUM_STEPS = 4


def vamba(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs: "one" and "two", whose learning rate is another."""
    root = tmp_path_factory.mktemp("runs")
    write_dataset(root / "data", [make_sample(i, num_frames=2) for i in range(8)])
    for name, rate in (("one", 1e-3), ("two", 2e-3)):
        config = config_of(root, name)
        optimizer = replace(config.train.optimizer, learning_rate=rate)
        train_here(replace(config, train=replace(config.train, optimizer=optimizer)), notice=lambda line: None)
    return root


def config_of(root: Path, name: str) -> TrainingConfig:
    return tiny_config(root / "data", root, name, num_steps=NUM_STEPS, every=2)


def started(root: Path, name: str) -> RunDirectory:
    """A run that has been opened and never trained."""
    directory = run_directory(str(root), name)
    directory.open(config_of(root, name), data_digest="sha256:d")
    return directory


def test_logs_tell_starts_progress_checkpoints_and_the_end(storage: Path) -> None:
    lines = vamba("runs", "logs", "one", "--storage", storage).stdout.splitlines()
    text = "\n".join(lines)
    for part in (
        "job started",
        "attempt 1: 1 workers, from the start",
        "step 4  loss",
        "checkpoint of step 2",
        "ended",
    ):
        assert part in text
    assert len({*lines}) == len(lines)
    entries = json.loads(vamba("runs", "logs", "one", "--storage", storage, "--attempt", 1, "--json").stdout)
    assert entries and {entry["attempt"] for entry in entries} == {1}


def test_logs_show_what_a_worker_failed_with(storage: Path) -> None:
    config = config_of(storage, "failing")
    broken = replace(config, reader=replace(config.reader, retry_reads_for_s=0))
    shard = next((storage / "data" / "shards").glob("*.tar"))
    hidden = shard.rename(shard.with_suffix(".hidden"))
    try:
        with pytest.raises(Exception, match="clip-"):
            train_here(broken, notice=lambda line: None)
    finally:
        hidden.rename(shard)
    text = vamba("runs", "logs", "failing", "--storage", storage).stdout
    assert "rank 0 failed" in text and "Traceback" not in text.splitlines()[0]
    assert "errors/attempt-0001-rank-0.txt" in text and "job ended: failed" in text


def test_logs_follow_until_the_run_ends(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs.cli import runs_logs

    monkeypatch.setattr(runs_logs, "_POLL_S", 0.01)
    directory = started(storage, "followed")
    with only_job(directory):
        following = threading.Thread(target=lambda: seen.append(vamba("runs", "logs", directory.root, "--follow")))
        seen: list[Result] = []
        following.start()
        directory.append_event("notice", text="something new")
    following.join(timeout=30)
    assert "something new" in seen[0].stdout


def test_stop_tells_that_nothing_runs_and_leaves_no_request(storage: Path) -> None:
    result = vamba("runs", "stop", "one", "--storage", storage)
    assert result.exit_code == 0 and "not being trained: finished at step 4" in result.stdout
    assert not run_directory(str(storage), "one").stop_path.exists()


def test_stop_asks_the_running_job_and_waits_for_its_checkpoint(storage: Path) -> None:
    directory = started(storage, "stopping")

    def train() -> None:
        with only_job(directory), exclusive(directory):
            running.set()
            while not directory.stop_path.exists():
                time.sleep(0.01)
            directory.append_event("stopped", attempt=1, step=2)

    running = threading.Event()
    job = threading.Thread(target=train)
    job.start()
    running.wait()
    result = vamba("runs", "stop", directory.root, "--wait")
    job.join()
    assert result.exit_code == 0, result.output
    assert "asked to save and stop" in result.stdout


def test_a_job_that_ends_without_saving_is_told(storage: Path) -> None:
    directory = started(storage, "dying")

    def die() -> None:
        with only_job(directory):
            running.set()
            while not directory.stop_path.exists():
                time.sleep(0.01)

    running = threading.Event()
    job = threading.Thread(target=die)
    job.start()
    running.wait()
    result = vamba("runs", "stop", directory.root, "--wait")
    job.join()
    assert result.exit_code == 1 and "without saving" in result.stdout


def test_a_second_job_is_refused_at_once(storage: Path) -> None:
    with only_job(run_directory(str(storage), "one")):
        result = vamba("resume", "one", "--storage", storage, "--here")
    assert result.exit_code == 1 and "is being trained by process" in result.output and "runs stop one" in result.output


def test_compare_names_settings_and_the_first_step_that_differs(storage: Path, tmp_path: Path) -> None:
    plot = tmp_path / "losses.svg"
    result = vamba("runs", "compare", "one", "two", "--storage", storage, "--plot", plot)
    assert "train.optimizer.learning_rate" in result.stdout and "from step 2 on" in result.stdout
    assert plot.read_text().count("<path") > 2
    found = json.loads(vamba("runs", "compare", "one", "two", "--storage", storage, "--json").stdout)
    assert found["first_different_step"] == 2 and found["same_samples"]
    assert found["settings"] == {"train.optimizer.learning_rate": [1e-3, 2e-3]}
    same = vamba("runs", "compare", "one", "one", "--storage", storage)
    assert "bit-identical in all 4 common steps" in same.stdout


def test_resume_says_that_a_run_is_finished(storage: Path) -> None:
    result = vamba("resume", "one", "--storage", storage, "--here")
    assert result.exit_code == 0 and "finished at step 4" in result.stderr


def test_resume_from_another_directory_takes_more_steps(
    storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config_of(storage, "prolonged"), storage=None)
    monkeypatch.setenv("VAMBA_HOME", str(storage))
    monkeypatch.chdir(storage)
    train_here(replace(config, data="data"), notice=lambda line: None)
    monkeypatch.chdir(tmp_path)
    result = vamba("resume", "prolonged", "--here", "--json", "--set", "train.num_steps=6")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["step"] == 6


def test_a_run_can_not_end_before_it_is(storage: Path) -> None:
    result = vamba("resume", "one", "--storage", storage, "--here", "--set", "train.num_steps=3")
    assert result.exit_code == 2
    assert "trained to step 4, and would end at step 3" in result.output
    assert run_of(storage, "one").read_config()["train"]["num_steps"] == NUM_STEPS


def test_a_copied_run_is_continued_where_it_is(storage: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in (storage / "runs" / "one").rglob("*.json*")}
    copy = shutil.copytree(storage / "runs" / "one", storage / "runs" / "copied")
    result = vamba("resume", copy, "--here", "--json", "--set", "train.num_steps=5")
    assert result.exit_code == 0 and json.loads(result.stdout)["directory"] == str(copy), result.output
    assert {path: path.read_bytes() for path in before} == before
    elsewhere = shutil.copytree(copy, tmp_path / "backup")
    assert "not in a folder named runs" in vamba("resume", elsewhere, "--here").output


def test_a_damaged_run_hides_no_other(storage: Path, tmp_path: Path) -> None:
    shutil.copytree(storage / "runs" / "one", tmp_path / "runs" / "one")
    bad = shutil.copytree(storage / "runs" / "one", tmp_path / "runs" / "two")
    (bad / "run.json").write_text('{"na')
    result = vamba("runs", "ls", "--storage", tmp_path)
    assert result.exit_code == 0 and f"{bad / 'run.json'} is damaged" in result.stdout
    states = {
        run["name"]: run["state"] for run in json.loads(vamba("runs", "ls", "--storage", tmp_path, "--json").stdout)
    }
    assert states == {"one": "finished", "two": "damaged"}


def test_show_tells_checkpoints_from_what_lies_beside_them(storage: Path, tmp_path: Path) -> None:
    run = RunDirectory(shutil.copytree(storage / "runs" / "one", tmp_path / "runs" / "one"))
    (run.checkpoints / "step_00000002.pin.json").write_text('{"reason": "x"}')
    run.append_event("attempt_started", attempt=2, rank=0, pid=1, world_size=1, resumed_from_step=4, num_steps=9)
    text = vamba("runs", "show", run.root).stdout
    assert "Run one: unfinished" in text, "it was prolonged"
    assert "step_00000002, step_00000004\n" in text


def test_runs_with_the_same_missing_loss_are_the_same(storage: Path, tmp_path: Path) -> None:
    runs = [RunDirectory(shutil.copytree(storage / "runs" / "one", tmp_path / "runs" / name)) for name in ("a", "b")]
    for run in runs:
        append_line(run.metrics_path(1), {"step": 5, "loss": float("nan"), "time": 1.0})
    assert "bit-identical in all 5 common steps" in vamba("runs", "compare", *(run.root for run in runs)).stdout
    append_line(runs[0].metrics_path(1), {"step": 5, "loss": 0.5, "time": 1.0})
    assert "from step 5 on; largest |difference| inf" in vamba("runs", "compare", *(run.root for run in runs)).stdout


def test_resume_refuses_other_changes_by_name(storage: Path) -> None:
    words = ("--set", "train.seed=7", "--set", "train.optimizer.learning_rate=0.1")
    result = vamba("resume", "one", "--storage", storage, "--here", *words)
    assert result.exit_code == 2
    assert "train.seed: 0 -> 7" in result.output and "train.optimizer.learning_rate: 0.001 -> 0.1" in result.output


def test_resume_refuses_another_model_by_field(storage: Path) -> None:
    directory = run_directory(str(storage), "one")
    model = directory.read_run()["model"]
    directory.update_run(model={**model, "hidden_size": model["hidden_size"] + 1})
    try:
        result = vamba("resume", "one", "--storage", storage, "--here")
    finally:
        directory.update_run(model=model)
    assert result.exit_code == 2
    assert f"model hidden_size: {model['hidden_size'] + 1} -> {model['hidden_size']}" in result.output


def test_resume_refuses_a_model_whose_weights_were_exchanged(storage: Path) -> None:
    import shutil

    base = shutil.copytree(storage / "runs" / "one" / "model", storage / "base")
    config = config_of(storage, "from-base")
    train_here(replace(config, model=replace(config.model, init_from=str(base))), notice=lambda line: None)
    shutil.copy(storage / "runs" / "two" / "model" / "model.safetensors", base)
    result = vamba("resume", "from-base", "--storage", storage, "--here", "--set", "train.num_steps=6")
    assert result.exit_code == 2 and "model.safetensors changed" in result.output


def test_runs_in_another_storage_are_found_by_it(storage: Path) -> None:
    assert "There is no run 'one'" in vamba("runs", "show", "one").output
    assert "running" not in vamba("runs", "ls", "--storage", storage).stdout
    assert "one" in vamba("runs", "ls", "--storage", storage).stdout


def test_resume_brings_a_run_back_from_its_mirror(storage: Path, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    train_here(replace(config_of(storage, "far"), mirror=str(mirror)), notice=lambda line: None)
    shutil.rmtree(mirror / "far" / "checkpoints" / "step_00000004")  # the disk was lost before it was copied
    refused = vamba("resume", "far", "--storage", tmp_path, "--mirror", tmp_path / "nowhere", "--here")
    assert refused.exit_code == 2 and "no checkpoint" in refused.stderr
    resumed = vamba("resume", "far", "--storage", tmp_path, "--mirror", mirror, "--here")
    assert resumed.exit_code == 0, resumed.output
    assert "Step 2 was brought back" in resumed.stderr
    records = [(attempt, record["step"], record["loss"]) for attempt, record in run_of(tmp_path, "far").read_metrics()]
    first = {step: loss for attempt, step, loss in records if attempt == 1}
    assert {step: loss for attempt, step, loss in records if attempt == 2} == {step: first[step] for step in (3, 4)}
    assert (mirror / "far" / "checkpoints" / "step_00000004" / "meta.json").is_file()


def run_of(root: Path, name: str) -> RunDirectory:
    return run_directory(str(root), name)
