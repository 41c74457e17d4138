"""A digest of many parameters that does not depend on how they are spread over ranks.

Every element contributes its bits times a factor made from its index in the whole tensor, and contributions are added
modulo 2^64: each rank adds up its shard, the sums of all ranks are added, and the result is that of one process. It
tells other weights apart (a single changed element always, others but by chance); it is no protection against someone
who wants to deceive.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

_BLOCK = 1 << 18  # elements at once: the work arrays stay in a processor's cache
_BLOCK_ON_GPU = 1 << 24
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_SPREAD = 0x9E3779B97F4A7C16 - (1 << 64)  # 2^64 over the golden ratio, made even, as a signed number


@torch.no_grad()
def fingerprint(named: Iterable[tuple[str, Tensor]]) -> str:
    """`sum64:` and 32 hex digits over names, shapes, types and values. Collective if the run has several ranks.

    Values of bfloat16 count as those of float32 that they are: how wide they are held is no difference.
    """
    items = sorted(named, key=lambda item: item[0])
    sums = torch.zeros(len(items), dtype=torch.int64)
    for place, (_, tensor) in enumerate(items):
        sums[place] = _own_sum(tensor)
    if dist.is_initialized() and dist.get_world_size() > 1:
        gathered = [None] * dist.get_world_size()
        dist.all_gather_object(gathered, sums)
        sums = torch.stack(gathered).sum(0)  # type: ignore[arg-type]
    digest = hashlib.sha256()
    for (name, tensor), value in zip(items, sums.tolist(), strict=True):
        dtype = torch.float32 if tensor.dtype == torch.bfloat16 else tensor.dtype
        digest.update(f"{name} {tuple(tensor.shape)} {dtype} {value % (1 << 64)}\n".encode())
    return f"sum64:{digest.hexdigest()[:32]}"


def _own_sum(tensor: Tensor) -> int:
    """What this rank contributes for a tensor: its shard; a whole copy only on the first of those that hold one."""
    if not isinstance(tensor, DTensor):
        is_first = not dist.is_initialized() or dist.get_rank() == 0
        return _sum(tensor, 0) if is_first else 0
    coordinate = tensor.device_mesh.get_coordinate() or ()
    for place, placement in zip(coordinate, tensor.placements, strict=True):
        assert placement.is_replicate() or placement.is_shard(0), placement
        if placement.is_replicate() and place != 0:
            return 0
    _, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    row = math.prod(tensor.shape[1:])
    return _sum(tensor.to_local(), (offset[0] if offset else 0) * row)


def _sum(tensor: Tensor, first_index: int) -> int:
    """Sum of bits x (index x spread + 1), modulo 2^64, made of two: of the bits, and of the bits times their indices.

    The factor is odd, so that no change of one element is lost, and no two elements have the same.
    """
    flat = tensor.detach().contiguous().flatten()
    block = _BLOCK if flat.device.type == "cpu" else _BLOCK_ON_GPU
    places = torch.arange(min(block, flat.numel()), device=flat.device)
    plain = torch.zeros((), dtype=torch.int64, device=flat.device)
    weighted = torch.zeros_like(plain)
    for begin in range(0, flat.numel(), block):
        values = flat[begin : begin + block]
        if values.dtype == torch.bfloat16:
            values = values.to(torch.float32)
        bits = values.view(_INTEGERS[values.element_size()]).to(torch.int64)
        own = bits.sum()
        plain += own
        weighted += own * (first_index + begin) + (bits * places[: bits.numel()]).sum()
    total = int(weighted) * _SPREAD + int(plain)
    return (total + (1 << 63)) % (1 << 64) - (1 << 63)
