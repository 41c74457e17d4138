"""Before ranks share a pack: do they have the same one?

Each rank of a context group reads its group's packs itself. One that has no data yet, or could not read a sample that
the others could, would leave them waiting for states that never come. So they compare first.
"""

from __future__ import annotations

import hashlib

import torch
import torch.distributed as dist

from vamba.data.reader import StepInput
from vamba.parallel.context import ContextGroup


class PacksDifferError(RuntimeError):
    """Ranks that share a pack were given different ones; nothing was computed."""


def any_asked(context: ContextGroup, inputs: StepInput, *, stop: bool) -> tuple[bool, bool]:
    """(some rank of the run has no data, some rank was asked to stop). Collective over all ranks.

    Raises PacksDifferError where this rank's group has data and does not agree on them.
    """
    device = context.device
    asked = torch.tensor([inputs.abandoned, stop], dtype=torch.int32, device=device)
    dist.all_reduce(asked)
    abandoned, stopped = (count > 0 for count in asked.tolist())
    if not abandoned:
        require_same_packs(context, inputs)
    return abandoned, stopped


def require_same_packs(context: ContextGroup, inputs: StepInput) -> None:
    """Raise PacksDifferError on all ranks of the group where they were given different packs. Collective over it."""
    packs = [(micro.pack_index, micro.counts, micro.batch.sample_ids) for micro in inputs.micro_batches]
    digest = hashlib.sha256(repr((packs, inputs.unreadable)).encode()).digest()
    own = torch.tensor([int.from_bytes(digest[:7], "big")], device=context.device)
    found = [torch.empty_like(own) for _ in range(context.size)]
    dist.all_gather(found, own, group=context.group)
    if len({int(other) for other in found}) == 1:
        return
    missing: list[tuple[str, ...]] = [()] * context.size
    dist.all_gather_object(missing, inputs.unreadable, group=context.group)
    told = "; ".join(f"rank {rank}: {', '.join(names) or 'none'}" for rank, names in enumerate(missing))
    raise PacksDifferError(
        f"The {context.size} workers that share a pack (parallel.context) did not read the same samples of it. Left "
        f"out as unreadable, by rank in the group: {told}. See that all workers can read the dataset, then run the "
        "same command again: it continues from the newest checkpoint."
    )
