"""Nothing that the product ships can be made to run code by the file that it reads: found in the sources themselves."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.sources import ROOT, product_sources

# Where a pickle is read on purpose, and what keeps it harmless. The list may only shrink.
ALLOWED = {
    ("pipelines/ingest/sandbox_child.py", "pickle.loads"): "requests of its own parent, over a pipe",
}
_BUILDERS = ("pickle", "_pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib")
FORBIDDEN = {
    *(f"{module}.{name}" for module in _BUILDERS for name in ("load", "loads", "open", "Unpickler")),
    *("eval", "exec", "os.system", "os.popen", "pandas.read_pickle", "pd.read_pickle", "torch.jit.load"),
    *("yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "yaml.unsafe_load_all", "shutil.unpack_archive"),
    *("xml.dom.minidom.parse", "xml.sax.parse"),
}


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    for source in product_sources():
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Call):
                yield str(source.path), ast.unparse(node.func), node


def problem_of(name: str, call: ast.Call) -> str:
    """Why a call may run code that a file carries; "" if it can't."""
    words = {word.arg: ast.unparse(word.value) for word in call.keywords}
    if name in FORBIDDEN:
        return f"{name} runs or builds what its input says"
    if name.endswith("torch.load") and words.get("weights_only") != "True":
        return "torch.load without weights_only=True"
    if name == "yaml.load" and not words.get("Loader", "").endswith(("SafeLoader", "_CoreLoader")):
        return "yaml.load without a safe loader"
    if words.get("allow_pickle", "False") != "False":
        return "numpy with allow_pickle"
    if words.get("shell", "False") != "False":
        return "a shell reads its arguments"
    if name.rpartition(".")[2] in ("extract", "extractall") and "filter" not in words:
        return "an archive is unpacked without a filter"
    if words.get("trust_remote_code", "False") != "False":
        return "transformers would run a model's code"
    return ""


def test_no_file_can_run_code() -> None:
    found = {
        f"{path}:{call.lineno}: {problem}"
        for path, name, call in calls()
        if (problem := problem_of(name, call)) and (path, name) not in ALLOWED
    }
    assert not found, "\n".join(sorted(found))


def test_the_exceptions_are_still_there() -> None:
    assert {(path, name) for path, name, _ in calls()} >= set(ALLOWED)


@pytest.mark.parametrize(
    "code",
    [
        "pickle.load(file)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "yaml.load(text, Loader=yaml.Loader)",
        "numpy.load(path, allow_pickle=True)",
        "subprocess.run(command, shell=True)",
        "archive.extractall(folder)",
        "eval(text)",
        "AutoModel.from_pretrained(path, trust_remote_code=True)",
    ],
)
def test_it_would_be_found(code: str) -> None:
    (statement,) = ast.parse(code).body
    assert isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
    assert problem_of(ast.unparse(statement.value.func), statement.value)


def test_subclasses_of_unpickler_say_what_they_build() -> None:
    for source in product_sources():
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ClassDef) and any("Unpickler" in ast.unparse(base) for base in node.bases):
                assert "find_class" in {item.name for item in node.body if isinstance(item, ast.FunctionDef)}, (
                    source.path
                )


def test_shipped_shell_scripts_evaluate_nothing() -> None:
    scripts = [*sorted((ROOT / "scripts").glob("*.sh")), ROOT / ".ci" / "run"]
    assert not [path for path in scripts if re.search(r"(?<![\w-])eval\s", Path(path).read_text(encoding="utf-8"))]
