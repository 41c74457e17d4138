"""The deployment files are what Ray and Kubernetes accept, as far as that can be seen without a cluster."""

from __future__ import annotations

import re
import subprocess

from tests.architecture.sources import ROOT

CLUSTER = ROOT / "ray_cluster.yaml"
LOCKED = dict(
    re.findall(r"^([\w.-]+)==([\w.]+)$", (ROOT / "requirements" / "cpu.lock").read_text(), flags=re.MULTILINE)
)


def test_the_dockerfile_is_pinned_and_ends_without_root() -> None:
    text = (ROOT / "infra" / "docker" / "Dockerfile").read_text(encoding="utf-8")
    stages = re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]
    final = {stage.split("\n")[0].split(" AS ")[1]: stage for stage in stages}
    assert {"cpu", "gpu"} <= set(final)
    for name in ("cpu", "gpu"):
        users = re.findall(r"^USER (.+)$", final[name], flags=re.MULTILINE)
        assert users and users[-1] == "1000:1000"
    images = re.findall(r"^(?:FROM|ARG \w+_IMAGE=)(?: |)([\w./-]+:[\w.-]+)", text, flags=re.MULTILINE)
    assert images and not any(image.endswith(":latest") for image in images)
    assert set(re.findall(r"torch==([\d.]+)", text)) == {LOCKED["torch"]}


def test_the_bundled_pip_is_the_locked_one() -> None:
    (wheel,) = (ROOT / "scripts" / "bootstrap").glob("pip-*.whl")
    assert wheel.name == f"pip-{LOCKED['pip']}-py3-none-any.whl"
    assert wheel.name in CLUSTER.read_text(encoding="utf-8")


def test_shell_scripts_parse() -> None:
    for script in (ROOT / "scripts" / "setup.sh", ROOT / ".ci" / "run"):
        subprocess.run(["bash", "-n", str(script)], check=True, timeout=20)
