"""Manifests as text: YAML that a person can read and a tool can take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):
    """Scripts as blocks of lines, and no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _string(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _string)


def manifest_text(documents: Sequence[dict[str, Any]], comments: Sequence[str] = ()) -> str:
    """The documents as one YAML stream, after lines of comment."""
    head = "".join(f"# {line}".rstrip() + "\n" for comment in comments for line in comment.splitlines())
    body = yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)
    return head + body
