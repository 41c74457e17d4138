"""The Triton convolution against its definition, for `tests.vamba.ops.interpreted`."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from vamba.ops.conv import reference

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 2e-3}


def inputs(length: int, width: int, dtype: torch.dtype, *, channels: int = 6, bias: bool = True) -> list[Tensor | None]:
    """x as a slice of a wider row, weight, bias."""
    generator = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    x = normal(2, length, 2 * channels + 3)[..., 3 : 3 + channels]
    return [x, normal(channels, width), normal(channels) if bias else None]


def sequences(length: int) -> Tensor:
    return torch.stack([torch.arange(length) // 2, torch.arange(length) // 9]).int() + 4


def run(
    conv: Callable[..., tuple[Tensor, Tensor]],
    given: list[Tensor | None],
    seq: Tensor | None,
    state: Tensor | None,
    *,
    wide: bool,
    through: tuple[bool, bool] = (True, True),
) -> list[Tensor]:
    """Outputs and gradients in float64, the arithmetic in the inputs' dtype or, where `wide`, in float64."""
    leaves = [None if t is None else (t.double() if wide else t).detach().requires_grad_() for t in (*given, state)]
    y, final = conv(*leaves[:3], seq_idx_BL=seq, initial_state_BCW=leaves[3])
    weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y)
    terms = ((y.double() * weights).sum(), (final.double() ** 2).sum())
    loss = torch.stack([term for term, used in zip(terms, through, strict=True) if used]).sum()
    gradients = torch.autograd.grad(
        loss, [t for t in leaves if t is not None], allow_unused=True, materialize_grads=True
    )
    return [t.double() for t in (y, final, *gradients)]


def compare(given: list[Tensor | None], seq: Tensor | None, state: Tensor | None, **options: tuple[bool, bool]) -> None:
    from vamba.ops.conv import triton

    triton._BACKWARD_TILES = 2  # several programs, so several partial sums
    x = given[0]
    assert x is not None
    actual = run(triton.conv, given, seq, state, wide=False, **options)
    wanted = run(reference.conv, given, seq, state, wide=True, **options)
    for name, a, w in zip(("y", "final", "dx", "dweight", "dbias", "dstate"), actual, wanted, strict=False):
        scale = max(w.abs().max().item(), 1.0)
        torch.testing.assert_close(
            a, w, rtol=0, atol=TOLERANCE[x.dtype] * scale, msg=lambda text, n=name: f"{n}: {text}"
        )


def equals_definition(length: int, width: int, dtype: torch.dtype, packed: bool, carried: bool) -> None:
    given = inputs(length, width, dtype, bias=width != 3)
    state = inputs(width, 1, dtype)[0] if carried else None
    state = None if state is None else state.transpose(1, 2).contiguous()
    compare(given, sequences(length) if packed else None, state)


def only_the_output_is_used() -> None:
    compare(inputs(21, 4, torch.float32), sequences(21), None, through=(True, False))


def only_the_final_state_is_used() -> None:
    compare(inputs(21, 4, torch.float32), sequences(21), None, through=(False, True))


def several_blocks_of_channels() -> None:
    compare(inputs(19, 4, torch.float32, channels=131), sequences(19), None)


def pieces_equal_the_whole_bitwise() -> None:
    from vamba.ops.conv import triton

    x, weight, bias = inputs(53, 4, torch.float32)
    whole, last = triton.conv(x, weight, bias)
    state, parts = None, []
    for piece in x.split((1, 2, 31, 19), dim=1):
        y, state = triton.conv(piece, weight, bias, initial_state_BCW=state)
        parts.append(y)
    assert torch.equal(torch.cat(parts, dim=1), whole)
    assert torch.equal(state, last)


def gradients_do_not_depend_on_chance() -> None:
    from vamba.ops.conv import triton

    given = inputs(53, 4, torch.float32)
    first, second = (run(triton.conv, given, sequences(53), None, wide=False) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def offsets_beyond_32_bits() -> None:
    """Rows 2^29 elements apart: the fifth lies 2^31 away. Untouched memory costs nothing."""
    from vamba.ops.conv import triton

    far = torch.empty(2**31 + 8, dtype=torch.float16).as_strided((1, 5, 8), (0, 2**29, 1))
    near = torch.randn(1, 5, 8).half()
    far.copy_(near)
    weight, bias = torch.randn(8, 4).half(), torch.randn(8).half()
    far_x, near_x = far.requires_grad_(), near.requires_grad_()
    results = []
    for x in (far_x, near_x):
        y, final = triton.conv(x, weight.requires_grad_(), bias)
        results.append([y, final, *torch.autograd.grad(y.float().sum() + final.float().sum(), [weight, x])])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def a_wide_kernel_is_refused() -> None:
    from vamba.ops.conv import triton

    try:
        triton.conv(torch.randn(1, 5, 6), torch.randn(6, 9), None)
    except ValueError as error:
        assert "9 wide" in str(error) and "'torch'" in str(error)
    else:
        raise AssertionError("a width of 9 was accepted")


_SMALL = itertools.product((1, 3, 5), (4,), (torch.float64,), (False, True), (False, True))
_LONG = itertools.product((53,), (2, 3, 4, 5), (torch.float64,), (False, True), (False, True))
_LOW = itertools.product((2, 47), (4,), (torch.float32, torch.float16), (False, True), (False, True))
CASES: dict[str, Callable[[], None]] = {
    f"{str(dtype).removeprefix('torch.')} length {length} width {width}{' packed' * packed}{' carried' * carried}": (
        functools.partial(equals_definition, length, width, dtype, packed, carried)
    )
    for length, width, dtype, packed, carried in (*_SMALL, *_LONG, *_LOW)
} | {
    case.__name__.replace("_", " "): case
    for case in (
        only_the_output_is_used,
        only_the_final_state_is_used,
        several_blocks_of_channels,
        pieces_equal_the_whole_bitwise,
        gradients_do_not_depend_on_chance,
        offsets_beyond_32_bits,
        a_wide_kernel_is_refused,
    )
}
