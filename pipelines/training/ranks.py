"""Small values agreed between the ranks of a run; in a run of one process, themselves.

All of these are collective. `group` is the process group that carries them; None is the run's own.
"""

from __future__ import annotations

from typing import Any


def rank_and_world_size() -> tuple[int, int]:
    """(0, 1) without a process group."""
    import torch.distributed as dist

    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def from_first(value: Any, group: Any = None) -> Any:
    """Rank 0's value on every rank."""
    import torch.distributed as dist

    if rank_and_world_size()[1] == 1:
        return value
    holder = [value]
    dist.broadcast_object_list(holder, group=group)
    return holder[0]


def gathered(value: Any, group: Any = None) -> list[Any]:
    """The values of all ranks, by rank, on every rank."""
    import torch.distributed as dist

    world_size = rank_and_world_size()[1]
    if world_size == 1:
        return [value]
    values = [None] * world_size
    dist.all_gather_object(values, value, group=group)
    return values
