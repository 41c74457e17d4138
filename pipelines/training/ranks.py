"""Small values agreed between the ranks of a run; in a run of one process, themselves.

All of these are collective. `group` is the process group that carries them; None is the run's own. Ray ends the run's
group under a thread that still works when it gives a machine back: with a `group`, that is an error, and never a run
of one process.
"""

from __future__ import annotations

import warnings
from typing import Any


def rank_and_world_size() -> tuple[int, int]:
    """(0, 1) without a process group."""
    import torch.distributed as dist

    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def expect_single_process() -> None:
    """Checkpoints of one process need no group, and torch would warn of that at each of them."""
    warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")


class GroupEndedError(RuntimeError):
    """The process group that was to carry a message has been ended."""


def from_first(value: Any, group: Any = None) -> Any:
    """Rank 0's value on every rank."""
    import torch.distributed as dist

    if _is_alone(group):
        return value
    holder = [value]
    dist.broadcast_object_list(holder, group=group)
    return holder[0]


def gathered(value: Any, group: Any = None) -> list[Any]:
    """The values of all ranks, by rank, on every rank."""
    import torch.distributed as dist

    if _is_alone(group):
        return [value]
    values = [None] * dist.get_world_size(group)
    dist.all_gather_object(values, value, group=group)
    return values


def _is_alone(group: Any) -> bool:
    import torch.distributed as dist

    if group is not None and not dist.is_initialized():
        raise GroupEndedError("The group of this run's ranks has been ended.")
    return group is None and rank_and_world_size()[1] == 1
