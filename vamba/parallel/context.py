"""Context parallelism: one video over several ranks, which pass the mixers' states along.

    world    0 1 2 3 4 5 6 7          FSDP shards over all of them
    context  [0 1] [2 3] [4 5] [6 7]  parallel.context = 2: each group works on one pack, and each pack is in one group

A group cuts its pack's video into chunks and deals them round robin; chunk c's state of a layer goes from its rank to
the next one's as soon as the layer is done (`passing.py`), so the ranks follow each other a layer apart. Keys and values
stay where they were made. The text runs on every rank of the group, and what it reads of the video is merged
(`merged_attention.py`).
"""  # noqa: E501

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextGroup:
    """A rank's place among those that share its video.

    rank: in the group of `size`. group: for what all of its ranks do together. to_next, from_previous: for what flows
    along the ring. What closes the ring has a process group of its own: between two ranks both directions would share
    one communicator of NCCL's, which runs transfers in the order in which they were asked for, and each would wait for
    the other.
    """

    rank: int
    size: int
    device: torch.device
    group: Any
    to_next: Any
    from_previous: Any

    @property
    def is_first(self) -> bool:
        """Whether this rank's count of the group's loss and tokens is the one that counts."""
        return self.rank == 0

    @property
    def next(self) -> int:
        """Global rank of the one that continues this rank's chunks."""
        return dist.get_global_rank(self.group, (self.rank + 1) % self.size)

    @property
    def previous(self) -> int:
        return dist.get_global_rank(self.group, (self.rank - 1) % self.size)

    def owns(self, chunk: int) -> bool:
        return chunk % self.size == self.rank


def check_context(context: int, world_size: int) -> None:
    """ValueError when the ranks do not divide into groups of `context`."""
    if world_size % context:
        raise ValueError(
            f"parallel.context = {context} does not divide the {world_size} workers: choose a divisor, or workers in "
            "multiples of it."
        )


def share_of(rank: int, world_size: int, context: int) -> tuple[int, int]:
    """(number of the rank's group, number of groups): what deals a step's packs."""
    return rank // context, world_size // context


def build_context(context: int, device: torch.device | str = "cpu") -> ContextGroup | None:
    """The group of this rank among neighbours of the current process group; None where each rank has its own video.

    Collective over all ranks. Raises ValueError when the ranks do not divide into such groups.
    """
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    check_context(context, world_size)
    if context == 1:
        return None
    place, device = rank % context, torch.device(device)
    group, ring, closing = (_own_group(rank, world_size, context) for _ in range(3))
    found = ContextGroup(
        rank=place,
        size=context,
        device=device,
        group=group,
        to_next=closing if place == context - 1 else ring,
        from_previous=closing if place == 0 else ring,
    )
    _connect(found)
    return found


def _own_group(rank: int, world_size: int, context: int) -> Any:
    """Of all groups of neighbours, which every rank must ask for in the same order, the one this rank is in."""
    starts = range(0, world_size, context)
    groups = [dist.new_group(list(range(start, start + context))) for start in starts]
    return groups[rank // context]


def _connect(context: ContextGroup) -> None:
    """NCCL connects two ranks when both first meet: here, one pair after the other, and not in the middle of a step."""
    dist.all_reduce(torch.zeros(1, device=context.device), group=context.group)
    for sender in range(context.size):
        if context.rank == sender:
            dist.send(torch.zeros(1, device=context.device), context.next, group=context.to_next)
        elif context.rank == (sender + 1) % context.size:
            dist.recv(torch.zeros(1, device=context.device), context.previous, group=context.from_previous)
