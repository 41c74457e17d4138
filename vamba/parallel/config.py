"""How a model is spread over ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Activation = Literal["none", "layer", "streamed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelConfig:
    """Sharding and precision.

    replicate: groups that hold a whole sharded copy each (HSDP); 1 shards over all ranks.
    context: ranks that share a pack, its video streamed in chunks that are dealt over them, whatever `activation` says;
        1 gives every rank packs of its own. For videos that are too long for the memory or the patience of one rank.
    reshard_after_forward: free gathered parameters between forward and backward. Costs a second all-gather per unit
        and saves the memory of a whole model; pointless for models that fit many times over.
    min_unit_parameters: modules with fewer parameters are gathered with the root instead of on their own: below
        about a million parameters a collective's latency costs more than it hides.
    activation: what a forward pass keeps for the backward pass. "none" recomputes nothing and keeps everything; "layer"
        keeps every hybrid layer's inputs and computes the rest of the layer again; "streamed" does as "layer" does for
        packs with up to `streamed_above_tokens` video tokens, and runs the video of larger ones in chunks, forward and
        backward, for the same gradients in memory that does not grow with the video. Gathers every unit once a step.
    streamed_above_tokens: video tokens of the largest pack that "streamed" does not stream; 0 streams all.
    stream_chunk_tokens: video tokens that have a graph at once; a multiple of the mixer's chunk size is fastest.
    stream_kv: where keys and values, states and tower tokens of a streamed video wait for the backward pass: "device",
        "host" (pinned memory) or "disk" (files without a name in `stream_directory`, by default the system's own for
        temporary ones; fast local storage).
    compile: run what lies between the kernels of a hybrid layer through torch.compile. Needs a C++ compiler on the
        workers, minutes at the first step, and changes the last bits of the losses.
    compute_dtype: of gathered parameters and activations. Master weights, gradients' reduction and optimizer state
        stay float32, and so do A_log, D, dt_bias, alpha and norm weights in compute. Frozen weights that the start
        model stores in bfloat16 are held in it.
    """

    replicate: int = 1
    context: int = 1
    activation: Activation = "none"
    streamed_above_tokens: int = 16384
    stream_chunk_tokens: int = 4096
    stream_kv: Literal["device", "host", "disk"] = "device"
    stream_directory: str = ""
    compile: bool = False
    reshard_after_forward: bool = True
    min_unit_parameters: int = 0
    compute_dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        if self.replicate < 1 or self.min_unit_parameters < 0:
            raise ValueError(
                f"parallel.replicate = {self.replicate} must be at least 1 and parallel.min_unit_parameters = "
                f"{self.min_unit_parameters} at least 0."
            )
        if self.context < 1:
            raise ValueError(f"parallel.context is {self.context}; use 1 (a video to a rank) or more ranks per video.")
        if self.streamed_above_tokens < 0 or self.stream_chunk_tokens < 1:
            raise ValueError(
                f"parallel.streamed_above_tokens = {self.streamed_above_tokens} must be at least 0 and "
                f"parallel.stream_chunk_tokens = {self.stream_chunk_tokens} at least 1."
            )
        if self.stream_kv not in ("device", "host", "disk"):
            raise ValueError(f"parallel.stream_kv is {self.stream_kv!r}; it must be one of device, host, disk.")
        if self.streams and self.compile:
            raise ValueError(
                f"parallel.activation is {self.activation!r}, parallel.context {self.context} and parallel.compile "
                "true: a streamed video runs through parts of a layer that are not compiled. Set "
                "parallel.compile=false, or parallel.activation=layer and parallel.context=1."
            )
        if self.activation not in get_args(Activation):
            raise ValueError(
                f"parallel.activation is {self.activation!r}; it must be one of {', '.join(get_args(Activation))}."
            )

    @property
    def streams(self) -> bool:
        """Whether packs may be streamed."""
        return self.activation == "streamed" or self.context > 1
