"""The renderer gives what `kubectl kustomize` gives, for every folder, and refuses what it doesn't know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.submission.kustomize import render
from tests.infra.kustomized import KUBERAY, every_folder, rendered


def _by_name(objects: Any) -> dict[tuple[str, str], Any]:
    return {(item["kind"], item["metadata"]["name"]): item for item in objects}


@pytest.mark.parametrize("folder", every_folder())
def test_it_renders_what_kubectl_renders(folder: str) -> None:
    assert _by_name(render(KUBERAY / folder)) == _by_name(rendered(folder))


@pytest.mark.parametrize(
    ("kustomization", "message"),
    [
        ({"images": [{"name": "vamba", "newTag": "2"}]}, "images is not known"),
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
