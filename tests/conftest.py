"""What holds for every test: one thread per process, no telemetry, nothing written outside the test's own folder.

The environment is set when this file is imported, before torch, Ray or MLflow can read it, and every child process
inherits it. A test that starts Ray uses `ray.init(address="local")`, at most once per module, and never `ray stop`:
that would end the clusters of other people on the machine.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest

_ENVIRONMENT = {
    # Tests run side by side; more threads than cores only slow each other down.
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "MPLBACKEND": "Agg",
    # Explicit, so that a token file left in the home directory by another cluster changes nothing here.
    "RAY_AUTH_MODE": "token",
}
for _name, _value in _ENVIRONMENT.items():
    os.environ[_name] = _value
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
# A cluster address in the developer's shell wins over `ray.init(address="local")` in child processes.
os.environ.pop("RAY_ADDRESS", None)


@pytest.fixture(autouse=True)
def vamba_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty VAMBA_HOME for each test, so that no test sees what another, or the developer, has stored."""
    home = tmp_path / "vamba-home"
    monkeypatch.setenv("VAMBA_HOME", str(home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return home


NEEDS_GPU = (
    "compares what runs on an NVIDIA GPU with the reference, and torch sees none here; on the CPU the same kernels run "
    "in Triton's interpreter (tests/vamba/ops), and the GPU script runs dry (tests/benchmarks)"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips `gpu` tests where torch sees no GPU: the one reason for a skip here, but for a missing promtool."""
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items:
        return
    import torch

    if not torch.cuda.is_available():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason=NEEDS_GPU))
