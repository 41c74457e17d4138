"""A process group that exists in name only, so that one process can lay out a model as any rank of any cluster would.

torch's fake backend answers every collective at once and moves nothing. Together with parameters on the meta device,
FSDP shards a model of any size in seconds and without memory, and what it says about sizes is what a real rank gets.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist


@contextmanager
def fake_ranks(world_size: int, *, rank: int = 0) -> Iterator[None]:
    """This process as rank `rank` of `world_size`, until the block ends. Not inside a process group."""
    assert not dist.is_initialized(), "a process is in one group at a time"
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=rank, world_size=world_size, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()
