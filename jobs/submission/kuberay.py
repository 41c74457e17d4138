"""A RayJob from the templates in `infra/kuberay`, for one job of one configuration.

    overlays/PROFILE/JOB ─ kustomize.render ─> RayJob, PodDisruptionBudget ─ edits ─> the same, named, sized, with the
                                                                                        job's own command line

The templates decide everything that all runs of a kind share; here stands what differs from run to run. The image has
the code, so no source tree is sent; YAML files of the user's own go along in a ConfigMap.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import yaml

from jobs.submission.job import Job
from jobs.submission.kustomize import Object, render
from jobs.submission.plan import Options, Submission
from jobs.submission.quota import quantity, require_quota
from pipelines.capacity import Needs, Node, counted, require_room

# KubeRay takes 47 characters: it derives names of other objects from it.
_NAME_LENGTH = 47
_FILES = "/etc/vamba/job"
_OBJECT_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_KEY_LENGTH = 200
_QUEUE = "kueue.x-k8s.io/queue-name"


def plan_kuberay(job: Job, options: Options) -> Submission:
    """Raises ValueError for what the profile's nodes can't hold, and for options that contradict it."""
    folder = options.working_dir / "infra" / "kuberay" / "overlays" / options.profile / job.verb
    if not folder.is_dir():
        raise ValueError(
            f"{folder} does not exist: the templates come with the source tree, so start there, or name it by "
            "--working-dir."
        )
    if job.verb != "promote" and not job.on_cluster:
        raise ValueError("A RayJob brings its own Ray: leave out --address and --here.")
    _require_names(options)
    objects = render(folder)
    (ray_job,) = (item for item in objects if item["kind"] == "RayJob")
    cluster = ray_job["spec"]["rayClusterSpec"]
    name = job.short_name(_NAME_LENGTH)
    _name_all(objects, name, options.namespace)
    placed = {path: f"{_FILES}/{index}-{_key(path.name)}" for index, path in enumerate(job.files)}
    entrypoint = replace(job, words=job.with_files(placed)).entrypoint("vamba")
    ray_job["spec"]["entrypoint"] = entrypoint
    if placed:
        objects.insert(0, _files(ray_job, {path: Path(place).name for path, place in placed.items()}, name))
    if options.queue is not None:
        _queue(ray_job, options.queue, options.profile)
    for container in _containers(ray_job):
        if options.image is not None:
            container["image"] = options.image
    for group in _groups(ray_job):
        (container,) = group["template"]["spec"]["containers"]
        container["envFrom"] += [{"secretRef": {"name": secret}} for secret in options.secrets]
    environment = _environment(ray_job, options)
    needs = _size_workers(cluster["workerGroupSpecs"], job, options)
    return Submission(
        to="kuberay",
        job=job,
        entrypoint=entrypoint,
        name=name,
        namespace=ray_job["metadata"]["namespace"],
        needs=needs,
        resources={
            **dict(_resources(ray_job, options.profile)),
            "settings": "every variable of the ConfigMap vamba (base/platform/settings.yaml), in all pods",
        },
        environment=environment,
        secrets=dict(_secrets(ray_job)),
        image=", ".join(sorted({container["image"] for container in _containers(ray_job)})),
        documents=tuple(objects),
    )


def _require_names(options: Options) -> None:
    """Raises ValueError for what Kubernetes would refuse, and for values that would arrive as others."""
    secrets = [("secret", name) for name in options.secrets]
    for option, name in [("namespace", options.namespace), ("queue", options.queue), *secrets]:
        if name is not None and not _OBJECT_NAME.fullmatch(name if option == "namespace" else name.replace(".", "-")):
            raise ValueError(
                f"--{option} {name!r} is no name that Kubernetes takes: lower-case letters, digits and '-', at most 63."
            )
    if options.image is not None and not re.fullmatch(r"\S+", options.image):
        raise ValueError(f"--image {options.image!r} is not the name of an image, for example registry/vamba:2.")
    for name, value in options.environment.items():
        if "$" in value or "`" in value:
            raise ValueError(
                f"--env {name}: KubeRay has a shell read the variables of a job, which would replace $ and ` in them: "
                "write it into base/platform/settings.yaml or a secret (--secret)."
            )


def _key(name: str) -> str:
    """A file's name as a key of a ConfigMap."""
    return re.sub(r"[^-._a-zA-Z0-9]", "_", name)[-_KEY_LENGTH:]


