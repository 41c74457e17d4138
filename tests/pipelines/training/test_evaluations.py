"""Which packs an evaluation reads, and that it is made once for a step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.training.config import TrainingConfig
from pipelines.training.evaluations import plan_evaluation, read_evaluations
from pipelines.training.run_directory import RunDirectory
from pipelines.training.session import open_training_data
from tests.distributed.dataset import make_sample, write_dataset
from tests.distributed.processes import Job, open_run, tiny_config, train
from vamba.train.config import EvaluationConfig

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("evaluations")
    samples = [make_sample(i, split="train" if i < 8 else "validation") for i in range(20)]
    write_dataset(root / "data", samples)
    return root


def config_of(root: Path, *, every: int = 2, max_packs: int = 64, name: str = "run") -> TrainingConfig:
    config = tiny_config(root / "data", root, name, num_steps=4, every=2)
    evaluation = EvaluationConfig(max_packs=max_packs)
    return replace(config, train=replace(config.train, evaluate_every_steps=every, evaluation=evaluation))


@pytest.mark.parametrize("max_packs", [1, 4, 9, 64])
def test_whole_rounds_within_the_limit_are_read(root: Path, max_packs: int) -> None:
    data = open_training_data(config_of(root, max_packs=max_packs)).evaluation
    assert data is not None and len(data.rows) == 12
    sizes = [len(step.packs) for step in data.plan.steps(0)]
    read = sum(sizes[: data.num_rounds])
    assert data.num_rounds == 1 or read <= max_packs
    assert data.num_rounds == len(sizes) or read + sizes[data.num_rounds] > max_packs


def test_the_packs_do_not_depend_on_the_seed_of_the_run(root: Path) -> None:
    config = config_of(root)
    other = replace(config, train=replace(config.train, seed=9))
    plans = [open_training_data(each).evaluation for each in (config, other)]
    assert plans[0] is not None and plans[1] is not None
    assert plans[0].plan.steps(0) == plans[1].plan.steps(0)


def test_a_dataset_without_validation_samples_is_refused_unless_there_are_no_evaluations(root: Path) -> None:
    with pytest.raises(ValueError, match=r"no sample in its validation split.*evaluate_every_steps=0"):
        plan_evaluation((), config_of(root))
    assert plan_evaluation((), config_of(root, every=0)) is None


def test_a_run_records_its_evaluations_once_and_trains_as_without(root: Path) -> None:
    config, plain = config_of(root, name="evaluated"), config_of(root, every=0, name="plain")
    directories = [open_run(each) for each in (config, plain)]
    train(1, Job(config=config), Job(config=plain), scratch=root)
    losses = read_evaluations(directories[0])
    assert list(losses) == [2, 4] and all(0 < loss < 20 for loss in losses.values())
    events = [event for event in directories[0].read_events() if event["event"] == "evaluated"]
    assert {event["num_samples"] for event in events} == {12}
    assert read_evaluations(directories[1]) == {}
    assert _losses(directories[0]) == _losses(directories[1])
    train(1, Job(config=config), scratch=root)
    assert len([event for event in directories[0].read_events() if event["event"] == "evaluated"]) == 2


def test_a_stop_during_an_evaluation_is_obeyed_and_it_is_made_after_the_restart(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vamba.train import evaluation

    config = config_of(root, name="stopped")
    directory = open_run(config)
    add_round = evaluation._add_round

    def stop_in_the_first_round(*arguments: object) -> tuple[bool, bool]:
        directory.stop_path.touch()
        return add_round(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(evaluation, "_add_round", stop_in_the_first_round)
    train(1, Job(config=config), scratch=root)
    assert directory.read_events()[-1]["event"] == "stopped" and directory.read_events()[-1]["step"] == 2
    assert read_evaluations(directory) == {}
    monkeypatch.undo()
    open_run(config)
    train(1, Job(config=config), scratch=root)
    undisturbed = config_of(root, name="undisturbed")
    reference = open_run(undisturbed)
    train(1, Job(config=undisturbed), scratch=root)
    assert read_evaluations(directory) == read_evaluations(reference)
    assert _losses(directory) == _losses(reference)


def _losses(directory: RunDirectory) -> dict[int, float]:
    return {record["step"]: record["loss"] for _, record in directory.read_metrics()}
