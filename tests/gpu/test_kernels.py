"""Every backend on a real GPU against the definition: the checks of `benchmarks/gpu`, without its timings."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.gpu import checks, inputs, timings
from benchmarks.gpu.machine import Machine

pytestmark = [pytest.mark.gpu, pytest.mark.slow]


@pytest.fixture(scope="module")
def machine() -> Machine:
    import torch

    return Machine(device=torch.device("cuda"), interpreted=False)


def test_every_backend_equals_the_definition(machine: Machine) -> None:
    found: Iterator[checks.Check] = checks.run_checks(machine, inputs.SEVEN_B)
    wrong = [check.to_dict() for check in found if not check.ok]
    assert not wrong, wrong


def test_the_mixer_never_waits_for_the_gpu(machine: Machine) -> None:
    rows = timings.run_without_synchronization(machine, inputs.SEVEN_B)
    assert all(row["problem"] is None for row in rows), rows
