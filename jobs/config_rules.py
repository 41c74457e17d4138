"""Rules between components: what no single config dataclass can check by itself.

`validate` is called on every resolved tree. Rules look at the parts a job has, by name, so a rule holds in whatever job
combines those parts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from pipelines.filesystems import check_no_credentials


def validate(config: object) -> None:
    """Raise `ValueError` when parts of the tree contradict each other."""
    _groups_divide_workers(config)
    _frames_fit_the_tower(config)
    _no_address_carries_credentials(config)


def _groups_divide_workers(config: object) -> None:
    workers, parallel = getattr(config, "workers", None), getattr(config, "parallel", None)
    if workers is None or parallel is None:
        return
    if workers.num_workers % parallel.replicate:
        raise ValueError(
            f"`parallel.replicate` is {parallel.replicate} and `workers.num_workers` is {workers.num_workers}: "
            "every group of a sharded copy has the same size, so the workers must be a multiple of the groups."
        )
    if workers.num_workers % parallel.context:
        raise ValueError(
            f"`parallel.context` is {parallel.context} and `workers.num_workers` is {workers.num_workers}: so many "
            "workers share a video, so the workers must be a multiple of them."
        )
    fewest = workers.min_workers or workers.num_workers
    for name, size in (("replicate", parallel.replicate), ("context", parallel.context)):
        if size > 1 and fewest < workers.num_workers:
            raise ValueError(
                f"`workers.min_workers` is {fewest} and `parallel.{name}` {size}: where machines are lost, any number "
                f"of workers from {fewest} to {workers.num_workers} may be left, and only multiples of {size} could "
                f"train. Set workers.min_workers=null, or parallel.{name}=1."
            )


def _frames_fit_the_tower(config: object) -> None:
    """The processor cuts the patches that the vision tower reads: their geometry is one and the same."""
    model, reader = getattr(config, "model", None), getattr(config, "reader", None)
    frames = getattr(reader, "frames", None)
    vision = getattr(model, "overrides", {}).get("vision_config", {}) if model is not None else {}
    if frames is None or not isinstance(vision, dict):
        return
    for cut, read in (("patch_size", "patch_size"), ("temporal_patch_size", "temporal_patch_size"),
                      ("merge_size", "spatial_merge_size")):  # fmt: skip
        if read in vision and vision[read] != getattr(frames, cut):
            raise ValueError(
                f"`reader.frames.{cut}` is {getattr(frames, cut)} and `model.overrides.vision_config.{read}` "
                f"is {vision[read]}: set both to the same value."
            )


def _no_address_carries_credentials(value: object, key: str = "") -> None:
    """The tree is printed, stored with the run and logged: no address in it may hold what opens the place."""
    if isinstance(value, str):
        check_no_credentials(value, f"`{key}`")
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            _no_address_carries_credentials(getattr(value, field.name), f"{key}.{field.name}".lstrip("."))
    elif isinstance(value, Mapping):
        for name, item in value.items():
            _no_address_carries_credentials(item, f"{key}.{name}")
    elif isinstance(value, (list, tuple)):
        for item in value:
            _no_address_carries_credentials(item, key)
