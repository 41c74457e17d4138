"""Everything a run changes while it trains: parameters, optimizer state, guard, and the position in the data plan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from vamba.data.batch import Batch
from vamba.data.plan import PlanState
from vamba.parallel.context import ContextGroup
from vamba.parallel.masters import Masters
from vamba.streaming.training import StreamingPlan
from vamba.train.config import TrainConfig
from vamba.train.fingerprint import fingerprint
from vamba.train.gauges import Gauges
from vamba.train.guard import Guard
from vamba.train.optimizer import ShardedAdamW


class TrainableModel(Protocol):
    """What training asks of a model besides being an nn.Module."""

    def loss(self, batch: Batch) -> tuple[Tensor, int]:
        """(sum of cross-entropies over the labelled tokens, their number)."""

    def constrain_(self) -> None:
        """Bring parameters back into their valid range, in place, after an update."""


class TrainState:
    """One rank's view of a run in progress.

    step: steps of the data plan done, whether they changed parameters or not. reader_state: the next one.
    num_steps: where the schedule ends. guard: what it has seen of the losses.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainConfig,
        *,
        num_steps: int,
        reader_state: PlanState,
        mesh: DeviceMesh | None = None,
        context: ContextGroup | None = None,
        device: torch.device | str = "cpu",
        streaming: StreamingPlan | None = None,
        masters: Masters | None = None,
    ) -> None:
        """`model` is already sharded over `mesh` and has its trainable set selected. context: ranks that share packs.
        streaming: which batches are streamed; None streams none. masters: of a model in bfloat16 without a mesh."""
        self.model: Any = model
        self.config = config
        self.num_steps = num_steps
        self.reader_state = reader_state
        self.device = torch.device(device)
        self.context = context
        self.streaming = streaming
        self.world_size = dist.get_world_size() if mesh is not None else 1
        self.num_replicas = mesh.size(0) if mesh is not None and mesh.ndim == 2 else 1
        self.masters = masters
        named = model.named_parameters() if masters is None else masters.named_parameters()
        self.optimizer = ShardedAdamW(named, config.optimizer)
        self.gauges = Gauges(model, self.optimizer.parameters)
        trainable = list(self.optimizer.parameters.values())
        self.sharded_parameters = [p for p in trainable if isinstance(p, DTensor)]
        self.whole_parameters = [p for p in trainable if not isinstance(p, DTensor)]
        self.guard = Guard(config.guard)
        self._frozen_digest: str | None = None

    @property
    def step(self) -> int:
        return self.reader_state.step

    @property
    def counts(self) -> bool:
        """Whether this rank's loss and tokens count: of ranks that share a pack, the first one's."""
        return self.context is None or self.context.is_first

    @property
    def is_rewind_point(self) -> bool:
        """Whether a run that nothing disturbs saves here too: only such checkpoints may a guard go back to."""
        rewinds = self.guard.rewinds
        is_rewound = bool(rewinds) and rewinds[-1].at == self.step
        return is_rewound or self.step % self.config.checkpoint_every_steps == 0

    def advance(self, reader_state: PlanState) -> None:
        """Note that the step before `reader_state` has been trained."""
        assert reader_state.step == self.step + 1, (reader_state, self.reader_state)
        self.reader_state = reader_state

    def tensors(self) -> dict[str, Tensor]:
        """What training changes, by name: saving reads it. Loading writes it and then calls `publish`. Frozen weights
        are left out."""
        parameters = self.optimizer.parameters
        named = {f"model.{name}": value.detach() for name, value in self._weights() if name in parameters}
        named.update((f"optimizer.{name}", value) for name, value in self.optimizer.state_tensors().items())
        return named

    def publish(self) -> None:
        """Compute with the weights of `tensors` as they are now."""
        if self.masters is not None:
            self.masters.publish()

    def frozen_digest(self) -> str:
        """Digest of all weights that training leaves alone, for any number of ranks. Collective the first time."""
        if self._frozen_digest is None:
            self._frozen_digest = fingerprint((name, w) for name, w in self._weights() if not w.requires_grad)
        return self._frozen_digest

    def whole_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight of the model in float32, gathered on the CPU one by one. Collective: all ranks must take all of
        them."""
        for name, value in self._weights():
            whole = (value.full_tensor() if isinstance(value, DTensor) else value).detach().cpu()
            yield name, whole.float() if whole.dtype == torch.bfloat16 else whole

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight as it is kept, by each of its names: tied weights have two."""
        for name, value in self.model.state_dict(keep_vars=True).items():
            yield name, value if self.masters is None else self.masters.kept(value)
