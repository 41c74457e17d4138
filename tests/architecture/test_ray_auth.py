"""Every place that starts or joins Ray says whether a token is asked for. Ray would else go by whether some token file
lies in the home directory, and a job that ran yesterday fails today."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import yaml

from tests.architecture.sources import ROOT, product_sources

# What starts or joins Ray in Python, and the one file in which each may stand; that file calls `set_auth_mode` first.
_ENTRANCES = {"init": "pipelines/ray_session.py", "JobSubmissionClient": "jobs/submission/ray_cluster.py"}
_STARTS = re.compile(r"\bray start --|worker\.py (?:aws|gcp|none)|\bray, start\b")
_SETS_MODE = re.compile(r"\bRAY_AUTH_MODE[=:] ?\"?(?:token|disabled)\b")


def test_the_product_enters_ray_where_the_mode_is_set() -> None:
    found: dict[str, set[str]] = {name: set() for name in _ENTRANCES}
    for source in product_sources():
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                if name == "ray.init" or name.endswith("JobSubmissionClient"):
                    found[name.rpartition(".")[2]].add(str(source.path))
    assert found == {name: {place} for name, place in _ENTRANCES.items()}
    for place in _ENTRANCES.values():
        assert "set_auth_mode(joins=" in (ROOT / place).read_text(encoding="utf-8"), place


def test_every_command_of_a_cluster_that_starts_ray_sets_the_mode() -> None:
    files = [ROOT / "ray_cluster.yaml", *(ROOT / "infra" / "ray").glob("*.yaml")]
    seen = 0
    for file in files:
        for command in _commands(yaml.safe_load(file.read_text(encoding="utf-8"))):
            if _STARTS.search(command):
                seen += 1
                assert _SETS_MODE.search(command), f"{file.name}: {command}"
    assert seen == 2 * len(files), "a head and a worker each"


def test_kubernetes_images_compose_and_skypilot_set_the_mode() -> None:
    settings = (ROOT / "infra/kuberay/base/platform/settings.yaml").read_text(encoding="utf-8")
    job = yaml.safe_load((ROOT / "infra/kuberay/base/job/rayjob.yaml").read_text(encoding="utf-8"))
    assert _SETS_MODE.search(settings) and job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    dockerfile = (ROOT / "infra/docker/Dockerfile").read_text(encoding="utf-8")
    assert len(_SETS_MODE.findall(dockerfile)) == 2, "the CPU image and the GPU image"
    services = yaml.safe_load((ROOT / "infra/docker/compose.yaml").read_text(encoding="utf-8"))["services"]
    for name, service in services.items():
        if "ray" in service.get("command", ()):
            assert service["environment"]["RAY_AUTH_MODE"] == "token", name
    task = yaml.safe_load((ROOT / "infra/sky/job.yaml").read_text(encoding="utf-8"))
    assert task["envs"]["RAY_AUTH_MODE"] == "token" and task["secrets"] == {"RAY_AUTH_TOKEN": None}


def test_no_file_that_starts_ray_is_missed() -> None:
    looked_at = {"ray_cluster.yaml", "infra/ray/gcp.yaml", "infra/ray/onprem.yaml", "infra/ray/worker.py"}
    looked_at |= {"infra/sky/job.yaml", "infra/docker/compose.yaml"}
    places = [ROOT / "ray_cluster.yaml", ROOT / "Makefile", *(ROOT / "scripts").glob("*.sh")]
    places += [path for path in (ROOT / "infra").rglob("*") if path.is_file() and path.suffix != ".md"]
    starts = {str(path.relative_to(ROOT)) for path in places if _STARTS.search(_text(path))}
    assert starts <= looked_at, "say there which mode, and add it here"


def test_tests_set_the_mode_before_ray_is_imported() -> None:
    assert '"RAY_AUTH_MODE": "token"' in _text(ROOT / "tests" / "conftest.py")


def test_documents_that_start_ray_set_the_mode_first() -> None:
    for document in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "infra").rglob("*.md")]):
        for block in re.findall(r"```bash\n(.*?)```", _text(document), flags=re.DOTALL):
            starts = re.search(r"^ray (?:start|up)\b", block, flags=re.MULTILINE)
            if starts:
                assert _SETS_MODE.search(block[: starts.start()]), f"{document.name}: {block}"


def _commands(loaded: dict[str, Any]) -> list[str]:
    return [text for name, value in loaded.items() if name.endswith("_start_ray_commands") for text in value]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