def _groups(ray_job: Object) -> list[Object]:
    cluster = ray_job["spec"]["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def _templates(ray_job: Object) -> list[Object]:
    return [ray_job["spec"]["submitterPodTemplate"], *(group["template"] for group in _groups(ray_job))]


def _containers(ray_job: Object) -> Iterator[Object]:
    for template in _templates(ray_job):
        yield from template["spec"]["containers"]


def _name_all(objects: list[Object], name: str, namespace: str | None) -> None:
    """The name on everything, and as a label on the pods: a disruption budget must not count another run's."""
    label = {"vamba/run": name}
    for item in objects:
        item["metadata"]["name"] = name
        item["metadata"]["labels"] |= label
        if namespace is not None:
            item["metadata"]["namespace"] = namespace
        if item["kind"] == "RayJob":
            for template in _templates(item):
                template["metadata"]["labels"] |= label
        else:
            item["spec"]["selector"]["matchLabels"] |= label


def _files(ray_job: Object, names: dict[Path, str], name: str) -> Object:
    """The user's files as a ConfigMap, mounted where the driver runs."""
    driver = ray_job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]
    driver["volumes"].append({"name": "job", "configMap": {"name": name}})
    driver["containers"][0]["volumeMounts"].append({"name": "job", "mountPath": _FILES, "readOnly": True})
    metadata = {key: ray_job["metadata"][key] for key in ("name", "namespace", "labels")}
    # A queue and a priority are the job's.
    metadata["labels"] = {key: value for key, value in metadata["labels"].items() if not key.startswith("kueue")}
    data = {}
    for path, entry in names.items():
        if not path.is_file():
            raise ValueError(f"The configuration file {path} does not exist.")
        data[entry] = path.read_text(encoding="utf-8")
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def _queue(ray_job: Object, queue: str, profile: str) -> None:
    if not ray_job["spec"].get("suspend"):
        raise ValueError(
            f"--queue {queue!r} with the profile {profile}: its jobs scale by themselves, which a queue of Kueue "
            "refuses; use --profile prod or spot."
        )
    ray_job["metadata"]["labels"][_QUEUE] = queue


def _environment(ray_job: Object, options: Options) -> dict[str, str]:
    """What the job's own environment gets beside the pods'."""
    loaded: Object = yaml.safe_load(ray_job["spec"]["runtimeEnvYAML"])
    loaded["env_vars"] |= dict(options.environment)
    ray_job["spec"]["runtimeEnvYAML"] = yaml.safe_dump(loaded, sort_keys=False)
    return dict(loaded["env_vars"])


def _size_workers(groups: list[Object], job: Job, options: Options) -> Needs | None:
    """As many nodes as the configuration needs; the template's number for a job that takes what there is."""
    if len(groups) == 1:
        if options.nodes is not None:
            raise ValueError(f"--nodes {options.nodes}: {job.verb} runs in its driver alone; leave it out.")
        return None
    (workers,) = groups[1:]
    node = _node(workers["template"])
    needs = job.needs(has_gpus=node.gpus > 0)
    assert needs is not None
    holds = node.holds(needs)
    # A group of fixed size belongs to a queue; one that scales has an upper bound of its own.
    fixed = workers["minReplicas"] == workers["maxReplicas"]
    number = options.nodes or workers["replicas"]
    if needs.workers is not None and options.nodes is None and holds:
        number = math.ceil(needs.workers / holds)
        number = number if fixed else min(number, workers["maxReplicas"])
    if options.capacity_check:
        require_room(needs, [node] * number, where=f"the profile {options.profile}")
    workers["replicas"] = number
    if fixed:
        workers["minReplicas"] = workers["maxReplicas"] = number
        if options.capacity_check and options.queue is None:
            require_quota(job.verb, workers, options.working_dir / "infra" / "kuberay" / "queue" / "queues.yaml")
    elif options.nodes is not None or needs.workers is not None:
        workers["maxReplicas"] = max(number, 1)
    return needs


def _node(template: Object) -> Node:
    limits = template["spec"]["containers"][0]["resources"]["limits"]
    return Node(cpus=quantity(limits["cpu"]), gpus=quantity(limits.get("nvidia.com/gpu", "0")))


def _words(node: Node) -> str:
    return counted(node.cpus, "CPU") + (f" and {counted(node.gpus, 'GPU')}" if node.gpus else "")


def _resources(ray_job: Object, profile: str) -> Iterator[tuple[str, str]]:
    yield "profile", profile
    for group in _groups(ray_job):
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        node = _words(_node(group["template"]))
        number = group.get("replicas", 1)
        scales = f" (from {group['minReplicas']} to {number})" if number != group.get("minReplicas", number) else ""
        yield group.get("groupName", "head"), f"{counted(number, 'pod')}{scales} of {node}, {limits['memory']} memory"


def _secrets(ray_job: Object) -> Iterator[tuple[str, str]]:
    named = {entry["secretRef"]["name"] for c in _containers(ray_job) for entry in c["envFrom"] if "secretRef" in entry}
    for name in sorted(named):
        yield name, "every variable of this Kubernetes secret, in head, driver and workers"
    redis = ray_job["spec"]["rayClusterSpec"]["gcsFaultToleranceOptions"]["redisPassword"]["valueFrom"]["secretKeyRef"]
    yield redis["name"], f"key {redis['key']}, the head's Redis"
    yield "token of this Ray cluster", "made by KubeRay for the job, and shown to nobody"
