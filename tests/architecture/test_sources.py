"""Sizes, leftovers and layout: the habits of docs/architecture.md that a machine can check."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.architecture.sources import ROOT, product_sources, sources_of_tests

MOST_FILE_LINES = 400
MOST_FUNCTION_LINES = 60

# Files and functions over the limit, with the reason. The list may only shrink.
LONG_FILES: dict[str, str] = {}
LONG_FUNCTIONS: dict[str, str] = {}

TOP_LEVEL = ("pipelines", "vamba", "jobs", "infra", "tests", "docs", "ray_cluster.yaml", "pyproject.toml", "Makefile")
TOP_LEVEL += ("README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", ".ci/run")

# Spelled apart, so that this file does not find itself. /home/ray and /home/vamba are folders of container images.
LEFTOVERS = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b|Not" r"ImplementedError")
MACHINE_PATHS = re.compile(r"(?<![\w.])/(wor" r"k|farm|home/(?!ray/|vamba\b)\w+|Users/\w+)/")
TEXT_SUFFIXES = {".py", ".md", ".yaml", ".yml", ".toml", ".sh", ".lock", ".json", ".cfg", ".txt", ""}


def test_files_stay_short() -> None:
    lengths = {str(source.path): source.text.count("\n") for source in (*product_sources(), *sources_of_tests())}
    long = {path: lines for path, lines in lengths.items() if lines > MOST_FILE_LINES}
    assert set(long) == set(LONG_FILES), f"files over {MOST_FILE_LINES} lines: {long}; excepted: {sorted(LONG_FILES)}"


def test_functions_stay_short() -> None:
    long = {}
    for source in (*product_sources(), *sources_of_tests()):
        for node in ast.walk(source.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MOST_FUNCTION_LINES:
                    long[f"{source.path}:{node.name}"] = lines
    assert set(long) == set(LONG_FUNCTIONS), f"functions over {MOST_FUNCTION_LINES} lines: {long}"


def test_every_file_says_what_it_is_for() -> None:
    silent = [str(source.path) for source in product_sources() if not ast.get_docstring(source.tree)]
    assert not silent, f"no docstring at the top of: {silent}"


def test_there_is_no_utils_module() -> None:
    vague = {"utils.py", "util.py", "helpers.py", "common.py", "misc.py"}
    found = [str(source.path) for source in product_sources() if source.path.name in vague]
    assert not found, f"name these after what they hold: {found}"


def test_nothing_unfinished_is_left() -> None:
    found = [
        f"{source.path}:{number}: {line.strip()}"
        for source in (*product_sources(), *sources_of_tests())
        for number, line in enumerate(source.text.splitlines(), start=1)
        if LEFTOVERS.search(line)
    ]
    assert not found, "\n".join(found)


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}"
        for path in _text_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if MACHINE_PATHS.search(line)
    ]
    assert not found, "\n".join(found)


def test_the_top_level_is_complete() -> None:
    missing = [name for name in TOP_LEVEL if not (ROOT / name).exists()]
    assert not missing, f"missing at the top level: {missing}"


def _text_files() -> list[Path]:
    rooms = ("pipelines", "vamba", "jobs", "infra", "tests", "docs", "scripts", "requirements", ".ci")
    files = [path for path in ROOT.glob("*") if path.is_file()]
    for room in rooms:
        files += [path for path in (ROOT / room).rglob("*") if path.is_file()]
    return [path for path in files if path.suffix in TEXT_SUFFIXES and "__pycache__" not in path.parts]
