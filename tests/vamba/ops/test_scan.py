"""The chunked scan against the recurrence: outputs, states and gradients, in float64, on awkward lengths."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vamba.ops.scan import chunked, inference, reference
from vamba.ops.scan.blocks import block_of

NAMES = ("x", "dt", "a", "b", "c", "d", "state")


def arguments(length: int, groups: int, *, batch: int = 2, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    heads, values, state = 4, 3, 5

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    made = {
        "x": normal(batch, length, heads, values),
        "dt": torch.nn.functional.softplus(normal(batch, length, heads)),
        "a": -normal(heads).exp(),
        "b": normal(batch, length, groups, state),
        "c": normal(batch, length, groups, state),
        "d": normal(heads),
        "state": normal(batch, heads, values, state),
    }
    return {name: tensor.requires_grad_() for name, tensor in made.items()}


def sequences(length: int, cuts: list[int]) -> Tensor:
    row = torch.zeros(length, dtype=torch.int32)
    for cut in cuts:
        row[cut:] += 1
    return torch.stack([row, torch.arange(length, dtype=torch.int32) // 7])


def run(scan, given: dict[str, Tensor], chunk: int, seq: Tensor | None) -> list[Tensor]:  # type: ignore[no-untyped-def]
    y, state = scan(
        *(given[name] for name in NAMES[:-1]), chunk_size=chunk, seq_idx_BL=seq, initial_state_BHPN=given["state"]
    )
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    gradients = torch.autograd.grad((y * weights).sum() + (state**2).sum(), [given[name] for name in NAMES])
    return [y, state, *gradients]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(("length", "chunk"), [(1, 8), (7, 8), (8, 8), (31, 8), (53, 16), (97, 64)])
def test_equals_recurrence(length: int, chunk: int, groups: int, packed: bool) -> None:
    given = arguments(length, groups)
    seq = sequences(length, [c for c in (3, 8, 29, 30) if c < length]) if packed else None
    expected = run(reference.scan, given, chunk, seq)
    for name, actual, wanted in zip(
        ("y", "final", *NAMES), run(chunked.scan, given, chunk, seq), expected, strict=True
    ):
        torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("limit", "value"), [("_SEGMENT_TOKENS", 16), ("_RUN_BYTES", 1)])
def test_pieces_of_a_row_are_one_scan(monkeypatch: pytest.MonkeyPatch, limit: str, value: int, packed: bool) -> None:
    """Segments, which are recomputed, and runs: states and sequences pass from piece to piece."""
    given = arguments(71, 2)
    seq = sequences(71, [16, 40]) if packed else None
    expected = run(reference.scan, given, 8, seq)
    monkeypatch.setattr(chunked, limit, value)
    for actual, wanted in zip(run(chunked.scan, given, 8, seq), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(("length", "chunk"), [(1, 8), (31, 8), (97, 64), (200, 64)])
@pytest.mark.parametrize("decay", ["slow", "steep", "some heads steep", "steep here and there"])
def test_without_gradients_equals_recurrence(decay: str, length: int, chunk: int, groups: int, packed: bool) -> None:
    """However fast a head forgets in a block: its factors may not overflow."""
    given = {name: tensor.detach() for name, tensor in arguments(length, groups).items()}
    factor = {"slow": 1e-3, "steep": 1e3, "some heads steep": torch.tensor([1e-3, 1e3, 1e-3, 20.0])}.get(decay)
    if factor is None:
        factor = torch.where(torch.arange(length) % 100 < 20, 300.0, 1e-2)[:, None]
    given["dt"] = given["dt"] * factor
    seq = sequences(length, [c for c in (3, 29, 30, 130) if c < length]) if packed else None
    inputs = [given[name] for name in NAMES[:-1]]
    options = {"chunk_size": chunk, "seq_idx_BL": seq, "initial_state_BHPN": given["state"]}
    for actual, wanted in zip(chunked.scan(*inputs, **options), reference.scan(*inputs, **options), strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-9)


def test_gradients_take_the_path_that_records_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The path without gradients works in place; both give the same numbers."""
    given = arguments(70, 2)
    inputs = [given[name] for name in NAMES[:-1]]
    recorded, _ = chunked.scan(*inputs, chunk_size=16)
    with torch.no_grad():
        plain, _ = chunked.scan(*inputs, chunk_size=16)
    assert recorded.requires_grad and not plain.requires_grad
    torch.testing.assert_close(plain, recorded.detach(), rtol=1e-11, atol=1e-11)
    before = {name: tensor.detach().clone() for name, tensor in given.items()}
    monkeypatch.setattr(inference, "_RUN_BYTES", 1)
    with torch.no_grad():
        in_many_runs, _ = chunked.scan(*inputs, chunk_size=16)
    assert torch.equal(in_many_runs, plain)
    assert all(torch.equal(given[name], before[name]) for name in NAMES), "an input was written to"


