"""Every command that the documents tell a reader to type, with where it stands and what it needs beyond this machine.

A command is a line of a fenced or indented block that begins with one of PROGRAMS, or a code span that does. A comment
before it, `<!-- needs: a cloud -->`, says that no test can run what follows: a block, or the table or paragraph; one
behind it, `# needs a cloud`, says so of the line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.architecture.sources import ROOT

DOCUMENTS = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
PROGRAMS = (
    "vamba",
    "make",
    "python",
    "python3",
    "ray",
    "kubectl",
    "docker",
    "sky",
    "pip",
    "torchrun",
    "export",
    "promtool",
)
PROGRAMS += (".venv/bin/python", "aws", "gcloud", "git", "curl")
_FENCE = re.compile(r"^```(\w*)")
_NEEDS = re.compile(r"<!-- needs: (.+?) -->")
_LINE_NEEDS = re.compile(r"\s# needs (.+)$")
_SPAN = re.compile(r"`([^`\n]+)`")
_SHELL = ("", "bash", "sh", "console")
_ASSIGNMENT = re.compile(r"^(?:[A-Z_]+=\S+ +)+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Documented:
    """needs: what a test lacks to run it, "" for nothing. is_block: on a line of its own, to be copied as it is."""

    document: str
    line: int
    text: str
    needs: str
    is_block: bool

    @property
    def place(self) -> str:
        return f"{self.document}:{self.line}: {self.text}"


def documented_commands() -> list[Documented]:
    """All of them, in reading order."""
    return [command for document in DOCUMENTS for command in _commands_of(document)]


def _commands_of(document: Path) -> Iterator[Documented]:
    name = str(document.relative_to(ROOT))
    fence: str | None = None
    needs = ""
    for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), start=1):
        if found := _NEEDS.search(line):
            needs = found[1]
            continue
        opened = _FENCE.match(line)
        if opened:
            if fence is not None:
                needs = ""
            fence = None if fence is not None else opened[1]
            continue
        is_block = fence in _SHELL if fence is not None else line.startswith("    ")
        if fence is not None and not is_block:
            continue
        if not line.strip() and fence is None:
            needs = ""
        of_line = _LINE_NEEDS.search(line)
        texts = [_without_comment(line)] if is_block else _SPAN.findall(line)
        for text in texts:
            if _ASSIGNMENT.sub("", text).partition(" ")[0] in PROGRAMS and " " in text:
                yield Documented(
                    document=name, line=number, text=text, needs=of_line[1] if of_line else needs, is_block=is_block
                )


def _without_comment(line: str) -> str:
    return re.sub(r"\s+#( .*)?$", "", line).strip().removeprefix("$ ")
