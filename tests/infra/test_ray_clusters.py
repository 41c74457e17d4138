"""`ray_cluster.yaml` and its variants, by Ray's schema, the clouds' request shapes, and lints for what both miss."""

from __future__ import annotations

import functools
import gzip
import json
import re
import shlex
import shutil
import subprocess
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.architecture.sources import ROOT
from tests.infra.google_fields import unknown_fields
from tests.infra.locks import LOCKED

AWS, GOOGLE, OWN = (
    ROOT / "ray_cluster.yaml",
    ROOT / "infra" / "ray" / "gcp.yaml",
    ROOT / "infra" / "ray" / "onprem.yaml",
)
ALL, CLOUDS = (AWS, GOOGLE, OWN), (AWS, GOOGLE)
# CPUs and GPUs of Google's machine types that the file uses (cloud.google.com/compute/docs/machine-resource).
GOOGLE_MACHINES = {"n2-standard-8": (8, 0), "n2-standard-32": (32, 0), "a2-highgpu-8g": (96, 8)}

# The one part of the file in which Ray's schema takes unknown keys.
PROVIDER = {
    "aws": {"type", "region", "availability_zone", "cache_stopped_nodes", "use_internal_ips", "security_group"},
    "gcp": {"type", "project_id", "region", "availability_zone", "cache_stopped_nodes", "use_internal_ips"},
    "local": {"type", "head_ip", "worker_ips"},
}


def _load(path: Path) -> dict[str, Any]:
    loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


@functools.cache
def _aws_machines() -> dict[str, tuple[int, int]]:
    """CPUs and GPUs of every instance type, from the copy of AWS's own list that comes with moto."""
    import moto

    packed = Path(moto.__file__).parent / "ec2" / "resources" / "instance_types.json.gz"
    types = json.loads(gzip.decompress(packed.read_bytes()))
    gpus = {name: sum(gpu["Count"] for gpu in item.get("GpuInfo", {}).get("Gpus", [])) for name, item in types.items()}
    return {name: (item["VCpuInfo"]["DefaultVCpus"], gpus[name]) for name, item in types.items()}


def _machine(path: Path, node: dict[str, Any]) -> tuple[int, int]:
    machines = _aws_machines() if path == AWS else GOOGLE_MACHINES
    name = node["node_config"]["InstanceType" if path == AWS else "machineType"]
    assert name in machines, f"{path.name}: no such kind of machine: {name}"
    return machines[name]


def _is_spot(path: Path, node: dict[str, Any]) -> bool:
    config = node["node_config"]
    if path == AWS:
        return bool(config.get("InstanceMarketOptions", {}).get("MarketType") == "spot")
    return bool(config.get("scheduling", {}).get("provisioningModel") == "SPOT")


def lint(path: Path, cluster: dict[str, Any]) -> list[str]:
    """What Ray's schema lets pass and should not: limits, machines, and resources that machines don't have."""
    provider = cluster["provider"]
    found = [f"provider: no such key: {key}" for key in provider if key not in PROVIDER[provider["type"]]]
    types = cluster.get("available_node_types", {})
    for name, node in types.items():
        low, high = node["min_workers"], node["max_workers"]
        if not 0 <= low <= high <= cluster["max_workers"]:
            found.append(f"{name}: {low} to {high} workers of {cluster['max_workers']}")
        cpus, gpus = _machine(path, node)
        offered = node["resources"]
        if offered["CPU"] not in (0, cpus) or offered.get("GPU", 0) != gpus:
            found.append(f"{name}: offers {offered} on a machine with {cpus} CPUs and {gpus} GPUs")
        if bool(offered.get("spot")) != _is_spot(path, node):
            found.append(f"{name}: its resource `spot` says otherwise than its market")
    if types and sum(node["max_workers"] for node in types.values()) > cluster["max_workers"]:
        found.append("the types' max_workers add up to more than the cluster's")
    return found


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_ray_accepts_the_file(path: Path) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(_load(path)))


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_limits_and_machines_make_sense(path: Path) -> None:
    assert not lint(path, _load(path))


def test_the_lint_finds_what_it_is_for() -> None:
    cluster = _load(AWS)
    cluster["available_node_types"]["ingest"]["min_workers"] = 9
    cluster["available_node_types"]["train"]["resources"]["GPU"] = 4
    cluster["available_node_types"]["head"]["resources"]["spot"] = 1
    cluster["provider"]["regoin"] = "us-west-2"
    assert [text.split(":")[0] for text in lint(AWS, cluster)] == ["provider", "head", "ingest", "train"]
    cluster["available_node_types"]["train"]["node_config"]["InstanceType"] = "p4d.25xlarge"
    with pytest.raises(AssertionError, match="no such kind of machine"):
        lint(AWS, cluster)


