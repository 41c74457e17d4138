"""What a forward pass returns, with the text's cache under the name that the installed transformers reads.

transformers 5.24 renamed `past_key_values` to `cache`, in calls and in outputs. A model's forward can accept both, but
a ModelOutput has one set of fields; so the class is made with the right one.
"""

from __future__ import annotations

from dataclasses import make_dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers.utils import ModelOutput

if TYPE_CHECKING:
    from transformers import Cache

    from vamba.hf.cached import RowVideos

CACHE_NAME = "cache" if hasattr(ModelOutput, "past_key_values") else "past_key_values"

VambaOutput: Any = make_dataclass(
    "VambaOutput",
    [(name, "Any", None) for name in ("loss", "logits", CACHE_NAME, "videos")],
    bases=(ModelOutput,),
    namespace={"__doc__": "loss, logits, the text's cache and the encoded videos; see VambaForConditionalGeneration."},
)


def output(
    *,
    logits: Tensor,
    loss: Tensor | None = None,
    cache: Cache | None = None,
    videos: RowVideos | None = None,
) -> Any:
    """A VambaOutput.

    logits: (B, kept, V), float32 or wider; zero at padding of a pass without a cache. loss: mean cross-entropy over labelled
    tokens, plus `distill_coeff` times the mean divergence from a teacher. cache: the text's keys and values. videos: the
    encoded videos, to hand to the next call in place of pixels.
    """  # noqa: E501
    return VambaOutput(**{"loss": loss, "logits": logits, CACHE_NAME: cache, "videos": videos})
