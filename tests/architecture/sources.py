"""What the architecture tests look at: the project's Python files, parsed once, and the imports found in them."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("vamba", "pipelines", "jobs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One imported module: its dotted name, the line, and whether it is loaded together with the importing module."""

    name: str
    line: int
    at_module_level: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One Python file: its path relative to the root, its dotted module name, its text and its syntax tree."""

    path: Path
    module: str
    text: str
    tree: ast.Module

    def imports(self) -> Iterator[Import]:
        """Every import in the file, those under `if TYPE_CHECKING:` left out: they are never executed."""
        yield from _imports(self.tree.body, package=self.module.rpartition(".")[0], at_module_level=True)


@functools.cache
def product_sources() -> tuple[Source, ...]:
    """The files of the three rooms."""
    return tuple(_read(path) for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")))


@functools.cache
def sources_of_tests() -> tuple[Source, ...]:
    return tuple(_read(path) for path in sorted((ROOT / "tests").rglob("*.py")))


def is_within(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(prefix + ".")


def _read(path: Path) -> Source:
    relative = path.relative_to(ROOT)
    parts = relative.with_suffix("").parts
    module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    text = path.read_text(encoding="utf-8")
    return Source(path=relative, module=module, text=text, tree=ast.parse(text, filename=str(relative)))


def _imports(body: list[ast.stmt], *, package: str, at_module_level: bool) -> Iterator[Import]:
    for node in body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(name=alias.name, line=node.lineno, at_module_level=at_module_level)
        elif isinstance(node, ast.ImportFrom):
            # `from a import b` may load the module a.b, so both names are reported.
            base = ".".join(filter(None, [package if node.level else "", node.module or ""]))
            yield Import(name=base, line=node.lineno, at_module_level=at_module_level)
            for alias in node.names:
                yield Import(name=f"{base}.{alias.name}", line=node.lineno, at_module_level=at_module_level)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _imports(node.orelse, package=package, at_module_level=at_module_level)
        else:
            inner = at_module_level and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            for block in _blocks(node):
                yield from _imports(block, package=package, at_module_level=inner)


def _blocks(node: ast.stmt) -> Iterator[list[ast.stmt]]:
    for field in ("body", "orelse", "finalbody"):
        block = getattr(node, field, None)
        if isinstance(block, list):
            yield block
    for handler in getattr(node, "handlers", []):
        yield handler.body
    for case in getattr(node, "cases", []):
        yield case.body
