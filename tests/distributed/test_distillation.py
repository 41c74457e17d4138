"""Distillation from cached logits: the model's own loss, packed, on two ranks, stopped and continued."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.training.config import DistillConfig, TrainingConfig
from pipelines.training.run_directory import RunDirectory, RunMismatchError, run_directory
from pipelines.training.session import build_model, open_training_data, train_rank
from pipelines.training.teachers import open_teachers, set_distillation, write_teachers
from tests.distributed.dataset import make_sample, tar_bytes, write_dataset
from tests.distributed.processes import Job, open_run, tiny_config, train
from vamba.assets.paths import TINY_TOKENIZER
from vamba.data.batch import collate
from vamba.data.encode import SampleEncoder
from vamba.data.sample import Sample
from vamba.data.text import IGNORE_LABEL, TeacherLogits, encode_conversation, load_tokenizer

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

NUM_LOGITS, COEFF = 5, 0.7


def sample(number: int) -> Sample:
    one = make_sample(number, num_frames=2 + number % 5)
    again = replace(one.conversations[0], id=f"again-{number}")
    return replace(one, conversations=(*one.conversations, again)[: 1 + number % 2])


def teachers_of(of: Sample, seed: int) -> list[TeacherLogits]:
    tokenizer, rng = load_tokenizer(TINY_TOKENIZER), np.random.default_rng(seed)
    found = []
    for conversation in of.conversations:
        labels = encode_conversation(tokenizer, conversation, media=True).labels
        num_labelled = int((labels != IGNORE_LABEL).sum())
        ids = np.stack([rng.choice(512, NUM_LOGITS, replace=False) for _ in range(num_labelled)])
        found.append(TeacherLogits(token_ids=ids, logits=rng.standard_normal(ids.shape).astype(np.float32)))
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("distillation")
    samples = [sample(i) for i in range(16)]
    write_dataset(root / "data", samples)
    write_teachers(str(root / "teachers"), ((s.id, teachers_of(s, seed)) for seed, s in enumerate(samples)))
    return root


def config_of(root: Path, name: str, *, num_steps: int = 4) -> TrainingConfig:
    config = tiny_config(root / "data", root, name, num_steps=num_steps, every=2)
    return replace(config, distill=DistillConfig(teachers=str(root / "teachers"), coeff=COEFF))


@pytest.fixture(scope="module")
def runs(root: Path) -> dict[str, RunDirectory]:
    jobs = {name: Job(config=config_of(root, name)) for name in ("one", "two")}
    for name in ("bfloat-one", "bfloat-two"):
        config = config_of(root, name)
        jobs[name] = Job(config=replace(config, parallel=replace(config.parallel, compute_dtype="bfloat16")))
    for job in jobs.values():
        open_run(job.config)
    train(2, jobs["two"], jobs["bfloat-two"], scratch=root)
    train(1, jobs["one"], jobs["bfloat-one"], scratch=root)
    return {name: run_directory(str(root), name) for name in jobs}


def losses(directory: RunDirectory) -> list[float]:
    return [record["loss"] for _, record in directory.read_metrics()]


def test_a_teachers_logits_are_not_rounded_where_several_compute_in_bfloat16(runs: dict[str, RunDirectory]) -> None:
    one, two = (losses(runs[f"bfloat-{size}"]) for size in ("one", "two"))
    assert one[0] == two[0] and one == pytest.approx(two, rel=1e-3)


def test_the_first_loss_is_the_models_own_sample_by_sample(root: Path, runs: dict[str, RunDirectory]) -> None:
    config = config_of(root, "one")
    assert config.distill is not None
    model, data = build_model(config), open_training_data(config)
    set_distillation(model, config.distill)
    encode = SampleEncoder(load_tokenizer(TINY_TOKENIZER), config.reader)
    encode = encode.taught_by(open_teachers(config.distill, data.rows))
    _, record = next(runs["one"].read_metrics())
    total, divergence, count = 0.0, 0.0, 0
    with torch.no_grad():
        for name in record["sample_ids"]:
            terms = model.loss_terms(collate([encode(tar_bytes(sample(int(name.removeprefix("clip-")))))]))
            assert terms.divergence is not None and terms.num_teacher_tokens == terms.num_loss_tokens
            total += float(terms.cross_entropy) + COEFF * float(terms.divergence)
            divergence, count = divergence + float(terms.divergence), count + terms.num_loss_tokens
    assert divergence > 0
    assert record["loss"] == pytest.approx(total / count, rel=1e-5)


def test_two_ranks_learn_as_one_process_does(runs: dict[str, RunDirectory]) -> None:
    assert losses(runs["two"]) == pytest.approx(losses(runs["one"]), rel=1e-6)


def test_a_run_that_is_continued_repeats_its_losses(root: Path, runs: dict[str, RunDirectory]) -> None:
    config = config_of(root, "stopped")
    directory = open_run(config)
    directory.stop_path.touch()
    train_rank(config, directory)
    directory.stop_path.unlink()
    assert train_rank(config, directory).finished
    assert losses(directory) == losses(runs["one"])


def test_other_teachers_are_refused_and_damaged_ones_found(root: Path, tmp_path: Path) -> None:
    samples = [sample(i) for i in range(16)]
    write_teachers(str(tmp_path), ((s.id, teachers_of(s, seed)) for seed, s in enumerate(samples)))
    config = replace(config_of(root, "moved"), distill=DistillConfig(teachers=str(tmp_path), coeff=COEFF))
    directory = open_run(config)
    assert train_rank(config, directory).finished
    write_teachers(str(tmp_path), ((s.id, teachers_of(s, seed + 1)) for seed, s in enumerate(samples)))
    with pytest.raises(RunMismatchError, match="another version of teachers"):
        train_rank(replace(config, train=replace(config.train, num_steps=6)), directory)
    file = tmp_path / "clip-0003.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    fresh = replace(config, name="damaged")
    with pytest.raises(ValueError, match="its teacher, clip-0003.safetensors"):
        train_rank(fresh, open_run(fresh))


def test_every_sample_needs_a_teacher(root: Path, tmp_path: Path) -> None:
    data = open_training_data(config_of(root, "one"))
    write_teachers(str(tmp_path), [("clip-0000", teachers_of(sample(0), 0))])
    with pytest.raises(ValueError, match="no teacher for 15 of 16 training samples, among them clip-0001"):
        open_teachers(DistillConfig(teachers=str(tmp_path)), data.rows)
    with pytest.raises(ValueError, match=r"there is no teachers\.json"):
        open_teachers(DistillConfig(teachers=str(tmp_path / "nowhere")), data.rows)
