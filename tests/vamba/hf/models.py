"""A small random transformers model of the hybrid, and media for it, in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tests.vamba.model.samples import CONFIG, random_sample
from vamba.data.batch import Grid
from vamba.hf.configuration import VambaConfig
from vamba.hf.modeling import VambaForConditionalGeneration
from vamba.model.init import init_weights_


def random_model(seed: int = 0, **changes: Any) -> VambaForConditionalGeneration:
    model = VambaForConditionalGeneration(VambaConfig.of(replace(CONFIG, **changes)))
    init_weights_(model, seed)
    model.generation_config.eos_token_id = None
    return model.double().eval()


def media(seed: int, *grids: Grid) -> tuple[Tensor, Tensor]:
    """(patches, grids) of random items."""
    sample = random_sample(seed, grids, (2,))
    assert sample.patches is not None
    return torch.from_numpy(sample.patches), torch.tensor(grids)


def prompt(seed: int, length: int) -> Tensor:
    return torch.from_numpy(random_sample(seed, (), (length,)).texts[0].input_ids)[None]
