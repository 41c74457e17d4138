"""The shifted convolution against its definition: outputs, states and gradients, with carried state and packed rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vamba.ops.conv import reference, shifted


def run(conv, given: list[Tensor], seq: Tensor | None, state: Tensor | None) -> list[Tensor]:  # type: ignore[no-untyped-def]
    y, final = conv(*given, seq_idx_BL=seq, initial_state_BCW=state)
    inputs = [*given, *([] if state is None else [state])]
    loss = (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum() + (final**2).sum()
    return [y, final, *torch.autograd.grad(loss, inputs)]


@pytest.mark.parametrize("carried", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 23])
def test_equals_definition(length: int, packed: bool, carried: bool) -> None:
    torch.manual_seed(length)
    given = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((2, length, 6), (6, 4), (6,))]
    seq = torch.stack([torch.arange(length) // 2, torch.arange(length) // 9]).int() if packed else None
    state = torch.randn(2, 6, 4, dtype=torch.float64, requires_grad=True) if carried else None
    expected = run(reference.conv, given, seq, state)
    for actual, wanted in zip(run(shifted.conv, given, seq, state), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("weight_dtype", [torch.bfloat16, torch.float32])
def test_low_precision_sums_in_float32(weight_dtype: torch.dtype) -> None:
    """Equal to the definition to the last bit of bfloat16, whatever the weight's dtype."""
    torch.manual_seed(0)
    x, weight, bias = torch.randn(1, 50, 6).bfloat16(), torch.randn(6, 4).to(weight_dtype), torch.randn(6)
    expected, _ = reference.conv(x, weight, bias)
    y, _ = shifted.conv(x, weight, bias)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("conv", [reference.conv, shifted.conv])
def test_is_torchs_causal_convolution(conv) -> None:  # type: ignore[no-untyped-def]
    x, weight = torch.randn(2, 17, 6), torch.randn(6, 4)
    expected = torch.nn.functional.conv1d(x.transpose(1, 2), weight[:, None], groups=6, padding=3)[..., :17]
    y, _ = conv(x, weight, None)
    torch.testing.assert_close(y, torch.nn.functional.silu(expected.transpose(1, 2)))


@pytest.mark.parametrize("cut", [1, 3, 4, 10])
def test_state_continues_a_row(cut: int) -> None:
    x, weight, bias = torch.randn(1, 13, 6), torch.randn(6, 4), torch.randn(6)
    whole, final = shifted.conv(x, weight, bias)
    first, state = shifted.conv(x[:, :cut], weight, bias)
    second, last = shifted.conv(x[:, cut:], weight, bias, initial_state_BCW=state)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole)
    torch.testing.assert_close(last, final)
