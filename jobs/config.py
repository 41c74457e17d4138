"""From a recipe to one frozen, validated tree of dataclasses.

Layers are merged in a fixed order, later ones win: recipe (`jobs/configs/NAME.yaml`) → `--config FILE` → the
command's own arguments → `--set a.b=c`. Every layer is checked for unknown keys by itself, so an error names the
layer it came from. pydantic then builds the dataclasses, which live beside the components they configure, and
`validate` applies the rules that no single component can see. The resolved tree prints as YAML, is stored with every
run, and its digest names it.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, Union

from jobs.yaml_core import dump_yaml, load_yaml
from pipelines.layers import laid_over

RECIPES = Path(__file__).parent / "configs"
Config = TypeVar("Config")


class ConfigError(ValueError):
    """A configuration the user can correct: the message names the key, its value, the rule and the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One source of settings."""

    name: str  # where it came from, as the user would name it: "recipe tiny_pretrain", "--set"
    tree: Mapping[str, Any]


def recipe_names(*, requires: str = "") -> list[str]:
    """The recipes that ship with the package, `requires` limiting them to those holding that top-level key."""
    names = sorted(path.stem for path in RECIPES.glob("*.yaml"))
    return [name for name in names if not requires or requires in (recipe_layer(name).tree)]


def recipe_layer(name: str) -> Layer:
    """A recipe by name, or by path when it names a YAML file of the user's."""
    if Path(name).suffix in {".yaml", ".yml"}:
        return file_layer(Path(name))
    path = RECIPES / f"{name}.yaml"
    if not path.exists():
        known = [candidate.stem for candidate in RECIPES.glob("*.yaml")]
        raise ConfigError(
            f"There is no recipe {name!r}{_suggestion(name, known)}. Known recipes: "
            f"{', '.join(sorted(known)) or 'none'}; a file of your own is given by its path, ending in .yaml."
        )
    return Layer(name=f"recipe {name}", tree=_read(path))


def file_layer(path: Path) -> Layer:
    """A YAML file given by `--config`."""
    if not path.is_file():
        raise ConfigError(f"The configuration file {path} does not exist.")
    return Layer(name=str(path), tree=_read(path))


def set_layer(assignments: Sequence[str]) -> Layer:
    """`--set a.b=c` arguments: dotted keys, values in YAML."""
    tree: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        keys = key.strip().split(".")
        if not equals or not all(keys):
            raise ConfigError(
                f"--set {assignment!r} is not of the form a.b=value, for example --set optimizer.lr=3e-4."
            )
        try:
            value = load_yaml(text)
        except Exception as error:
            raise ConfigError(f"--set {assignment!r}: the value is not YAML ({_one_line(error)}).") from error
        branch: dict[str, Any] = {keys[-1]: value}
        for part in reversed(keys[:-1]):
            branch = {part: branch}
        tree = laid_over(tree, branch)
    return Layer(name="--set", tree=tree)


def argument_layer(tree: Mapping[str, Any]) -> Layer:
    """The command's own arguments; those not given (None) leave the lower layers alone."""
    return Layer(name="the command line", tree={key: value for key, value in tree.items() if value is not None})


def resolve(kind: type[Config], layers: Sequence[Layer]) -> Config:
    """Merge the layers and build `kind`. Raises `ConfigError` with one clear sentence per mistake."""
    from pydantic import TypeAdapter, ValidationError

    from jobs.config_rules import validate

    tree: dict[str, Any] = {}
    for layer in layers:
        unknown = list(_unknown_keys(kind, layer.tree))
        if unknown:
            raise ConfigError(" ".join(f"{sentence} (in {layer.name})." for sentence in unknown))
        tree = laid_over(tree, layer.tree)
    try:
        config = TypeAdapter(kind).validate_python(tree)
    except ValidationError as error:
        raise ConfigError(" ".join(_explain(item) for item in error.errors(include_url=False))) from None
    validate(config)
    return config


def to_tree(config: object) -> dict[str, Any]:
    """The resolved tree as plain JSON values."""
    from pydantic import TypeAdapter

    return TypeAdapter(type(config)).dump_python(config, mode="json")


def to_yaml(config: object) -> str:
    """The resolved tree as YAML: what `--dry-run` prints, and valid input for `--config`."""
    return dump_yaml(to_tree(config))


def digest(config: object) -> str:
    """`sha256:…` of the resolved tree, independent of key order and of how it was assembled."""
    text = json.dumps(to_tree(config), sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = load_yaml(path.read_text(encoding="utf-8"))
    except Exception as error:
        raise ConfigError(f"{path} can't be read as YAML: {_one_line(error)}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds a {type(tree).__name__}; a configuration is a mapping of names to values.")
    return tree


def _unknown_keys(kind: type, tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    hints = typing.get_type_hints(kind)
    known = {field.name: hints[field.name] for field in dataclasses.fields(kind)}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if key not in known:
            advice = _suggestion(str(key), list(known), prefix) or _elsewhere(kind, str(key))
            yield f"There is no setting `{path}`{advice}"
            continue
        nested = _dataclass_in(known[key])
        if nested and isinstance(value, Mapping):
            yield from _unknown_keys(nested, value, f"{path}.")


def _dataclass_in(hint: Any) -> type | None:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return hint
    if typing.get_origin(hint) in (Union, types.UnionType):
        found = [option for option in map(_dataclass_in, typing.get_args(hint)) if option]
        return found[0] if len(found) == 1 else None
    return None


def _paths(kind: type, prefix: str = "") -> Iterator[str]:
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        nested = _dataclass_in(hints[field.name])
        yield f"{prefix}{field.name}"
        if nested:
            yield from _paths(nested, f"{prefix}{field.name}.")


def _suggestion(word: str, known: Sequence[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean `{prefix}{close[0]}`?" if close else ""


def _elsewhere(kind: type, word: str) -> str:
    """The same word deeper in the tree, or the top level when nothing resembles it."""
    same = [path for path in _paths(kind) if path.rpartition(".")[2] == word]
    if same:
        return f"; did you mean `{same[0]}`?"
    return f"; the settings here are {', '.join(field.name for field in dataclasses.fields(kind))}"


def _explain(item: Any) -> str:
    path = ".".join(str(part) for part in item["loc"]) or "the configuration"
    if item["type"] == "missing":
        return f"`{path}` is required and not given: pass it, or --set {path}=VALUE."
    if item["type"] == "value_error":
        return str(item["ctx"]["error"])
    return f"`{path}` is {item['input']!r}: {item['msg'][0].lower()}{item['msg'][1:]}."


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
