"""Everything a run changes while it trains: parameters, optimizer state, and the position in the data plan."""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from vamba.data.batch import Batch
from vamba.data.plan import PlanState
from vamba.train.config import TrainConfig
from vamba.train.optimizer import ShardedAdamW


class TrainableModel(Protocol):
    """What training asks of a model besides being an nn.Module."""

    def loss(self, batch: Batch) -> tuple[Tensor, int]:
        """(sum of cross-entropies over the labelled tokens, their number)."""

    def constrain_(self) -> None:
        """Bring parameters back into their valid range, in place, after an update."""


class TrainState:
    """One rank's view of a run in progress.

    step: optimizer steps done. reader_state: the next step in the data plan. num_steps: where the schedule ends.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainConfig,
        *,
        num_steps: int,
        reader_state: PlanState,
        mesh: DeviceMesh | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """`model` is already sharded over `mesh` and has its trainable set selected."""
        self.model: Any = model
        self.config = config
        self.num_steps = num_steps
        self.reader_state = reader_state
        self.device = torch.device(device)
        self.world_size = dist.get_world_size() if mesh is not None else 1
        self.num_replicas = mesh.size(0) if mesh is not None and mesh.ndim == 2 else 1
        self.optimizer = ShardedAdamW(model.named_parameters(), config.optimizer)
        trainable = list(self.optimizer.parameters.values())
        self.sharded_parameters = [p for p in trainable if isinstance(p, DTensor)]
        self.whole_parameters = [p for p in trainable if not isinstance(p, DTensor)]

    @property
    def step(self) -> int:
        return self.reader_state.step

    def advance(self, reader_state: PlanState) -> None:
        """Note that the step before `reader_state` has been trained."""
        assert reader_state.step == self.step + 1, (reader_state, self.reader_state)
        self.reader_state = reader_state

    def tensors(self) -> dict[str, Tensor]:
        """Parameters, buffers and optimizer state by name, as they live: saving reads them, loading writes them."""
        named: dict[str, Tensor] = {f"model.{name}": value.detach() for name, value in self.model.state_dict().items()}
        named.update((f"optimizer.{name}", value) for name, value in self.optimizer.state_tensors().items())
        return named
