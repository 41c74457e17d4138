"""The checkpoint store in one process: commits, damage, fallback, retention."""

from __future__ import annotations

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.training import checkpoint_writer
from pipelines.training.checkpoint_files import CheckpointFormatError, remove_pin, set_pin
from pipelines.training.checkpoint_writer import MAX_FAILURES, CheckpointWriteError
from pipelines.training.checkpoints import CheckpointStore, FrozenWeightsError
from pipelines.training.retention import Retention
from tests.distributed.dataset import make_sample, write_dataset
from tests.distributed.processes import tiny_config
from vamba.train.guard import Guard
from vamba.train.state import TrainState

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoints") / "data"
    write_dataset(directory, [make_sample(i) for i in range(4)])
    return directory


class Case:
    """A store, a state whose values tell the step they were saved at, and the notices given."""

    def __init__(self, root: Path, dataset: Path, *, trainable: tuple[str, ...] = (".*",)) -> None:
        from pipelines.training.session import build_state, open_training_data

        self.notices: list[tuple[str, dict[str, Any]]] = []
        self.directory = root / "checkpoints"
        self.directory.mkdir()
        self.store = self.new_store(Retention(keep_last=3))
        config = tiny_config(dataset, root, "run")
        config = replace(config, train=replace(config.train, trainable=trainable))
        self.state: TrainState = build_state(config, open_training_data(config))

    def new_store(self, retention: Retention) -> CheckpointStore:
        return CheckpointStore(self.directory, retention=retention, notify=lambda e, **v: self.notices.append((e, v)))

    def save(self, *steps: int) -> None:
        for step in steps:
            self.begin(step)
            self.store.wait()

    def begin(self, step: int) -> None:
        self.fill(float(step))
        self.state.reader_state = replace(self.state.reader_state, step=step, epoch_step=0)
        self.store.save(self.state, {"config_digest": "sha256:c"})

    @torch.no_grad()
    def fill(self, value: float) -> None:
        for tensor in self.state.tensors().values():
            tensor.fill_(value)

    def restored_step(self) -> int | None:
        """Restore into a blank state; every tensor must hold the value of the step it claims."""
        self.fill(-1.0)
        checkpoint = self.store.restore(self.state)
        if checkpoint is None:
            return None
        assert self.state.step == checkpoint.step
        assert all(bool((tensor == checkpoint.step).all()) for tensor in self.state.tensors().values())
        return checkpoint.step

    def path(self, step: int) -> Path:
        return self.directory / f"step_{step:08d}"


@pytest.fixture
def case(tmp_path: Path, dataset: Path) -> Case:
    return Case(tmp_path, dataset)


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_nothing_to_restore_from(case: Case) -> None:
    assert case.restored_step() is None
    assert case.state.step == 0


def test_the_newest_is_restored_and_the_last_three_are_kept(case: Case) -> None:
    case.save(2, 4, 6, 8)
    assert [checkpoint.step for checkpoint in case.store.committed()] == [4, 6, 8]
    assert case.restored_step() == 8
    meta = json.loads((case.path(8) / "meta.json").read_text())
    assert meta["format_version"] == 4
    assert meta["config_digest"] == "sha256:c"
    assert meta["reader_state"]["step"] == 8
    assert set(meta["files"]) == {path.name for path in case.path(8).iterdir()} - {"meta.json"}


@pytest.mark.parametrize(
    "damage",
    ["flipped", "cut", "missing", "meta torn", "meta missing", "position", "version", "own digest", "another's"],
)
def test_a_damaged_newest_is_set_aside_and_the_one_before_used(case: Case, damage: str) -> None:
    case.save(2, 4)
    shard, meta = case.path(4) / "__0_0.distcp", case.path(4) / "meta.json"
    if damage == "flipped":
        flip_byte(shard)
    elif damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-100])
    elif damage == "missing":
        shard.unlink()
    elif damage == "meta torn":
        meta.write_text(meta.read_text()[:50])
    elif damage == "meta missing":
        meta.unlink()
    elif damage == "another's":
        shutil.copy(case.path(2) / "meta.json", meta)
        shutil.copytree(case.path(2), case.path(4), dirs_exist_ok=True)
    else:  # one character of a file that is still JSON
        one = {"position": '"epoch_step": 0', "version": '"format_version": 4', "own digest": '"meta_sha256'}[damage]
        meta.write_text(meta.read_text().replace(one, one[:-1] + chr(ord(one[-1]) ^ 1)))
    assert case.restored_step() == 2
    assert not case.path(4).exists()
    assert (case.directory / "step_00000004.quarantined-1").is_dir()
    event, values = case.notices[-1]
    assert event == "checkpoint_quarantined"
    assert values["checkpoint"] == "step_00000004"
    assert values["reason"]


