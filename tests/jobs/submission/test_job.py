"""A job's words are read as its own command reads them, before anything is sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.submission.job import read_job
from pipelines.capacity import Needs
from tests.jobs.submission.cases import GPUS, WORDS, a_job


@pytest.mark.parametrize("verb", WORDS)
def test_the_command_is_the_local_one_on_the_cluster_it_runs_on(verb: str) -> None:
    added = () if verb == "promote" else ("--address", "auto")
    job = a_job(verb)
    assert job.words == (*WORDS[verb], *added)
    assert job.entrypoint("vamba").startswith(f"vamba {verb} ")


def test_a_named_address_is_kept_and_its_room_is_not_asked_for() -> None:
    job = a_job("train", (*WORDS["train"], "--address", "ray://h:1"))
    assert job.entrypoint("vamba").endswith("--address ray://h:1")
    assert job.needs(has_gpus=False) is None


@pytest.mark.parametrize(
    ("verb", "words", "message"),
    [
        ("resume", (), "can't be submitted: choose one of ingest, train, evaluate, promote"),
        ("train", ("tiny_pretrain", "--data", "x"), "Missing option '--name'"),
        ("train", (*WORDS["train"], "--nmae", "x"), "No such option: --nmae.*after `--`"),
        ("train", (*WORDS["train"], "--set", "train.optimiser.lr=1"), "did you mean"),
        ("train", (*WORDS["train"][:-1], "Run 7"), "Run name 'Run 7' must match"),
        ("evaluate", ("a", "--model", "b", "--data", "d"), "given twice"),
        ("ingest", ("videos",), "Missing option '--out'"),
    ],
)
def test_a_mistake_in_the_words_is_told_here(verb: str, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_job(verb, words)


def test_needs_follow_the_resolved_configuration() -> None:
    plain = a_job("train").needs(has_gpus=False)
    assert plain is not None and (plain.workers, plain.cpus, plain.gpus) == (2, 1.0, 0.0)
    words = (*GPUS, "--set", "workers.num_workers=16", "--set", "workers.min_workers=4")
    large = a_job("train", words).needs(has_gpus=False)
    assert large is not None
    assert (large.workers, large.fewest, large.cpus, large.gpus, large.gpu_memory_gb) == (16, 4, 8, 1, 80)
    replicas = a_job("evaluate", (*WORDS["evaluate"], "--set", "num_replicas=3"))
    with_gpus, without = (replicas.needs(has_gpus=has) for has in (True, False))
    assert isinstance(with_gpus, Needs) and isinstance(without, Needs)
    assert (with_gpus.workers, with_gpus.gpus, without.gpus) == (3, 1, 0)
    assert a_job("promote").needs(has_gpus=True) is None


def test_names_are_what_kubernetes_takes_and_different_names_stay_different() -> None:
    names = ("run7", "run.7", "run-7", "r" * 80, "r" * 81)
    short = [a_job("train", (*WORDS["train"][:-1], name)).short_name(47) for name in names]
    assert short[0] == "vamba-train-run7" and short[2] == "vamba-train-run-7"
    assert len({*short}) == len(names) and all(len(name) <= 47 for name in short)
    assert all(name.replace("-", "").isalnum() and name == name.lower() for name in short)


def test_files_of_the_users_own_are_found_and_replaced(tmp_path: Path) -> None:
    recipe, mine = tmp_path / "recipe.yaml", tmp_path / "mine.yaml"
    recipe.write_text("train: {num_epochs: 1}")
    mine.write_text("workers: {num_workers: 1}")
    words = (str(recipe), "--data", "d", "--name", "n", f"--config={mine}")
    job = a_job("train", words)
    assert set(job.files) == {recipe, mine}
    moved = job.with_files({recipe: "/there/0.yaml", mine: "/there/1.yaml"})
    assert moved[:6] == ("/there/0.yaml", "--data", "d", "--name", "n", "--config=/there/1.yaml")