def test_no_tokens_leave_the_state_as_it_is() -> None:
    given = {name: tensor.detach() for name, tensor in arguments(5, 2).items()}
    nothing = [given[name][:, :0] if name in ("x", "dt", "b", "c") else given[name] for name in NAMES[:-1]]
    y, state = chunked.scan(*nothing, chunk_size=8, initial_state_BHPN=given["state"])
    assert y.shape[1] == 0
    torch.testing.assert_close(state, given["state"], rtol=0, atol=0)


def test_strong_decay_stays_finite() -> None:
    given = arguments(64, 1)
    given["dt"] = (given["dt"].detach() * 1e3).requires_grad_()
    assert all(torch.isfinite(t).all() for t in run(chunked.scan, given, 64, None))


def test_low_precision_inputs_are_scanned_in_float32() -> None:
    given = {name: tensor.detach() for name, tensor in arguments(33, 1).items()}
    low = {name: t.bfloat16() if name in ("x", "b", "c") else t.float() for name, t in given.items()}
    y, state = chunked.scan(*(low[name] for name in NAMES[:-1]), chunk_size=16)
    expected, _ = reference.scan(*(low[name] for name in NAMES[:-1]), chunk_size=16)
    assert y.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    torch.testing.assert_close(y, expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("decay", [0.01, 1.0, 100.0])
@pytest.mark.parametrize(("chunk", "length", "cut"), [(256, 775, 512), (64, 199, 64), (16, 33, 32), (12, 61, 24)])
def test_cuts_at_chunk_boundaries_change_no_bit(
    chunk: int, length: int, cut: int, decay: float, recorded: bool, packed: bool
) -> None:
    """What streaming relies on: a video run in pieces of whole chunks is the video run at once."""
    given = {name: tensor.detach().float() for name, tensor in arguments(length, 2).items()}
    given["dt"] = given["dt"] * decay
    given["d"].requires_grad_(recorded)
    seq = sequences(length, [5, cut - 1]) if packed else None

    def scan(part: slice, state: Tensor) -> tuple[Tensor, Tensor]:
        x, dt, b, c = (given[name][:, part] for name in ("x", "dt", "b", "c"))
        own = None if seq is None else seq[:, part]
        return chunked.scan(
            x, dt, given["a"], b, c, given["d"], chunk_size=chunk, seq_idx_BL=own, initial_state_BHPN=state
        )

    whole, last = scan(slice(None), given["state"])
    # A sequence that starts at the cut gets no state: in the second row, one does.
    first, state = scan(slice(cut), given["state"])
    continues = torch.ones(2, dtype=torch.bool) if seq is None else seq[:, cut] == seq[:, cut - 1]
    second, final = scan(slice(cut, None), state * continues[:, None, None, None])
    assert torch.equal(torch.cat([first, second], dim=1), whole)
    assert torch.equal(final, last)


@pytest.mark.parametrize(("chunk", "block"), [(256, 64), (64, 64), (96, 48), (12, 12), (8, 8), (97, 97), (1, 1)])
def test_blocks_divide_chunks(chunk: int, block: int) -> None:
    assert block_of(chunk) == block
