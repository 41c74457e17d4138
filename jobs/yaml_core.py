"""YAML as people mean it: the core schema of YAML 1.2 over PyYAML's safe loader.

YAML 1.1, which PyYAML speaks, reads `3e-4` as text, `1:30` as ninety and `no` as false. Configuration files and `--set`
values pass through here instead, so a learning rate is a number and a name stays a name. No tag builds an object.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

_MOST_CHARS = 1 << 20
_MOST_VALUES = 100_000
_MOST_DEPTH = 50


class _CoreLoader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}


_CORE_SCHEMA = (
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("tag:yaml.org,2002:int", r"[-+]?[0-9][0-9_]*", list("-+0123456789")),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    ("tag:yaml.org,2002:merge", r"<<", ["<"]),
)
for _tag, _pattern, _first_characters in _CORE_SCHEMA:
    _CoreLoader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), _first_characters)


def _construct_decimal(loader: _CoreLoader, node: yaml.ScalarNode) -> int:
    """`010` is ten: YAML 1.1 would read it as octal."""
    return int(loader.construct_scalar(node).replace("_", ""))


_CoreLoader.add_constructor("tag:yaml.org,2002:int", _construct_decimal)


def load_yaml(text: str) -> Any:
    """Parse one document.

    Raises:
        yaml.YAMLError: with line and column for text that is not YAML; or it is larger than a configuration can be:
            in characters, in depth, or in values once every alias is replaced by what it stands for.
    """
    if len(text) > _MOST_CHARS:
        raise yaml.YAMLError(f"it has {len(text)} characters, and a configuration at most {_MOST_CHARS}")
    loader = _CoreLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {}, ())
        return loader.construct_document(node)
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply") from error
    finally:
        loader.dispose()


def _count(node: yaml.Node, known: dict[int, int], above: tuple[int, ...]) -> int:
    """Values in a tree whose aliases are written out; a few lines of aliases of aliases can be billions."""
    if id(node) in above:
        raise yaml.YAMLError("an alias stands for something that it is part of")
    if id(node) not in known:
        children: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            children = node.value
        elif isinstance(node, yaml.MappingNode):
            children = [item for pair in node.value for item in pair]
        known[id(node)] = 1 + sum(_count(child, known, (*above, id(node))) for child in children)
        if known[id(node)] > _MOST_VALUES or len(above) > _MOST_DEPTH:
            raise yaml.YAMLError(
                f"it has more than {_MOST_VALUES} values, aliases written out, or more levels than {_MOST_DEPTH}"
            )
    return known[id(node)]


def dump_yaml(tree: Any) -> str:
    """The tree as YAML in the order it was written, readable again by `load_yaml`."""
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120)
