"""The types in which weights are held: what training changes in float32, the rest as narrow as it was stored.

    stored bfloat16, frozen, computed with in bfloat16   stays bfloat16: float32 would hold the same values in twice the room
    everything else                                      float32

Small parameters that need precision (`is_full_precision`) are float32 in any case, trained or not.
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from vamba.parallel.config import ParallelConfig
from vamba.parallel.sharding import is_full_precision

_OF_ADAPTED = ".base_layer."
"""What peft puts into the name of a weight that has an adapter beside it."""


def narrow_frozen(model: nn.Module, stored: Collection[str], config: ParallelConfig) -> None:
    """Hold frozen weights in bfloat16, in place, if that is what they are computed with and what they were stored in.

    stored: names of the weights that the start model stores in bfloat16. Call it when the trainable set is selected,
    and before sharding.
    """
    if config.compute_dtype != "bfloat16":
        return
    for name, parameter in model.named_parameters():
        if parameter.requires_grad or is_full_precision(name) or name.replace(_OF_ADAPTED, ".") not in stored:
            continue
        parameter.data = parameter.data.to(torch.bfloat16)
