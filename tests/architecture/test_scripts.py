"""The shell scripts parse, and what the first of them starts from is what the locks name."""

from __future__ import annotations

import subprocess

from tests.architecture.sources import ROOT
from tests.infra.locks import LOCKED

CLUSTERS = (ROOT / "ray_cluster.yaml", ROOT / "infra" / "ray" / "gcp.yaml", ROOT / "infra" / "ray" / "onprem.yaml")


def test_the_bundled_pip_is_the_locked_one() -> None:
    (wheel,) = (ROOT / "scripts" / "bootstrap").glob("pip-*.whl")
    assert wheel.name == f"pip-{LOCKED['pip']}-py3-none-any.whl"
    assert all(wheel.name in cluster.read_text(encoding="utf-8") for cluster in CLUSTERS)


def test_shell_scripts_parse() -> None:
    for script in (*sorted((ROOT / "scripts").glob("*.sh")), ROOT / ".ci" / "run"):
        subprocess.run(["bash", "-n", str(script)], check=True, timeout=20)
