"""Layers, overrides and the messages for what does not fit."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from jobs import config
from jobs.yaml_core import load_yaml


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimizer:
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise ValueError(f"optimizer.learning_rate is {self.learning_rate}, but it must be above 0.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    name: str
    mode: Literal["fast", "slow"] = "fast"
    limit: int | None = None
    optimizer: Optimizer = field(default_factory=Optimizer)


def resolve(*layers: config.Layer) -> Job:
    return config.resolve(Job, [config.Layer(name="base", tree={"name": "x"}), *layers])


def test_later_layers_win_key_by_key(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("mode: slow\noptimizer: {learning_rate: 3e-4}\n")
    job = resolve(config.file_layer(file), config.set_layer(["optimizer.betas=[0.8, 0.9]", "mode=fast"]))
    assert job == Job(name="x", mode="fast", optimizer=Optimizer(learning_rate=3e-4, betas=(0.8, 0.9)))


@pytest.mark.parametrize(
    ("text", "value"),
    [("3e-4", 3e-4), ("1.5", 1.5), ("-.5E2", -50.0), ("12", 12), ("1_000", 1000), ("010", 10), ("true", True),
     ("no", "no"), ("1:30", "1:30"), ("null", None), ("2024-01-02", "2024-01-02"), ("0x1f", "0x1f")],
)  # fmt: skip
def test_yaml_values_are_what_people_mean(text: str, value: object) -> None:
    loaded = load_yaml(text)
    assert loaded == value and type(loaded) is type(value)


def test_yaml_builds_no_objects() -> None:
    with pytest.raises(config.ConfigError, match="not YAML"):
        config.set_layer(["name=!!python/object/apply:os.getcwd []"])


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        (
            "optimizer.learnign_rate=1",
            r"`optimizer.learnign_rate`; did you mean `optimizer.learning_rate`\?.*--set",
        ),
        ("learning_rate=1", r"did you mean `optimizer.learning_rate`"),
        ("zzz=1", r"settings here are name, mode, limit, optimizer"),
        ("mode=medium", r"`mode` is 'medium'"),
        ("limit=many", r"`limit` is 'many'"),
        ("optimizer.learning_rate=-1", r"learning_rate is -1.0, but it must be above 0"),
        ("optimizer", r"not of the form a.b=value"),
        ("a..b=1", r"not of the form a.b=value"),
    ],
)
def test_mistakes_are_named_with_their_remedy(assignment: str, message: str) -> None:
    with pytest.raises(config.ConfigError, match=message):
        resolve(config.set_layer([assignment]))


def test_what_is_required_is_asked_for() -> None:
    with pytest.raises(config.ConfigError, match="`name` is required"):
        config.resolve(Job, [])


def test_an_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(config.ConfigError, match="did you mean `gates`"):
        config.recipe_layer("gate")


def test_the_printed_tree_is_valid_input_and_has_the_same_digest(tmp_path: Path) -> None:
    job = resolve(config.set_layer(["optimizer.learning_rate=3e-4"]))
    file = tmp_path / "printed.yaml"
    file.write_text(config.to_yaml(job))
    again = config.resolve(Job, [config.file_layer(file)])
    assert again == job
    assert config.digest(again) == config.digest(job) != config.digest(resolve())


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1,\n"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(config.ConfigError, match="bad.yaml"):
        config.file_layer(file)
