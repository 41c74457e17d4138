"""A configuration builds plain values of a bounded size, whatever its text says."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml

from jobs.config import ConfigError, file_layer, set_layer
from jobs.yaml_core import load_yaml

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)
HOSTILE = {
    "aliases of aliases": BOMB,
    "an alias within itself": "a: &a [*a]",
    "a merge within itself": "a: &a {<<: *a}",
    "deep flow": "[" * 5000,
    "deep and closed": "[" * 5000 + "]" * 5000,
    "deep blocks": "".join(" " * n + "- \n" for n in range(2000)),
    "100 levels": "[" * 100 + "]" * 100,
    "too long": "a: " + "x" * (1 << 20),
    "a Python object": "!!python/object/apply:os.mkdir ['pwned']",
    "a Python name": "!!python/name:os.system",
    "a tag of its own": "!evil {a: 1}",
    "NUL": "a: \0",
    "two documents": "a: 1\n---\na: 2",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_no_configuration_is_refused_at_once(text: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    started = time.process_time()
    with pytest.raises(yaml.YAMLError):
        load_yaml(text)
    with pytest.raises(ConfigError, match="c.yaml"):
        file_layer(path)
    with pytest.raises(ConfigError, match="--set"):
        set_layer([f"a={text}"])
    assert time.process_time() - started < 30, "it grows without bound"
    assert not Path("pwned").exists()


def test_anchors_are_allowed() -> None:
    assert load_yaml("a: &x {b: 1}\nc: *x\nd: {<<: *x, e: 2}") == {"a": {"b": 1}, "c": {"b": 1}, "d": {"b": 1, "e": 2}}
    assert load_yaml("") is None and load_yaml("3e-4") == 3e-4
