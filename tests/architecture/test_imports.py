"""Which room may import which, and what a light process must never load. docs/architecture.md explains the table."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib

import pytest

from tests.architecture.sources import ROOMS, ROOT, Source, is_within, product_sources

KERNEL_PACKAGES = ("mamba_ssm", "causal_conv1d", "flash_attn", "triton")

_ABOVE_DATA = ("vamba.model", "vamba.streaming", "vamba.hf", "vamba.parallel", "vamba.train")

# (where, what it never imports, not even inside a function)
FORBIDDEN = [
    ("vamba", ("ray", "mlflow", "pyarrow", "pipelines", "jobs")),
    ("pipelines", ("jobs",)),
    # A layer of vamba imports only what stands to its left: data, ops -> model -> streaming -> hf, or streaming ->
    # parallel -> train. Only hf knows transformers: the rest trains and encodes with torch alone.
    ("vamba.data", (*_ABOVE_DATA, "transformers")),
    ("vamba.ops", ("vamba.data", *_ABOVE_DATA, "transformers")),
    ("vamba.model", ("vamba.streaming", "vamba.hf", "vamba.parallel", "vamba.train", "transformers")),
    ("vamba.streaming", ("vamba.hf", "vamba.parallel", "vamba.train", "transformers")),
    ("vamba.hf", ("vamba.parallel", "vamba.train")),
    ("vamba.parallel", ("vamba.hf", "vamba.train", "transformers")),
    ("vamba.train", ("vamba.hf", "transformers")),
]

# The shard contract, which every decode worker loads: the standard library, numpy, and itself.
LIGHT_CONTRACT = ("vamba.data.sample", "vamba.data.manifest", "vamba.data.sampling")

# Loaded in the decode workers, where each of these costs seconds and hundreds of megabytes.
HEAVY = ("torch", "webdataset", "transformers", "mlflow")


@pytest.mark.parametrize(("where", "never"), FORBIDDEN, ids=[where for where, _ in FORBIDDEN])
def test_a_room_never_imports_what_lies_above_it(where: str, never: tuple[str, ...]) -> None:
    wrong = [
        f"{source.path}:{found.line} imports {found.name}"
        for source in product_sources()
        if is_within(source.module, where)
        for found in source.imports()
        if any(is_within(found.name, name) for name in never)
    ]
    assert not wrong, f"{where} must not import {', '.join(never)}:\n" + "\n".join(wrong)


def test_kernel_packages_are_imported_only_in_ops() -> None:
    wrong = [
        f"{source.path}:{found.line} imports {found.name}"
        for source in product_sources()
        if not is_within(source.module, "vamba.ops")
        for found in source.imports()
        if any(is_within(found.name, name) for name in KERNEL_PACKAGES)
    ]
    assert not wrong, "only vamba/ops may import kernel packages:\n" + "\n".join(wrong)


def test_the_shard_contract_needs_only_the_standard_library_and_numpy() -> None:
    allowed = {*sys.stdlib_module_names, "numpy"}
    wrong = [
        f"{source.path}:{found.line} imports {found.name}"
        for source in product_sources()
        if source.module in LIGHT_CONTRACT
        for found in source.imports()
        if found.name.partition(".")[0] not in allowed
        and not any(is_within(found.name, module) for module in ("vamba.data", *LIGHT_CONTRACT))
    ]
    assert not wrong, "the shard contract must stay light:\n" + "\n".join(wrong)
    assert {s.module for s in product_sources()} >= set(LIGHT_CONTRACT)


def test_ingest_modules_load_nothing_heavy() -> None:
    """Statically, through every module of the project that an ingest module loads."""
    wrong = []
    for source in product_sources():
        if is_within(source.module, "pipelines.ingest"):
            wrong += [f"{source.path} loads {chain}" for chain in _heavy_chains(source)]
    assert not wrong, "a decode worker would load these:\n" + "\n".join(wrong)


def test_package_init_files_hold_only_a_docstring() -> None:
    wrong = [
        str(source.path)
        for source in product_sources()
        if source.path.name == "__init__.py" and not _is_docstring_only(source.tree)
    ]
    assert not wrong, "an __init__.py is executed by every import below it; keep it empty:\n" + "\n".join(wrong)


def test_help_loads_nothing_heavy() -> None:
    """`vamba --help` must answer at once, so it may load none of the packages that take seconds."""
    program = (
        "import json, sys\n"
        "from jobs.cli.main import main\n"
        "sys.argv = ['vamba', '--help']\n"
        "try:\n    main()\n"
        "except SystemExit:\n    pass\n"
        "print('\\n' + json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert "ingest" in done.stdout and "train" in done.stdout, done.stdout
    loaded = set(json.loads(done.stdout.strip().splitlines()[-1]))
    heavy = loaded & {*HEAVY, "ray", "pyarrow", "pandas", "numpy", "matplotlib", "av"}
    assert not heavy, f"`vamba --help` loads {sorted(heavy)}"


def test_every_imported_package_is_declared() -> None:
    """A package that is only there because another one needs it disappears with the other one's next release."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    # What no resolver puts beside the rest stands in a lock of its own.
    apart = [
        line for line in (ROOT / "requirements/lmms-eval.lock").read_text().splitlines() if not line.startswith("#")
    ]
    optional = [text for name in ("gpu", "lora", "lmms-eval") for text in extras[name]]
    declared = {_import_name(text) for text in [*project["dependencies"], *optional, *apart]}
    wrong = sorted(
        {
            f"{source.path}:{found.line} imports {top}, which pyproject.toml does not declare"
            for source in product_sources()
            for found in source.imports()
            if (top := found.name.partition(".")[0]) not in {*sys.stdlib_module_names, *ROOMS, *declared}
        }
    )
    assert not wrong, "\n".join(wrong)


def _heavy_chains(source: Source) -> list[str]:
    by_module = {s.module: s for s in product_sources()}
    chains, seen, todo = [], {source.module}, [(source, source.module)]
    while todo:
        current, chain = todo.pop()
        for found in current.imports():
            if not found.at_module_level:
                continue
            if any(is_within(found.name, name) for name in HEAVY):
                chains.append(f"{found.name} ({chain})")
            elif found.name in by_module and found.name not in seen:
                seen.add(found.name)
                todo.append((by_module[found.name], f"{chain} -> {found.name}"))
    return chains


def _is_docstring_only(tree: ast.Module) -> bool:
    return all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in tree.body)


def _import_name(requirement: str) -> str:
    """The name a distribution is imported by."""
    name = re.split(r"[^A-Za-z0-9-]", requirement, maxsplit=1)[0].lower()
    differing = {"ffmpeg-python": "ffmpeg", "pillow": "PIL", "pyyaml": "yaml"}
    return differing.get(name, name.replace("-", "_"))
