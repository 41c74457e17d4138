"""mamba_ssm's scan: its kernels in the interpreter against the definition, and what one call may take."""

from __future__ import annotations

import sys
import types

import pytest
import torch

from tests.vamba.ops.interpreted import run_cases
from tests.vamba.ops.scan_cases import CASES
from vamba.ops.scan.call_size import Sizes, tokens_per_call

LIMIT = 2**31 - 1


@pytest.fixture(scope="module")
def problems() -> dict[str, str | None]:
    return run_cases("tests.vamba.ops.scan_cases")


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_in_the_interpreter(case: str, problems: dict[str, str | None]) -> None:
    assert problems[case] is None, problems[case]


def seven_b(tokens: int, row: int, *, batch: int = 1, chunk: int = 256) -> Sizes:
    """The 7B model's mixer, with x, B and C as slices of rows of so many channels."""
    given = torch.empty(batch, tokens, row, device="meta")
    x, b, c = given[..., :7168], given[..., 7168:7296], given[..., 7296:7424]
    dt = torch.empty(batch, tokens, 112, device="meta")
    return Sizes.of(x.unflatten(-1, (112, 64)), dt, b.unflatten(-1, (1, 128)), c.unflatten(-1, (1, 128)), chunk)


@pytest.fixture(autouse=True)
def h100(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = types.SimpleNamespace(multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)


@pytest.mark.parametrize(
    ("row", "tokens"),
    [
        (14704, 146_048),  # z, x, B, C and dt in one projection: the row that a fused kernel reads
        (7424, 289_262),  # x, B and C alone: what the convolution leaves
    ],
)
def test_the_last_token_that_fits(row: int, tokens: int) -> None:
    assert seven_b(tokens, row).fit(tokens, LIMIT)
    assert not seven_b(tokens + 1, row).fit(tokens + 1, LIMIT)
    assert tokens_per_call(seven_b(tokens, row), tokens, LIMIT) == tokens


def test_parts_are_equal_whole_chunks_and_as_few_as_fit() -> None:
    assert tokens_per_call(seven_b(153_088, 14704), 153_088, LIMIT) == 299 * 256
    assert tokens_per_call(seven_b(538_200, 7424), 538_200, LIMIT) == 1052 * 256


def test_the_states_are_counted() -> None:
    """With short chunks there are many: 112 heads of 64 x 128 per 16 tokens."""
    tokens = 2**31 // (112 * 64 * 128) * 16
    assert seven_b(tokens, 7424, chunk=16).fit(tokens, LIMIT)
    assert not seven_b(tokens + 1, 7424, chunk=16).fit(tokens + 1, LIMIT)


def test_the_batch_is_counted() -> None:
    assert not seven_b(100_000, 7424, batch=3).fit(100_000, LIMIT)
    assert seven_b(100_000, 7424, batch=2).fit(100_000, LIMIT)


def test_cudas_grid_is_counted() -> None:
    sizes = Sizes.of(*(torch.empty(1, 65535 * 2 + 1, 1, n, device="meta")[..., :n] for n in (2, 1, 2, 2)), 2)
    assert sizes.fit(65535 * 2, LIMIT)
    assert not sizes.fit(65535 * 2 + 1, LIMIT)


def test_a_chunk_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="one chunk of 256 tokens.*112 heads of 64 values.*chunk_size smaller"):
        tokens_per_call(seven_b(1024, 7424), 1024, 1_000_000)


def test_refuses_the_cpu_by_name() -> None:
    from vamba.ops.scan import mamba_ssm

    x, dt, b = (torch.zeros(1, 5, 2, n) for n in (4, 1, 3))
    with pytest.raises(ValueError, match="got a tensor on cpu.*choose backends.scan 'torch'"):
        mamba_ssm.scan(x, dt[..., 0], torch.zeros(2), b, b, torch.zeros(2), chunk_size=4)


def test_import_leaves_no_stand_in_behind() -> None:
    import vamba.ops.scan.mamba_ssm  # noqa: F401

    assert "selective_scan_cuda" not in sys.modules
