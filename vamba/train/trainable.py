"""Which parameters a stage trains, and which of them decay."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn

from vamba.parallel.sharding import is_full_precision


def select_trainable(model: nn.Module, patterns: Sequence[str], expected: int | None = None) -> int:
    """Freeze all parameters but those whose whole name matches one of `patterns`; returns the trainable scalars.

    Call it before sharding: sizes are those of whole parameters. Raises ValueError when a pattern matches nothing, or
    when the count is not `expected`: a renamed module must not silently train less than the recipe says.
    """
    compiled = {pattern: re.compile(pattern) for pattern in patterns}
    unused = set(patterns)
    num_trainable = 0
    for name, parameter in model.named_parameters():
        matching = [pattern for pattern, regex in compiled.items() if regex.fullmatch(name)]
        unused.difference_update(matching)
        parameter.requires_grad_(bool(matching))
        num_trainable += parameter.numel() if matching else 0
    if unused:
        raise ValueError(
            f"train.trainable: {', '.join(map(repr, sorted(unused)))} matches no parameter. A pattern must match a "
            "whole name, for example '.*\\.cross_attn\\..*'."
        )
    if expected is not None and num_trainable != expected:
        raise ValueError(
            f"train.trainable selects {num_trainable:,} parameters, but train.expected_trainable is {expected:,}. "
            "Correct the patterns, or the expected number if the architecture was changed on purpose."
        )
    return num_trainable


def decays(name: str) -> bool:
    """Whether weight decay applies: to matrices, not to norms, biases, A_log, D, dt_bias and alpha."""
    return not is_full_precision(name) and not name.endswith(".bias")