@pytest.mark.parametrize("place", ["the file", "a node type", "docker", "auth"])
def test_ray_refuses_unknown_keys_elsewhere(place: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    cluster = _load(AWS)
    parts = {"the file": cluster, "a node type": cluster["available_node_types"]["train"]}
    (parts.get(place) or cluster[place])["no_such_key"] = 1
    with pytest.raises(Exception, match="no_such_key"):
        validate_config(prepare_config(cluster))


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_every_command_is_a_shells(path: Path) -> None:
    commands = [text for key, value in _load(path).items() if key.endswith("_commands") for text in value]
    assert len(commands) >= 7
    for command in commands:
        subprocess.run(["bash", "-n", "-c", command], check=True, timeout=20)


def test_aws_would_take_every_node_config() -> None:
    import botocore.session
    from botocore.validate import ParamValidator

    shape = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    nodes = _load(AWS)["available_node_types"]
    for name, node in nodes.items():
        report = ParamValidator().validate({**node["node_config"], "MinCount": 1, "MaxCount": 1}, shape)
        assert not report.has_errors(), f"{name}: {report.generate_report()}"
        assert node["node_config"]["MetadataOptions"]["HttpTokens"] == "required", "no unsigned reads of the metadata"
        assert all(disk["Ebs"]["Encrypted"] for disk in node["node_config"]["BlockDeviceMappings"])
    wrong = {"InstanceTyp": "m6i.large", "MinCount": 1, "MaxCount": 1}
    assert ParamValidator().validate(wrong, shape).has_errors()


def test_google_would_take_every_node_config() -> None:
    for name, node in _load(GOOGLE)["available_node_types"].items():
        assert not unknown_fields(node["node_config"]), name
    assert unknown_fields({"machineTyp": "n2-standard-8", "scheduling": {"preemptable": True}}) == [
        "machineTyp",
        "scheduling.preemptable",
    ]


@pytest.mark.parametrize("path", CLOUDS, ids=lambda path: path.name)
def test_the_head_is_on_demand_and_the_gpu_pool_is_spot(path: Path) -> None:
    cluster = _load(path)
    types = cluster["available_node_types"]
    head = types[cluster["head_node_type"]]
    assert not _is_spot(path, head)
    assert head["resources"]["CPU"] == 0, "the head runs no tasks"
    gpu_types = [node for node in types.values() if node["resources"].get("GPU")]
    assert gpu_types
    for node in gpu_types:
        assert _is_spot(path, node)
        assert node["docker"]["worker_image"].endswith("-gpu")
    cpu_only = [n for n in types.values() if not n["resources"].get("GPU") and n["resources"]["CPU"]]
    assert cpu_only and not any(_is_spot(path, node) for node in cpu_only), "ingest has a pool of its own, on demand"


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_images_carry_the_locked_ray_version(path: Path) -> None:
    cluster = _load(path)
    images = [value for key, value in cluster["docker"].items() if key.endswith("image")]
    images += [n["docker"]["worker_image"] for n in cluster.get("available_node_types", {}).values() if "docker" in n]
    assert images and all(image.split(":")[1].startswith(LOCKED["ray"] + "-py311") for image in images), images


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_token_auth_is_set_wherever_ray_starts(path: Path) -> None:
    cluster = _load(path)
    keys = ("head_start_ray_commands", "worker_start_ray_commands")
    starts = [command for key in keys for command in cluster[key] if "--port" in command or "--address" in command]
    assert len(starts) == 2 and all("RAY_AUTH_MODE=token" in command for command in starts)
    assert "/home/ray/.ray/auth_token" in cluster["file_mounts"]
    assert "--dashboard-host=127.0.0.1" in starts[0]


def test_the_variants_differ_in_machines_only() -> None:
    first, *others = (_load(path) for path in ALL)
    for other in others:
        for key in ("cluster_name", "file_mounts", "rsync_filter", "setup_commands"):
            assert other[key] == first[key], key


# Of which the first gets the head into the workers: the launcher names it, or the file does.
COPIED = ("ray-autoscaler_us-west-2.pem", "id_ed25519", "auth_token")


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_what_keeps_secrets_back_lets_the_keys_through_that_ray_copies(path: Path) -> None:
    """Ray gives `rsync_exclude` to the copy of each of `file_mounts`, and of its own key, too."""
    cluster = _load(path)
    excluded = [name for name in COPIED for each in cluster.get("rsync_exclude", ()) if fnmatch(f"/{name}", each)]
    assert not excluded and cluster["rsync_filter"] == [".skyignore"]


@pytest.mark.skipif(
    shutil.which("rsync") is None,
    reason="`ray up` copies with rsync, which is not installed (apt-get install rsync); the test above reads the rules "
    "without it",
)
def test_rsync_copies_the_source_without_secrets_and_the_keys(tmp_path: Path) -> None:
    from ray.autoscaler._private.command_runner import SSHCommandRunner

    tree, secret = (
        tmp_path / "tree",
        ("tls.pem", "infra/x.key", "infra/docker/compose.env", ".env", ".venv/x", ".git/x"),
    )
    for name in ("vamba/data/sample.py", "ray_cluster.yaml", *secret):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).touch()
    shutil.copy(ROOT / ".skyignore", tree)
    words = SSHCommandRunner._create_rsync_filter_args(None, {"rsync_filter": _load(AWS)["rsync_filter"]})
    for name in COPIED:
        (tmp_path / name).touch()
        subprocess.run(["rsync", "-a", *words, str(tmp_path / name), str(tmp_path / f"got-{name}")], check=True)
        assert (tmp_path / f"got-{name}").is_file()
    subprocess.run(["rsync", "-a", *words, f"{tree}/", str(tmp_path / "out")], check=True)
    copied = {str(found.relative_to(tmp_path / "out")) for found in (tmp_path / "out").rglob("*") if found.is_file()}
    assert copied == {"vamba/data/sample.py", "ray_cluster.yaml", ".skyignore"}


