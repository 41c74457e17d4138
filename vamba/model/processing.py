"""Frame processing of a directory that is Qwen2-VL's: its `preprocessor_config.json` in our terms.

The file has had three forms: `min_pixels` and `max_pixels` beside the rest; the same two inside `size`; and in newer
transformers `size: {shortest_edge, longest_edge}`, which there mean the least and greatest area of a frame, in pixels,
not the edges of `FrameProcessing`. Steps that our processing does otherwise are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vamba.data.frames import FrameProcessing
from vamba.data.normalise import IMAGE_MEAN, IMAGE_STD

PREPROCESSOR_FILE = "preprocessor_config.json"
_KIND = "Qwen2VLImageProcessor"
_COPIED = ("patch_size", "temporal_patch_size", "merge_size")
_FIXED = {"do_resize": True, "do_rescale": True, "do_normalize": True, "resample": 3}
_AREAS = {"min_pixels": ("min_pixels", "shortest_edge"), "max_pixels": ("max_pixels", "longest_edge")}


def from_preprocessor(values: Mapping[str, Any]) -> FrameProcessing:
    """The processing a `preprocessor_config.json` describes; the published one for a processor of another kind.

    ValueError for a setting that our processing does not do.
    """
    if not str(values.get("image_processor_type", _KIND)).startswith(_KIND):
        return FrameProcessing()
    for name, required in _FIXED.items():
        if values.get(name, required) != required:
            raise ValueError(f"{PREPROCESSOR_FILE}: {name} is {values[name]!r}; frames are prepared with {required!r}")
    factor = values.get("rescale_factor") or 1 / 255
    if abs(factor * 255 - 1) > 1e-6:
        raise ValueError(f"{PREPROCESSOR_FILE}: rescale_factor is {factor!r}; frames are prepared with 1/255")
    found = {name: values[name] for name in _COPIED if values.get(name) is not None}
    size = values.get("size") or {}
    for name, keys in _AREAS.items():
        candidates = [values.get(name), *(size.get(key) for key in keys)]
        areas = [value for value in candidates if value is not None]
        if areas:
            found[name] = areas[0]
    for name, published in (("image_mean", IMAGE_MEAN), ("image_std", IMAGE_STD)):
        given = values.get(name)
        if given is not None and not np.allclose(given, published, rtol=0, atol=1e-6):
            raise ValueError(
                f"{PREPROCESSOR_FILE}: {name} is {given!r}; this model normalises with {list(published)} alone"
            )
    return FrameProcessing(**found)
