"""What a job is asked before it trains, where its run's files are, and what it must find as it left them."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.training import job
from pipelines.training.config import TrainingConfig
from pipelines.training.here import train_here
from pipelines.training.run_directory import RunMismatchError, run_directory
from pipelines.training.session import TINY_TOKENIZER
from pipelines.training.stop import request_stop
from tests.distributed.dataset import make_sample, write_dataset
from tests.distributed.processes import tiny_config


def quiet(line: str) -> None:
    pass


@pytest.fixture
def config(tmp_path: Path) -> TrainingConfig:
    write_dataset(tmp_path / "data", [make_sample(i, num_frames=2) for i in range(8)])
    return tiny_config(tmp_path / "data", tmp_path, "run", num_steps=2, every=1)


@pytest.mark.parametrize("by", ["request", "SIGTERM"])
def test_a_stop_while_the_job_is_set_up_is_obeyed(
    config: TrainingConfig, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """Planning may take minutes; `vamba runs stop` sees a running job, and a machine may be taken."""
    directory = run_directory(config.storage, config.name)
    request_stop(directory)  # of an earlier job
    plan = job.preflight

    def stopped_meanwhile(*arguments: object) -> object:
        assert not directory.stop_path.exists()
        if by == "request":
            request_stop(directory)
        else:
            os.kill(os.getpid(), signal.SIGTERM)
        return plan(*arguments)  # type: ignore[arg-type]

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(job, "preflight", stopped_meanwhile)
        summary = train_here(config, quiet)
    assert summary is not None and (summary.status, summary.step) == ("preempted", 0)
    assert signal.getsignal(signal.SIGTERM) == before
    summary = train_here(config, quiet)
    assert summary is not None and (summary.status, summary.step) == ("finished", 2)


def test_places_are_recorded_for_any_working_directory_and_the_tokenizer_must_stay(
    config: TrainingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = shutil.copytree(Path("vamba").resolve() / TINY_TOKENIZER, tmp_path / "words")
    monkeypatch.chdir(tmp_path)
    config = replace(config, mirror="mirror", model=replace(config.model, tokenizer="words"))
    train_here(config, quiet)
    stored = run_directory(config.storage, config.name).read_config()
    assert stored["mirror"] == str(tmp_path / "mirror") and stored["model"]["tokenizer"] == str(tokenizer)
    content = json.loads((tokenizer / "tokenizer.json").read_text())
    (tokenizer / "tokenizer.json").write_text(json.dumps(content))
    longer = replace(config, train=replace(config.train, num_steps=3))
    with pytest.raises(RunMismatchError, match=r"another version of the tokenizer in .*words: sha256:"):
        train_here(longer, quiet)