def test_the_step_of_a_quarantined_checkpoint_can_be_saved_again(case: Case) -> None:
    case.save(2, 4)
    flip_byte(case.path(4) / "__0_0.distcp")
    assert case.restored_step() == 2
    case.save(4)
    assert case.restored_step() == 4


def test_a_write_that_was_killed_is_no_checkpoint_and_is_cleared_away(case: Case) -> None:
    case.save(2)
    shutil.copytree(case.path(2), case.directory / "step_00000004.tmp")
    assert case.restored_step() == 2
    assert not (case.directory / "step_00000004.tmp").exists()


def test_all_damaged_starts_from_nothing_with_notices(case: Case) -> None:
    case.save(2, 4)
    for step in (2, 4):
        flip_byte(case.path(step) / ".metadata")
    assert case.restored_step() is None
    assert [event for event, _ in case.notices if event == "checkpoint_quarantined"] == ["checkpoint_quarantined"] * 2


def test_a_newer_format_is_refused_not_set_aside(case: Case) -> None:
    case.save(2)
    meta = case.path(2) / "meta.json"
    newer = json.loads(meta.read_text())
    del newer["meta_sha256"]
    meta.write_text(json.dumps({**newer, "format_version": 99}))
    with pytest.raises(CheckpointFormatError, match="format 99"):
        case.restored_step()
    assert case.path(2).exists()


