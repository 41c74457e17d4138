"""The renderer gives what `kubectl kustomize` gives, for every folder, and refuses what it doesn't know."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.submission.kustomize import render
from tests.infra.kustomized import KUBERAY, every_folder, installed, rendered


def _by_name(objects: Any) -> dict[tuple[str, str], Any]:
    return {(item["kind"], item["metadata"]["name"]): item for item in objects}


@pytest.mark.parametrize("folder", every_folder())
def test_it_renders_what_kubectl_renders(folder: str) -> None:
    assert _by_name(render(KUBERAY / folder)) == _by_name(rendered(folder))


@pytest.mark.parametrize(
    "entry",
    [
        {"name": "vamba", "newName": "registry.example.com/team/vamba"},
        {"name": "vamba", "newTag": "2.0-gpu"},
        {"name": "vamba", "newName": "localhost:5000/vamba", "digest": f"sha256:{'a' * 64}"},
        {"name": "vam", "newName": "other"},
    ],
)
def test_a_registry_of_ones_own_is_named_as_the_readme_says(tmp_path: Path, entry: dict[str, str]) -> None:
    copy = tmp_path / "kuberay"
    shutil.copytree(KUBERAY, copy)
    for place in ("overlays/prod", "overlays/prod/jobs"):
        file = copy / place / "kustomization.yaml"
        file.write_text(file.read_text() + yaml.safe_dump({"images": [entry]}))
    for folder in ("overlays/prod", "overlays/prod/train", "overlays/spot/ingest"):
        done = subprocess.run(
            [installed("kubectl"), "kustomize", str(copy / folder)], capture_output=True, text=True, check=True
        )
        assert _by_name(render(copy / folder)) == _by_name(yaml.safe_load_all(done.stdout))
    (job,) = (item for item in render(copy / "overlays/spot/train") if item["kind"] == "RayJob")
    image = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["image"]
    assert (image == "vamba:0.1.0-gpu") == (entry["name"] == "vam")


@pytest.mark.parametrize(
    ("kustomization", "message"),
    [
        ({"replicas": [{"name": "vamba", "count": 2}]}, "replicas is not known"),
        ({"patches": [{"target": {"kind": "Pod"}, "patch": "spec: {}"}]}, "not a list of operations"),
        ({"patches": [{"target": {"labelSelector": "a=b"}, "patch": "[]"}]}, "labelSelector is not known"),
        ({"patches": [{"target": {"kind": "Pod"}, "patch": "[{op: move, path: /spec}]"}]}, "'move' is not known"),
        ({"patches": [{"target": {"kind": "Pod"}, "patch": "[{op: replace, path: /spec/a/b, value: 1}]"}]}, "nothing"),
        ({"patches": [{"target": {"kind": "Pod"}, "patch": "[{op: remove, path: /spec/c/3}]"}]}, "finds nothing"),
    ],
)
def test_what_it_does_not_know_is_refused(tmp_path: Path, kustomization: dict[str, Any], message: str) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"c": []}}
    (tmp_path / "pod.yaml").write_text(yaml.safe_dump(pod))
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump({"resources": ["pod.yaml"], **kustomization}))
    with pytest.raises(ValueError, match=message):
        render(tmp_path)
