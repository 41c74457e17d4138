"""The device mesh of a run: how many ranks hold one model between them, and how many such copies there are."""

from __future__ import annotations

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from vamba.parallel.config import ParallelConfig


def build_mesh(device_type: str, config: ParallelConfig) -> DeviceMesh | None:
    """The mesh of the current process group; None when there is none or it has one rank, where nothing is shared.

    One axis "shard", or "replicate" x "shard" when config.replicate > 1 (FSDP shards over the last axis and repeats
    over the first). Raises ValueError when the ranks do not divide into that many copies.
    """
    world_size = dist.get_world_size() if dist.is_initialized() else 1
    if world_size % config.replicate:
        raise ValueError(
            f"parallel.replicate = {config.replicate} does not divide the {world_size} workers: choose a divisor."
        )
    if world_size == 1:
        return None
    if config.replicate == 1:
        return init_device_mesh(device_type, (world_size,), mesh_dim_names=("shard",))
    shape = (config.replicate, world_size // config.replicate)
    return init_device_mesh(device_type, shape, mesh_dim_names=("replicate", "shard"))
