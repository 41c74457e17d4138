"""Shards as FSDP lays them out on a fake mesh: nothing is lost, whatever the number of ranks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.placement_types import Shard

from vamba.model.presets import PRESETS
from vamba.model.vamba import Vamba
from vamba.parallel.config import ParallelConfig
from vamba.parallel.fake_ranks import fake_ranks
from vamba.parallel.mesh import build_mesh
from vamba.parallel.shard_sizes import ShardSizes, shard_sizes
from vamba.parallel.sharding import shard_model


def sharded(preset: str, world_size: int, rank: int = 0, **settings: int) -> tuple[nn.Module, ShardSizes]:
    with torch.device("meta"):
        model = Vamba(PRESETS[preset], device="cpu")
    config = ParallelConfig(**settings)  # type: ignore[arg-type]
    with fake_ranks(world_size, rank=rank):
        shard_model(model, build_mesh("cpu", config), config)
        return model, shard_sizes(model)


@pytest.mark.parametrize(("world_size", "replicate"), [(2, 1), (4, 2), (5, 1), (12, 3)])
def test_the_shards_of_all_ranks_are_the_model(world_size: int, replicate: int) -> None:
    ranks = [sharded("tiny", world_size, rank, replicate=replicate)[1] for rank in range(world_size)]
    whole = ranks[0].total - sum(unit.size for unit in ranks[0].units)
    assert sum(r.local - whole for r in ranks) == replicate * (ranks[0].total - whole)
    assert max(r.local for r in ranks) == ranks[0].local


def test_the_shards_of_the_7b_on_32_ranks_are_the_model() -> None:
    model, sizes = sharded("qwen2_vl_7b", 32)
    total = 0
    for parameter in model.parameters():
        if not isinstance(parameter, DTensor):
            total += parameter.numel()
            continue
        (placement,) = parameter.placements
        assert isinstance(placement, Shard) and placement.dim == 0
        rows = [placement.local_shard_size_and_offset(parameter.shape[0], 32, rank)[0] for rank in range(32)]
        assert rows[0] == parameter.to_local().shape[0]
        total += sum(rows) * math.prod(parameter.shape[1:])
    assert total == sizes.total == 11_309_837_020


def test_small_parameters_that_need_precision_stay_whole() -> None:
    model, _ = sharded("tiny", 4)
    whole = {name for name, parameter in model.named_parameters() if not isinstance(parameter, DTensor)}
    assert {name.rpartition(".")[2] for name in whole} == {"A_log", "D", "dt_bias", "alpha", "weight", "bias"}
    assert all("norm" in name or "ln_q" in name for name in whole if name.endswith((".weight", ".bias")))
