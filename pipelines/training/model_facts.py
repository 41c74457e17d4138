"""What a run's model is, so that a continued run can tell whether it still is: its architecture, key by key, and a
digest of the weights it starts from.

Weights are fingerprinted, not hashed whole: sizes, and 64 KiB at 64 places of every file. A model that was exchanged,
converted again or trained on differs everywhere; 16 GB on shared storage are told apart in a second, not in a minute.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from pipelines.training.config import TrainingConfig
from pipelines.training.run_directory import flatten

_NUM_SAMPLES = 64
_SAMPLE_BYTES = 64 * 1024


def model_facts(config: TrainingConfig) -> dict[str, Any]:
    """Dotted names and plain values. `config.model.init_from` is a directory by now."""
    from pipelines.training.session import model_config

    facts: dict[str, Any] = dict(flatten(model_config(config).to_dict()))
    if config.model.init_from:
        facts["weights of init_from"] = weights_digest(Path(config.model.init_from))
    return facts


def weights_digest(directory: Path) -> str:
    """Fingerprint of a model's safetensors files."""
    digest = hashlib.sha256()
    for path in sorted(directory.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            for number in range(_NUM_SAMPLES):
                file.seek(max(0, size - _SAMPLE_BYTES) * number // (_NUM_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_BYTES))
    return f"sha256:{digest.hexdigest()}"
