"""mamba_ssm's kernels behind our signature, against the definition, for `tests.vamba.ops.interpreted`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from vamba.ops.scan import reference

NAMES = ("x", "dt", "a", "b", "c", "d", "state")


def arguments(
    length: int,
    *,
    batch: int = 1,
    heads: int = 2,
    values: int = 16,
    groups: int = 1,
    state: int = 16,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """x, b and c are slices of one wider row, as the mixer's are."""
    generator = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    inner, shared = heads * values, groups * state
    row = normal(batch, length, inner + 2 * shared + 3).to(dtype)
    x, b, c, _ = row.split([inner, shared, shared, 3], dim=-1)
    return {
        "x": x.unflatten(-1, (heads, values)),
        "dt": torch.nn.functional.softplus(normal(batch, length, heads)),
        "a": -normal(heads).exp(),
        "b": b.unflatten(-1, (groups, state)),
        "c": c.unflatten(-1, (groups, state)),
        "d": normal(heads),
        "state": normal(batch, heads, values, state),
    }


def sequences(length: int, cuts: list[int], batch: int = 1) -> Tensor:
    """Numbered from 7, so that the first sequence is not 0; the second row changes elsewhere."""
    row = torch.full((length,), 7, dtype=torch.int32)
    for cut in cuts:
        row[cut:] += 1
    return torch.stack([row, 7 + torch.arange(length, dtype=torch.int32) // 11])[:batch]


def run(
    scan: Callable[..., Any], given: dict[str, Tensor], chunk: int, seq: Tensor | None, *, wide: bool
) -> list[Tensor]:
    """Outputs and gradients; in float64 where `wide`."""
    leaves = {name: (t.double() if wide else t).detach().requires_grad_() for name, t in given.items()}
    y, final = scan(
        *(leaves[name] for name in NAMES[:-1]),
        chunk_size=chunk,
        seq_idx_BL=seq,
        initial_state_BHPN=leaves.get("state"),
    )
    assert y.dtype == leaves["x"].dtype and final.dtype == (torch.float64 if wide else torch.float32)
    weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y)
    loss = (y.double() * weights).sum() + (final.double() ** 2).sum()
    return [t.double() for t in (y, final, *torch.autograd.grad(loss, list(leaves.values())))]


def compare(given: dict[str, Tensor], chunk: int, seq: Tensor | None) -> None:
    from vamba.ops.scan import mamba_ssm

    tolerance = 2e-3 if given["x"].dtype == torch.float16 else 1e-5
    actual = run(mamba_ssm.scan, given, chunk, seq, wide=False)
    wanted = run(reference.scan, given, chunk, seq, wide=True)
    for name, a, w in zip(("y", "final", *given), actual, wanted, strict=True):
        error = ((a - w).norm() / w.norm().clamp(min=1e-30)).item()
        assert error < tolerance, f"{name} is off by {error:.1e}"


def equals_definition(length: int, chunk: int, cuts: list[int] | None, carried: bool, **sizes: Any) -> None:
    given = arguments(length, **sizes)
    if not carried:
        del given["state"]
    compare(given, chunk, None if cuts is None else sequences(length, cuts, sizes.get("batch", 1)))


@contextmanager
def largest_offset_allowed(offset: int) -> Iterator[list[tuple[int, int]]]:
    """Lowers the limit of one call; yields the (rows, tokens) of the calls that are made."""
    from vamba.ops.scan import mamba_ssm

    calls: list[tuple[int, int]] = []
    limit, kernels = mamba_ssm.MAX_OFFSET, mamba_ssm.mamba_chunk_scan_combined

    def recorded(x: Tensor, *args: Any, **options: Any) -> Any:
        calls.append((x.shape[0], x.shape[1]))
        return kernels(x, *args, **options)

    mamba_ssm.MAX_OFFSET, mamba_ssm.mamba_chunk_scan_combined = offset, recorded
    try:
        yield calls
    finally:
        mamba_ssm.MAX_OFFSET, mamba_ssm.mamba_chunk_scan_combined = limit, kernels


def a_long_row_is_cut(cuts: list[int] | None) -> None:
    with largest_offset_allowed(2047) as calls:
        equals_definition(61, 16, cuts, carried=True)
    assert calls == [(1, 16)] * 3 + [(1, 13)], calls
    with largest_offset_allowed(2 * 32 * 67) as calls:
        equals_definition(61, 16, cuts, carried=True)
    assert calls == [(1, 61)], calls


def rows_that_do_not_fit_together_run_alone() -> None:
    with largest_offset_allowed(61 * 67 * 2 - 1000) as calls:
        equals_definition(61, 16, [5, 32], carried=True, batch=2)
    assert calls == [(1, 61)] * 2, calls


def a_chunk_that_does_not_fit_is_refused() -> None:
    with largest_offset_allowed(100):
        expect_value_error(lambda: equals_definition(61, 16, None, carried=True), "one chunk of 16 tokens", "'torch'")


def float64_is_refused() -> None:
    from vamba.ops.scan import mamba_ssm

    given = {name: t.double() for name, t in arguments(5).items()}
    expect_value_error(lambda: run(mamba_ssm.scan, given, 16, None, wide=False), "torch.float64", "'torch'")


def expect_value_error(call: Callable[[], Any], *words: str) -> None:
    try:
        call()
    except ValueError as error:
        assert all(word in str(error) for word in words), str(error)
    else:
        raise AssertionError("it was accepted")


def cuts_at_chunk_boundaries_change_nothing() -> None:
    """Outputs and states bit for bit: this is what streaming relies on."""
    from vamba.ops.scan import mamba_ssm

    given = arguments(59)
    stream = [given[name] for name in ("x", "dt", "b", "c")]

    def scan(x: Tensor, dt: Tensor, b: Tensor, c: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return mamba_ssm.scan(x, dt, given["a"], b, c, given["d"], chunk_size=16, initial_state_BHPN=state)

    whole, last = scan(*stream, given["state"])
    state, parts = given["state"], []
    for x, dt, b, c in zip(*(t.split((32, 16, 11), dim=1) for t in stream), strict=True):
        y, state = scan(x, dt, b, c, state)
        parts.append(y)
    assert torch.equal(torch.cat(parts, dim=1), whole)
    assert torch.equal(state, last)


class _Offsets(TorchDispatchMode):
    """The largest element offset of any tensor that an operation makes."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            # The interpreter itself copies storages as bytes.
            if isinstance(tensor, Tensor) and tensor.numel() and tensor.dtype.itemsize > 1:
                reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
                self.largest = max(self.largest, reach)
        return out


def no_tensor_reaches_beyond_the_limit(length: int, chunk: int, **sizes: int) -> None:
    """The list of tensors in `call_size` is complete: what the kernels' own code allocates stays below its answer."""
    from vamba.ops.scan import mamba_ssm
    from vamba.ops.scan.call_size import Sizes

    given = {name: t.requires_grad_() for name, t in arguments(length, **sizes).items()}
    state = given.pop("state")
    with _Offsets() as seen:
        y, final = mamba_ssm.mamba_chunk_scan_combined(
            given["x"], given["dt"], given["a"], given["b"], given["c"], chunk, D=given["d"],
            initial_states=state, return_final_states=True,
        )  # fmt: skip
        torch.autograd.backward([y, final], [torch.ones_like(y), torch.ones_like(final)])
    expected = Sizes.of(given["x"], given["dt"], given["b"], given["c"], chunk).largest_offset(length)
    assert seen.largest <= expected, (seen.largest, expected)


CASES: dict[str, Callable[[], None]] = {
    "plain": functools.partial(equals_definition, 53, 16, None, False),
    "carried": functools.partial(equals_definition, 53, 16, None, True),
    "packed": functools.partial(equals_definition, 53, 16, [3, 16, 29, 30], False),
    "packed and carried": functools.partial(equals_definition, 53, 16, [3, 16, 29, 30], True),
    "shorter than a chunk": functools.partial(equals_definition, 7, 16, [3], True),
    "one token": functools.partial(equals_definition, 1, 16, None, True),
    "float16": functools.partial(equals_definition, 53, 16, [3, 16, 29], True, dtype=torch.float16),
    "two rows, odd sizes, two groups": functools.partial(
        equals_definition, 37, 16, [3, 16], True, batch=2, heads=4, values=3, groups=2, state=5
    ),
    "a chunk of twelve": functools.partial(equals_definition, 29, 12, None, True),
    "a state of 160": functools.partial(equals_definition, 29, 16, None, True, state=160),
    "a long row is cut": functools.partial(a_long_row_is_cut, None),
    "a long packed row is cut, once where a sequence starts": functools.partial(a_long_row_is_cut, [3, 32, 40]),
    "offsets, many states": functools.partial(no_tensor_reaches_beyond_the_limit, 37, 16, heads=4, values=8),
    "offsets, many splits": functools.partial(no_tensor_reaches_beyond_the_limit, 19, 32, heads=8, values=2, state=3),
    "offsets, a large chunk": functools.partial(no_tensor_reaches_beyond_the_limit, 33, 64, heads=2, values=2, state=2),
} | {
    case.__name__.replace("_", " "): case
    for case in (
        rows_that_do_not_fit_together_run_alone,
        a_chunk_that_does_not_fit_is_refused,
        float64_is_refused,
        cuts_at_chunk_boundaries_change_nothing,
    )
}
