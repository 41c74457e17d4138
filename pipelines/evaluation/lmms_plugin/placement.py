"""Which device is a process's own where lmms-eval runs in several (`torchrun`)."""

from __future__ import annotations

import os


def own_device(wanted: str) -> str:
    """wanted: "cpu", "cuda", "cuda:N", or "auto": a GPU where torch sees one.

    In one of several processes on a machine, "cuda" is the GPU of its place there (LOCAL_RANK).
    """
    import torch

    device = ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted
    local_rank = os.environ.get("LOCAL_RANK")
    return f"cuda:{local_rank}" if device == "cuda" and local_rank is not None else device
