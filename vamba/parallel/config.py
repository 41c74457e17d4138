"""How a model is spread over ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelConfig:
    """Sharding and precision.

    replicate: groups that hold a whole sharded copy each (HSDP); 1 shards over all ranks.
    reshard_after_forward: free gathered parameters between forward and backward. Costs a second all-gather per unit
        and saves the memory of a whole model; pointless for models that fit many times over.
    min_unit_parameters: modules with fewer parameters are gathered with the root instead of on their own: below
        about a million parameters a collective's latency costs more than it hides.
    activation_checkpointing: keep only every layer's inputs for the backward pass and compute the rest again.
    compute_dtype: of gathered parameters and activations. Master weights, gradients' reduction and optimizer state
        stay float32, and so do A_log, D, dt_bias, alpha and norm weights in compute.
    """

    replicate: int = 1
    activation_checkpointing: bool = False
    reshard_after_forward: bool = True
    min_unit_parameters: int = 0
    compute_dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        if self.replicate < 1 or self.min_unit_parameters < 0:
            raise ValueError(
                f"parallel.replicate = {self.replicate} must be at least 1 and parallel.min_unit_parameters = "
                f"{self.min_unit_parameters} at least 0."
            )
