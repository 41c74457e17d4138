"""Every object that the Kustomize folders render has the fields, and the types, that its API knows."""

from __future__ import annotations

import copy

import kubernetes_validate
import pytest
import yaml

from tests.infra.kustomized import JOBS, KUBERAY, OVERLAYS, every_folder, ray_job, rendered
from tests.infra.schema_check import check_object
from tests.infra.strict_fields import unknown_fields

# The oldest release of Kubernetes that the files are checked for, and the newest that the package knows.
VERSIONS = ("1.30", "1.37")
ROOTS = ["queue", *(f"overlays/{name}" for name in OVERLAYS)]
FOLDERS = [*ROOTS, *(f"overlays/{overlay}/{job}" for overlay in OVERLAYS for job in JOBS)]


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_object_has_the_fields_that_its_api_knows(folder: str) -> None:
    for item in rendered(folder):
        check_object(item, VERSIONS[0])


def test_the_newest_api_takes_them_too() -> None:
    for folder in (*ROOTS, "overlays/dev/ingest", "overlays/spot/train"):
        for item in rendered(folder):
            check_object(item, VERSIONS[1])


def test_the_checks_find_what_they_are_for() -> None:
    job = copy.deepcopy(ray_job("spot", "train"))
    job["spec"]["backofLimit"] = 3
    job["spec"]["rayClusterSpec"]["workerGroupSpecs"][1]["minReplicas"] = "0"
    job["spec"]["rayClusterSpec"]["gcsFaultToleranceOptions"]["redisAdress"] = "x"
    assert sorted(text.split(":")[0] for text in unknown_fields(job)) == [
        "RayJob.spec.backofLimit",
        "RayJob.spec.rayClusterSpec.gcsFaultToleranceOptions.redisAdress",
        "RayJob.spec.rayClusterSpec.workerGroupSpecs[1].minReplicas",
    ]
    (server,) = (item for item in rendered("overlays/prod") if item["kind"] == "Deployment")
    broken = copy.deepcopy(server)
    broken["spec"]["template"]["spec"]["containers"][0]["readOnlyRootFilesystem"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[0], strict=True)


def test_every_folder_builds() -> None:
    folders = every_folder()
    assert set(FOLDERS) < set(folders)
    for folder in folders:
        assert rendered(folder)


def test_no_file_is_left_out() -> None:
    used: set[str] = set()
    for file in KUBERAY.rglob("kustomization.yaml"):
        loaded = yaml.safe_load(file.read_text(encoding="utf-8"))
        named = [*loaded.get("resources", []), *loaded.get("components", [])]
        named += [patch["path"] for patch in loaded.get("patches", []) if "path" in patch]
        used |= {str((file.parent / name).resolve()) for name in named}
    others = [path for path in KUBERAY.rglob("*.yaml") if path.name != "kustomization.yaml"]
    assert not [str(path) for path in others if str(path.resolve()) not in used]
