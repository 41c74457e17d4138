"""Random numbers without saved generator state: every draw is a function of the run, the place and the purpose."""

from __future__ import annotations

import hashlib


def seed_for(run_seed: int, epoch: int, pack: int, purpose: str) -> int:
    """A 63-bit seed for `purpose` in pack `pack` of `epoch`: equal for every world size, and after every restart."""
    digest = hashlib.sha256(f"{run_seed}/{epoch}/{pack}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