def test_training_goes_on_while_a_checkpoint_is_written(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is saved is the state at the call, whatever happens to it before the disk has it."""
    may_write = threading.Event()
    described = checkpoint_writer.describe_files

    def describe_later(directory: Path, rank: int) -> dict[str, Any]:
        assert may_write.wait(timeout=30)
        return described(directory, rank)

    monkeypatch.setattr(checkpoint_writer, "describe_files", describe_later)
    case.begin(4)
    case.fill(99.0)
    assert case.store.committed() == []
    may_write.set()
    case.store.wait()
    assert case.restored_step() == 4


def test_a_checkpoint_waits_for_the_one_before(case: Case) -> None:
    for step in (2, 4, 6):
        case.begin(step)
    case.store.wait()
    assert [checkpoint.step for checkpoint in case.store.committed()] == [2, 4, 6]


def test_a_disk_that_is_full_costs_no_earlier_checkpoint(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.save(2)

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_writer, "commit", full)
    with pytest.raises(CheckpointWriteError, match="step 4 .*No space left on device"):
        case.save(4)
    assert case.notices[-1][0] == "checkpoint_failed"
    assert not list(case.directory.glob("*.tmp"))
    monkeypatch.undo()
    assert case.restored_step() == 2
    case.save(6)
    assert case.restored_step() == 6


def test_a_run_that_can_save_no_more_ends(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """A single failure in the middle of a run is only noted: the next checkpoint may succeed."""

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_writer, "commit", full)
    for step in range(MAX_FAILURES):
        case.begin(step + 1)
    with pytest.raises(CheckpointWriteError, match=f"{MAX_FAILURES} checkpoints in a row"):
        case.begin(9)


def test_the_retention_rule_keeps_milestones_and_pins(case: Case) -> None:
    case.store = case.new_store(Retention(keep_last=2, keep_every_steps=10))
    case.save(4, 8)
    set_pin(case.path(8), "the paper's table 3")
    case.save(10, 12, 14, 16)
    assert [checkpoint.step for checkpoint in case.store.committed()] == [8, 10, 14, 16]
    assert case.store.committed()[0].pin == "the paper's table 3"
    remove_pin(case.path(8))
    assert [checkpoint.step for checkpoint in case.store.remove_expired()] == [8]


def test_frozen_weights_are_named_not_copied(tmp_path: Path, dataset: Path) -> None:
    case = Case(tmp_path, dataset, trainable=(r".*\.mixer\..*",))
    every = {name for name, _ in case.state.model.named_parameters()}
    trained = {name.removeprefix("model.") for name in case.state.tensors() if name.startswith("model.")}
    assert trained and all(".mixer." in name for name in trained) and trained < every
    digest = case.state.frozen_digest()
    case.save(2)
    assert json.loads((case.path(2) / "meta.json").read_text())["frozen_digest"] == digest
    assert case.restored_step() == 2


def test_other_frozen_weights_are_refused_not_set_aside(tmp_path: Path, dataset: Path) -> None:
    case = Case(tmp_path, dataset, trainable=(r".*\.mixer\..*",))
    case.save(2)
    with torch.no_grad():
        case.state.model.lm_head.weight[0, 0] += 1e-3
    case.state._frozen_digest = None
    with pytest.raises(FrozenWeightsError, match="init_from"):
        case.restored_step()
    assert case.path(2).exists()


@pytest.mark.parametrize("version", [1, 2])
def test_a_checkpoint_of_an_earlier_format_is_read(case: Case, version: int) -> None:
    """Version 1 named no frozen weights, version 2 had no guard and knew no rewind points."""
    case.save(2)
    meta = case.path(2) / "meta.json"
    content = json.loads(meta.read_text())
    for key in ("meta_sha256", "guard", "is_rewind_point", *(["frozen_digest"] if version == 1 else [])):
        del content[key]
    meta.write_text(json.dumps({**content, "format_version": version}))
    case.state.guard.judge(1, media="video", loss=1.0, grad_norm=1.0)
    assert case.restored_step() == 2
    assert case.state.guard.to_dict() == Guard(case.state.config.guard).to_dict()
    assert case.store.committed()[0].is_rewind_point


def test_the_guard_is_part_of_a_checkpoint(case: Case) -> None:
    case.state.guard.judge(1, media="video", loss=1.0, grad_norm=1.0)
    case.state.guard.judge(2, media="video", loss=float("nan"), grad_norm=1.0)
    saved = case.state.guard.to_dict()
    case.save(2)
    case.state.guard.load({})
    assert case.restored_step() == 2
    assert case.state.guard.to_dict() == saved


@pytest.mark.parametrize("name", ["step_00000002.pin.json", "step_00000002.registered.json"])
def test_what_can_not_be_read_beside_a_checkpoint_keeps_it_and_stops_nothing(case: Case, name: str) -> None:
    case.store = case.new_store(Retention(keep_last=1))
    case.save(2)
    (case.directory / name).write_text('{"rea')
    assert case.restored_step() == 2
    case.save(4, 6)
    assert [checkpoint.step for checkpoint in case.store.committed()] == [2, 6]
    assert case.store.committed()[0].is_held


def test_a_checkpoint_is_committed_whatever_becomes_of_those_before_it(case: Case) -> None:
    def unknown() -> dict[int, float]:
        raise KeyError("evaluation_loss")

    case.store = CheckpointStore(case.directory, notify=case.store._notify, evaluations=unknown)
    case.save(2)
    assert case.notices[-1][0] == "notice" and "could not be removed" in case.notices[-1][1]["text"]
    assert case.restored_step() == 2


def test_setting_aside_goes_on_after_some_were_cleared_away(case: Case) -> None:
    case.save(2)
    for _ in range(3):
        case.save(4)
        flip_byte(case.path(4) / ".metadata")
        assert case.restored_step() == 2
        shutil.rmtree(case.directory / "step_00000004.quarantined-1", ignore_errors=True)


def test_saving_a_step_twice_writes_it_once(case: Case) -> None:
    case.save(2)
    written = case.path(2).stat().st_mtime_ns
    case.save(2)
    assert case.restored_step() == 2
    case.save(2)
    assert case.path(2).stat().st_mtime_ns == written


def test_the_best_evaluated_checkpoint_is_kept(case: Case) -> None:
    losses = {2: 0.7, 4: 0.5, 6: 0.5, 8: float("nan")}
    case.store = CheckpointStore(case.directory, retention=Retention(keep_last=1), evaluations=lambda: losses)
    case.save(2, 4, 6, 8, 10)
    assert [checkpoint.step for checkpoint in case.store.committed()] == [4, 10]
    assert [checkpoint.step for checkpoint in case.store.best()] == [4]


def test_stops_push_out_nothing_that_the_guard_needs() -> None:
    rule = Retention(keep_last=2)
    steps = [5, 10, 12, 15, 16, 18]
    assert rule.expired(steps, passing=[12, 16, 18]) == [5, 12]
    assert rule.expired(steps) == [5, 10, 12, 15]
    assert rule.expired(steps, losses={5: 0.1, 10: 0.2}) == [10, 12, 15]
    assert Retention(keep_last=2, keep_best=0).expired(steps, losses={5: 0.1}) == [5, 10, 12, 15]