@pytest.mark.parametrize(("path", "notice_s"), [(AWS, 120), (GOOGLE, 30)], ids=lambda value: getattr(value, "name", ""))
def test_a_worker_drains_within_the_notice_of_its_cloud(path: Path, notice_s: int) -> None:
    *_, start = _load(path)["worker_start_ray_commands"]
    words = start.replace(";", " ").split()
    (drain,) = (word.split("=")[1] for word in words if word.startswith("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S="))
    assert notice_s / 2 < int(drain) <= notice_s - 10
    (script,) = (word for word in words if word.endswith("worker.py"))
    assert (ROOT / script.removeprefix("/home/ray/vamba/")).is_file()
    assert words[words.index(script) + 1] == {AWS: "aws", GOOGLE: "gcp"}[path]


def _make_documented_roles(iam: Any) -> None:
    """The `aws iam …` commands of docs/operate.md, as the client's methods."""
    text = (ROOT / "docs" / "operate.md").read_text(encoding="utf-8")
    values = dict(re.findall(r"^([A-Z]+)='(\{.+\})'$", text, flags=re.MULTILINE))
    commands = re.findall(r"^aws iam (.+)$", text, flags=re.MULTILINE)
    assert len(commands) == 10
    for command in commands:
        action, *words = shlex.split(command, comments=True)
        pairs = zip(words[::2], words[1::2], strict=True)
        arguments = {option[2:].title().replace("-", ""): value for option, value in pairs}
        arguments = {option: values.get(value.removeprefix("$"), value) for option, value in arguments.items()}
        getattr(iam, action.replace("-", "_"))(**arguments)


@pytest.mark.parametrize("path", CLOUDS, ids=lambda path: path.name)
def test_workers_have_a_role_that_reads_the_bucket(path: Path) -> None:
    """Ray gives one to the head alone."""
    key = "IamInstanceProfile" if path == AWS else "serviceAccounts"
    for name, node in _load(path)["available_node_types"].items():
        assert key in node["node_config"] or (path == GOOGLE and name == "head"), name


@pytest.mark.slow
def test_ray_launches_spot_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps of `ray up` against AWS as moto plays it: roles, key, network, and the machine of the training pool."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
    monkeypatch.setenv("HOME", str(tmp_path))  # the key pair is written to ~/.ssh
    import boto3
    from moto import mock_aws
    from ray.autoscaler import tags
    from ray.autoscaler._private.aws import config as aws_config
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler._private.util import prepare_config

    # Ray waits twice 15 s for AWS to know a new role everywhere.
    monkeypatch.setattr(aws_config.time, "sleep", lambda seconds: None)
    with mock_aws(config={"iam": {"load_aws_managed_policies": True}}):
        _make_documented_roles(boto3.client("iam"))
        cluster = AWSNodeProvider.bootstrap_config(prepare_config(_load(AWS)))
        cluster = AWSNodeProvider.fillout_available_node_types_resources(cluster)
        provider = AWSNodeProvider(cluster["provider"], cluster["cluster_name"])
        for name in ("ingest", "train"):
            labels = {
                tags.TAG_RAY_NODE_KIND: "worker",
                tags.TAG_RAY_LAUNCH_CONFIG: "digest",
                tags.TAG_RAY_USER_NODE_TYPE: name,
                tags.TAG_RAY_NODE_STATUS: "uninitialized",
            }
            provider.create_node(cluster["available_node_types"][name]["node_config"], labels, 1)
        found = boto3.client("ec2").describe_instances()["Reservations"]
    machines = {item["InstanceType"]: item for group in found for item in group["Instances"]}
    assert machines["p4d.24xlarge"]["InstanceLifecycle"] == "spot"
    assert "InstanceLifecycle" not in machines["c6i.8xlarge"]
    profiles = {name: item["IamInstanceProfile"]["Arn"].rpartition("/")[2] for name, item in machines.items()}
    assert set(profiles.values()) == {"vamba-worker"}, "without a role a worker finds no keys for s3://"
    assert all(item["MetadataOptions"]["HttpTokens"] == "required" for item in machines.values())
    assert cluster["available_node_types"]["train"]["resources"]["accelerator_type:A100"] == 1
