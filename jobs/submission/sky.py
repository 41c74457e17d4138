"""A SkyPilot managed job from the template `infra/sky/job.yaml`, for one job of one configuration.

It is rendered, not launched: launching takes SkyPilot's own installation and a cloud account. SkyPilot sends the source
tree itself (`workdir`), without what `.skyignore` names.
"""

from __future__ import annotations

import math
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from jobs.submission.job import Job
from jobs.submission.plan import Options, Submission, forwarded_variables, holds_credentials
from jobs.submission.sent_files import place_in_tree, sent_files
from pipelines.capacity import Needs, Node, require_room

_NAME_LENGTH = 63
_DEFAULT_ACCELERATORS = ("H100", 8)
_CPU_NODE = 16
_GIB_PER_CPU = 4
_SECRETS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
_FORWARDED = ("MLFLOW_TRACKING_URI", *_SECRETS)


def plan_sky(job: Job, options: Options) -> Submission:
    """Raises ValueError for what the machines can't hold, and for a run whose machines would share no storage."""
    for name, value in (("namespace", options.namespace), ("queue", options.queue)):
        if value:
            raise ValueError(f"--{name} is for kuberay; leave it out.")
    template = options.working_dir / "infra" / "sky" / "job.yaml"
    sent = sent_files(options.working_dir)
    task: dict[str, Any] = yaml.safe_load(template.read_text(encoding="utf-8"))
    placed = {path: place_in_tree(path, sent) for path in job.files}
    entrypoint = replace(job, words=job.with_files(placed)).entrypoint("vamba")
    needs = job.needs(has_gpus=options.profile != "dev" or options.accelerators is not None)
    node, accelerator, number = _machines(needs, options)
    resources = task["resources"]
    resources["use_spot"] = options.profile == "spot" and needs is not None
    resources["cpus"], resources["memory"] = f"{math.ceil(node.cpus)}+", f"{math.ceil(node.cpus) * _GIB_PER_CPU}+"
    extra = {
        "accelerators": accelerator,
        "infra": options.infra,
        "image_id": options.image and f"docker:{options.image}",
    }
    task["resources"] = {**{key: value for key, value in extra.items() if value}, **resources}
    task["num_nodes"] = number
    task["name"] = job.short_name(_NAME_LENGTH)
    known = forwarded_variables(*_FORWARDED)
    secret = [name for name, value in known.items() if name in _SECRETS or holds_credentials(value)]
    environment = {
        **task["envs"],
        **{name: value for name, value in known.items() if name not in secret},
        **options.environment,
        "VAMBA_COMMAND": entrypoint,
    }
    if job.verb in ("train", "evaluate") and number > 1 and not environment["VAMBA_NFS"]:
        raise ValueError(
            f"{job.verb} on {number} machines writes its run to storage that all of them mount, and none is named: "
            "give --env VAMBA_NFS=HOST:/PATH (EFS, Filestore), or take one machine that is large enough "
            "(--accelerators, --nodes 1)."
        )
    names = (*task["secrets"], *options.secrets, *secret)
    task["envs"], task["secrets"] = environment, dict.fromkeys(names)
    ordered = {"name": task.pop("name"), "workdir": str(options.working_dir), **task}
    return Submission(
        to="sky",
        job=job,
        entrypoint=entrypoint,
        name=ordered["name"],
        needs=needs,
        resources={
            "machines": f"{number} of {accelerator or 'no GPU'}, {resources['cpus']} CPUs, {resources['memory']} GiB",
            "price": "spot, made again elsewhere when taken back" if resources["use_spot"] else "on demand",
        },
        environment={name: value for name, value in environment.items() if name != "VAMBA_COMMAND"},
        secrets=dict.fromkeys(ordered["secrets"], "from the environment of whoever launches"),
        image=f"{options.image or 'that of SkyPilot'}, with requirements/*.lock installed by `setup`",
        sent=sent,
        documents=(ordered,),
    )


def launch_command(submission: Submission, file: Path) -> str:
    """What launches the rendered file."""
    secrets = [word for name in submission.secrets for word in ("--secret", name)]
    return shlex.join(["sky", "jobs", "launch", "-n", submission.name, *secrets, str(file)])


def _machines(needs: Needs | None, options: Options) -> tuple[Node, str | None, int]:
    """One machine, its accelerators as SkyPilot writes them, and how many machines."""
    if needs is None:
        if options.nodes is not None or options.accelerators is not None:
            raise ValueError("--nodes and --accelerators are for workers, and this job has none: leave them out.")
        return Node(cpus=4), None, 1
    if not needs.gpus and options.accelerators is None:
        cpus = max(_CPU_NODE, math.ceil(needs.cpus))
        node, accelerator = Node(cpus=cpus), None
    else:
        kind, count = _accelerators(needs, options)
        # CPUs for the workers on it, and two for Ray and the driver.
        node = Node(cpus=count * max(needs.cpus, 1) + 2, gpus=count)
        accelerator = f"{kind}:{count}"
    number = options.nodes or (
        math.ceil(needs.workers / node.holds(needs)) if needs.workers and node.holds(needs) else 1
    )
    if options.capacity_check:
        require_room(needs, [node] * number, where=f"the job with {accelerator or f'{node.cpus:g} CPUs'} a machine")
    return node, accelerator, number


def _accelerators(needs: Needs, options: Options) -> tuple[str, int]:
    if options.accelerators is None:
        kind, most = _DEFAULT_ACCELERATORS
        return kind, min(most, needs.workers or 1)
    kind, _, count = options.accelerators.partition(":")
    if not kind or (count and (not count.isdigit() or int(count) < 1)):
        raise ValueError(f"--accelerators {options.accelerators!r} is not of the form NAME:NUMBER, for example H100:8.")
    return kind, int(count or 1)
