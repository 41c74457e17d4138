"""Images and the workstation's cluster: pinned, without root, with the project's own versions."""

from __future__ import annotations

import http.server
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.architecture.sources import ROOT
from tests.infra.kustomized import JOBS, OVERLAYS, installed, ray_job, rendered, templates
from tests.infra.locks import LOCKED, lock

DOCKER = ROOT / "infra" / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
TARGETS = ("cpu", "gpu", "mlflow")


def _stages() -> dict[str, str]:
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
    return {stage.split("\n")[0].split(" AS ")[1]: stage for stage in stages}


def _version() -> str:
    (version,) = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    return version


def test_the_linter_finds_nothing() -> None:
    done = subprocess.run(
        [installed("hadolint"), "--config", str(DOCKER / "hadolint.yaml"), str(DOCKER / "Dockerfile")],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0 and not done.stdout, done.stdout + done.stderr


def test_images_are_pinned() -> None:
    images = re.findall(r"^ARG \w+_IMAGE=(.+)$", DOCKERFILE, flags=re.MULTILINE)
    assert len(images) == 3 and all(re.fullmatch(r"[\w./-]+:\d[\w.-]*\d[\w.-]*", image) for image in images)
    sources = re.findall(r"^FROM (\S+)", DOCKERFILE, flags=re.MULTILINE)
    assert all(source.startswith("${") or source in _stages() for source in sources)


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_ends_without_root_and_says_what_it_is(target: str) -> None:
    stage = _stages()[target]
    assert re.findall(r"^USER (.+)$", stage, flags=re.MULTILINE)[-1] == "1000:1000"
    assert "HEALTHCHECK" in stage and "/usr/share/vamba/health.py" in stage
    inherited = stage + (_stages()["cpu"] if target == "mlflow" else "")
    for label in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in inherited
    assert " wget" in inherited, "KubeRay asks by wget whether Ray is well"


def test_packages_are_those_of_the_locks() -> None:
    stages = _stages()
    assert "-r requirements/cpu.lock" in stages["cpu-packages"]
    for name in ("cpu", "gpu", "gpu-kernels"):
        assert f"-r requirements/{name}.lock" in stages["gpu-packages"]
    assert set(re.findall(r"torch==([\d.]+)", DOCKERFILE)) == {LOCKED["torch"]}
    assert all("--no-deps" in line for line in DOCKERFILE.splitlines() if "pip install" in line and "RUN" in line)
    (wanted,) = re.findall(r"grep -E '\^\(([\w|-]+)\)==' /tmp/dev.lock", DOCKERFILE)
    assert set(wanted.split("|")) <= set(lock("dev")), "what the MLflow server needs stands in dev.lock"
    assert re.search(r"^ARG CAUSAL_CONV1D=\d+\.\d+", DOCKERFILE, flags=re.MULTILINE)
    assert all(re.search(rf"^{name}==\S+$", (ROOT / "requirements/gpu-kernels.lock").read_text(), re.MULTILINE)
               for name in ("flash-attn", "mamba-ssm"))  # fmt: skip
    assert 'TORCH_CUDA_ARCH_LIST="8.0;9.0"' in DOCKERFILE and 'FLASH_ATTN_CUDA_ARCHS="80;90"' in DOCKERFILE


def test_what_is_copied_is_let_through() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert lines[0] == "*", "only what is named goes to the builder"
    for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, flags=re.MULTILINE):
        for source in line.split():
            assert (ROOT / source).exists(), source
            assert source in allowed or source.split("/")[0] in allowed, source


def test_the_files_name_images_that_are_built() -> None:
    built = {f"vamba:{_version()}-{target}" for target in TARGETS}
    items = [item for overlay in OVERLAYS for item in rendered(f"overlays/{overlay}")]
    items += [ray_job(overlay, job) for overlay in OVERLAYS for job in JOBS]
    used = {c["image"] for item in items for _, t in templates(item) for c in t["spec"]["containers"]}
    used |= {service["image"] for service in _compose()["services"].values()}
    assert {image for image in used if image.startswith("vamba:")} == built
    assert all(re.search(r":v?\d+\.\d+", image) for image in used), f"an image without an exact version: {used}"


def _secrets() -> dict[str, str]:
    names = re.findall(r"^([A-Z0-9_]+)=$", (DOCKER / "compose.env.example").read_text(), flags=re.MULTILINE)
    return {name: f"value-of-{name.lower()}" for name in names}


def _config(tmp_path: Path, secrets: dict[str, str]) -> subprocess.CompletedProcess[str]:
    file = tmp_path / "compose.env"
    file.write_text("".join(f"{name}={value}\n" for name, value in secrets.items()))
    command = [installed("docker-compose"), "--env-file", str(file), "-f", str(DOCKER / "compose.yaml"), "config"]
    environment = {name: value for name, value in os.environ.items() if name not in _secrets()}
    return subprocess.run([*command, "--format", "json"], env=environment, capture_output=True, text=True, timeout=60)


def _compose() -> dict[str, Any]:
    loaded = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def test_compose_takes_the_file_and_refuses_to_go_without_a_secret(tmp_path: Path) -> None:
    done = _config(tmp_path, _secrets())
    assert done.returncode == 0 and not done.stderr, done.stderr
    services = json.loads(done.stdout)["services"]
    assert set(services) == {"s3", "buckets", "postgres", "mlflow", "ray", "prometheus", "grafana"}
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"], name
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", [])), (
            f"{name} is reached from outside"
        )
        for volume in service.get("volumes", []):
            if volume["type"] == "bind" and volume["target"] != "/videos":
                assert Path(volume["source"]).exists(), volume
    refused = _config(tmp_path, {})
    assert refused.returncode != 0 and all(f"variable {name} is missing" in refused.stderr for name in _secrets())


def test_no_secret_has_a_default() -> None:
    text = (DOCKER / "compose.yaml").read_text(encoding="utf-8")
    named = set(re.findall(r"\$\{(\w+):\?", text))
    assert named == set(_secrets())
    assert re.findall(r"\$\{(\w+)(?!:\?)[:}-]", text) == ["VIDEOS"]


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1), (None, 1)])
def test_a_health_check_says_what_the_server_says(status: int | None, code: int) -> None:
    url = "http://127.0.0.1:9/health"
    if status is not None:

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.handle_request, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/health"
    assert subprocess.run([sys.executable, str(DOCKER / "health.py"), url], timeout=60).returncode == code


def test_a_container_without_ray_is_well_and_one_whose_raylet_is_gone_is_not(tmp_path: Path) -> None:
    command = [sys.executable, str(DOCKER / "health.py")]
    environment = {**os.environ, "RAY_TMPDIR": str(tmp_path), "VAMBA_RAYLET_HEALTH": "http://127.0.0.1:9/"}
    assert subprocess.run(command, env=environment, timeout=60).returncode == 0
    (tmp_path / "ray" / "session_latest").mkdir(parents=True)
    assert subprocess.run(command, env=environment, timeout=60).returncode == 1
