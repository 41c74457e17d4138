"""The deployment files are what Ray and Kubernetes accept, as far as that can be seen without a cluster."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import yaml

from tests.architecture.sources import ROOT

CLUSTER = ROOT / "ray_cluster.yaml"
LOCKED = dict(
    re.findall(r"^([\w.-]+)==([\w.]+)$", (ROOT / "requirements" / "cpu.lock").read_text(), flags=re.MULTILINE)
)


def _cluster() -> dict[str, Any]:
    loaded = yaml.safe_load(CLUSTER.read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def test_ray_accepts_the_cluster_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(_cluster()))


def test_the_head_is_on_demand_and_the_gpu_pool_is_spot() -> None:
    cluster = _cluster()
    types = cluster["available_node_types"]
    head = types[cluster["head_node_type"]]
    assert "InstanceMarketOptions" not in head["node_config"]
    assert head["resources"]["CPU"] == 0, "the head runs no tasks"
    gpu_types = [node for node in types.values() if node["resources"].get("GPU")]
    assert gpu_types
    for node in gpu_types:
        assert node["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
        assert node["docker"]["worker_image"].endswith("-gpu")
    cpu_only = [n for n in types.values() if not n["resources"].get("GPU") and n["resources"]["CPU"]]
    assert cpu_only, "ingest needs a pool of its own"


def test_node_limits_are_consistent() -> None:
    cluster = _cluster()
    for name, node in cluster["available_node_types"].items():
        assert 0 <= node["min_workers"] <= node["max_workers"] <= cluster["max_workers"], name
    assert sum(n["max_workers"] for n in cluster["available_node_types"].values()) <= cluster["max_workers"]


def test_images_carry_the_locked_ray_version() -> None:
    cluster = _cluster()
    images = [cluster["docker"]["image"]]
    images += [n["docker"]["worker_image"] for n in cluster["available_node_types"].values() if "docker" in n]
    assert all(image.split(":")[1].startswith(LOCKED["ray"] + "-py311") for image in images), images


def test_token_auth_is_set_wherever_ray_starts() -> None:
    cluster = _cluster()
    starts = [
        command
        for key in ("head_start_ray_commands", "worker_start_ray_commands")
        for command in cluster[key]
        if "ray start" in command
    ]
    assert len(starts) == 2 and all("RAY_AUTH_MODE=token" in command for command in starts)
    assert "/home/ray/.ray/auth_token" in cluster["file_mounts"]


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
