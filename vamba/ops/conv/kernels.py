"""The two Triton kernels of the causal depthwise convolution with SiLU: forward, and everything backward in one pass.

A program owns a tile of rows (tokens) and channels. An output needs W-1 neighbouring rows, so the tile is loaded at
every shift that occurs: all but one of those loads hit the cache, and nothing is copied or transposed. Rows before the
first are the initial state: row -1 is the state's last input. All offsets are 64 bits wide.

    forward   s_t = bias + sum_back w[W-1-back] x_{t-back},  y_t = s_t * sigmoid(s_t),  final state = the last W rows
    backward  ds_t = dy_t * silu'(s_t),  dx_r = sum_ahead w[W-1-ahead] ds_{r+ahead} + what the final state gives back
              dw[W-1-back] = sum_t ds_t x_{t-back},  dbias = sum_t ds_t
Terms that would cross a change of `seq_idx` are zero. The two sums leave each program as partial sums, so that no
gradient depends on the order in which programs run.

Everything but x is contiguous: y and dy (B, L, C), states (B, W, C), weight (C, W), seq (B, L).
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _load_rows(
    x_ptr, state_ptr, row, channel, length, channels, x_l, x_c, WIDTH: tl.constexpr, HAS_STATE: tl.constexpr
):
    """The raw inputs of any rows: from x, from the state for rows before the first, zero beyond both."""
    is_channel = channel < channels
    in_row = (row >= 0) & (row < length)
    tile = tl.load(
        x_ptr + row[:, None] * x_l + channel[None, :] * x_c, mask=in_row[:, None] & is_channel[None, :], other=0.0
    )
    if HAS_STATE:
        in_state = (row < 0) & (row >= -WIDTH)
        # Only programs at the start of a row see the state; the others skip these loads.
        if tl.min(row, axis=0) < 0:
            tile += tl.load(
                state_ptr + (row[:, None] + WIDTH) * channels + channel[None, :],
                mask=in_state[:, None] & is_channel[None, :],
                other=0.0,
            )
    return tile


@triton.jit
def _load_sequence(seq_ptr, row, length):
    """The sequence of each row; rows outside belong to that of the nearest row inside."""
    return tl.load(seq_ptr + tl.minimum(tl.maximum(row, 0), length - 1))


@triton.jit
def _load_weights(weight_ptr, channel, channels, WIDTH: tl.constexpr, ACC: tl.constexpr):
    """W vectors of the weight, ordered by how many rows back each one reads."""
    weights = ()
    for back in tl.static_range(WIDTH):
        tap = tl.load(weight_ptr + channel * WIDTH + (WIDTH - 1 - back), mask=channel < channels, other=0.0)
        weights = weights + (tap.to(ACC),)
    return weights


@triton.jit
def _store_final_state(
    x_ptr, state_ptr, seq_ptr, final_ptr, channel, length, channels, x_l, x_c,
    WIDTH: tl.constexpr, HAS_SEQ: tl.constexpr, HAS_STATE: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """The last W raw inputs, zero where they belong to a sequence before the last one."""
    place = tl.arange(0, BLOCK_W)
    row = length - WIDTH + place.to(tl.int64)
    tile = _load_rows(x_ptr, state_ptr, row, channel, length, channels, x_l, x_c, WIDTH, HAS_STATE)
    if HAS_SEQ:
        same = _load_sequence(seq_ptr, row, length) == tl.load(seq_ptr + length - 1)
        tile = tl.where(same[:, None], tile, 0.0)
    inside = (place < WIDTH)[:, None] & (channel < channels)[None, :]
    tl.store(final_ptr + place[:, None] * channels + channel[None, :], tile, mask=inside)


@triton.jit(do_not_specialize=["length"])
def conv_forward(
    x_ptr, weight_ptr, bias_ptr, seq_ptr, state_ptr, y_ptr, final_ptr,
    length, channels, x_b, x_l, x_c,
    WIDTH: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_SEQ: tl.constexpr, HAS_STATE: tl.constexpr,
    ACC: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(2).to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * BLOCK_L + tl.arange(0, BLOCK_L)
    channel = tl.program_id(1).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    x_ptr += batch * x_b
    seq_ptr += batch * length
    state_ptr += batch * channels * WIDTH

    weights = _load_weights(weight_ptr, channel, channels, WIDTH, ACC)
    s = tl.zeros((BLOCK_L, BLOCK_C), ACC)
    if HAS_BIAS:
        s += tl.load(bias_ptr + channel, mask=channel < channels, other=0.0).to(ACC)[None, :]
    if HAS_SEQ:
        own = _load_sequence(seq_ptr, row, length)
    for back in tl.static_range(WIDTH):
        tap = _load_rows(x_ptr, state_ptr, row - back, channel, length, channels, x_l, x_c, WIDTH, HAS_STATE).to(ACC)
        if HAS_SEQ and back > 0:
            tap = tl.where((_load_sequence(seq_ptr, row - back, length) == own)[:, None], tap, 0.0)
        s += weights[back][None, :] * tap
    y = s * tl.sigmoid(s)
    inside = (row < length)[:, None] & (channel < channels)[None, :]
    tl.store(y_ptr + (batch * length + row)[:, None] * channels + channel[None, :], y, mask=inside)

    if tl.program_id(0) == 0:
        _store_final_state(
            x_ptr, state_ptr, seq_ptr, final_ptr + batch * channels * WIDTH,
            channel, length, channels, x_l, x_c, WIDTH, HAS_SEQ, HAS_STATE, BLOCK_W,
        )  # fmt: skip


@triton.jit
def _load_shifts(
    x_ptr, state_ptr, seq_ptr, row, channel, length, channels, x_l, x_c,
    WIDTH: tl.constexpr, HAS_SEQ: tl.constexpr, HAS_STATE: tl.constexpr,
):  # fmt: skip
    """The tile at the 2W-1 shifts from W-1 rows back to W-1 rows ahead, and the sequences of those rows."""
    tiles = ()
    sequences = ()
    for shift in tl.static_range(2 * WIDTH - 1):
        at = row + (shift - (WIDTH - 1))
        tiles = tiles + (_load_rows(x_ptr, state_ptr, at, channel, length, channels, x_l, x_c, WIDTH, HAS_STATE),)
        if HAS_SEQ:
            sequences = sequences + (_load_sequence(seq_ptr, at, length),)
    return tiles, sequences


@triton.jit
def _same(sequences, first: tl.constexpr, second: tl.constexpr, value, HAS_SEQ: tl.constexpr):
    """`value` where two shifts of a row lie in one sequence, else zero."""
    if HAS_SEQ and first != second:
        value = tl.where((sequences[first] == sequences[second])[:, None], value, 0.0)
    return value


@triton.jit
def _preactivation_gradient(
    tiles, sequences, weights, bias, dy_ptr, row, channel, length, channels,
    AHEAD: tl.constexpr, WIDTH: tl.constexpr, HAS_SEQ: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """ds of the rows that lie `AHEAD` of the tile's; zero outside the row."""
    here: tl.constexpr = AHEAD + WIDTH - 1
    s = bias[None, :]
    for back in tl.static_range(WIDTH):
        s += weights[back][None, :] * _same(sequences, here, here - back, tiles[here - back].to(ACC), HAS_SEQ)
    at = row + AHEAD
    inside = ((at >= 0) & (at < length))[:, None] & (channel < channels)[None, :]
    dy = tl.load(dy_ptr + at[:, None] * channels + channel[None, :], mask=inside, other=0.0).to(ACC)
    gate = tl.sigmoid(s)
    return dy * gate * (1 + s * (1 - gate))


@triton.jit
def _store_input_gradient(
    dx, dx_ptr, dfinal_ptr, dstate_ptr, seq_ptr, row, channel, length, channels,
    WIDTH: tl.constexpr, HAS_SEQ: tl.constexpr, HAS_STATE: tl.constexpr, HAS_DFINAL: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Adds what comes back through the final state, and stores: rows of x in dx, the rows before them in dstate."""
    is_channel = (channel < channels)[None, :]
    if HAS_DFINAL:
        place = row - (length - WIDTH)
        if tl.max(place, axis=0) >= 0:
            kept = (place >= 0) & (row < length)
            if HAS_SEQ:
                kept = kept & (_load_sequence(seq_ptr, row, length) == tl.load(seq_ptr + length - 1))
            offset = place[:, None] * channels + channel[None, :]
            dx += tl.load(dfinal_ptr + offset, mask=kept[:, None] & is_channel, other=0.0).to(ACC)
    in_row = (row >= 0) & (row < length)
    tl.store(dx_ptr + row[:, None] * channels + channel[None, :], dx, mask=in_row[:, None] & is_channel)
    if HAS_STATE and tl.min(row, axis=0) < 0:
        in_state = ((row < 0) & (row >= -WIDTH))[:, None] & is_channel
        tl.store(dstate_ptr + (row[:, None] + WIDTH) * channels + channel[None, :], dx, mask=in_state)


@triton.jit(do_not_specialize=["length"])
def conv_backward(
    x_ptr, weight_ptr, bias_ptr, seq_ptr, state_ptr, dy_ptr, dfinal_ptr, dx_ptr, dstate_ptr, partial_ptr,
    length, channels, x_b, x_l, x_c,
    WIDTH: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_SEQ: tl.constexpr, HAS_STATE: tl.constexpr,
    HAS_DFINAL: tl.constexpr, ACC: tl.constexpr, TILES: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    # With a state, the first tile lies before the row: its gradient is the state's.
    row = tl.program_id(0).to(tl.int64) * (TILES * BLOCK_L) - (BLOCK_L if HAS_STATE else 0) + tl.arange(0, BLOCK_L)
    x_ptr += batch * x_b
    seq_ptr += batch * length
    dy_ptr += batch * length * channels
    dx_ptr += batch * length * channels
    state_ptr += batch * channels * WIDTH
    dstate_ptr += batch * channels * WIDTH
    dfinal_ptr += batch * channels * WIDTH

    weights = _load_weights(weight_ptr, channel, channels, WIDTH, ACC)
    bias = tl.zeros((BLOCK_C,), ACC)
    if HAS_BIAS:
        bias += tl.load(bias_ptr + channel, mask=channel < channels, other=0.0).to(ACC)
    sums = ()
    for _ in tl.static_range(WIDTH + 1):
        sums = sums + (tl.zeros((BLOCK_L, BLOCK_C), ACC),)
    for _ in range(TILES):
        tiles, sequences = _load_shifts(
            x_ptr, state_ptr, seq_ptr, row, channel, length, channels, x_l, x_c, WIDTH, HAS_SEQ, HAS_STATE
        )
        dx = tl.zeros((BLOCK_L, BLOCK_C), ACC)
        here: tl.constexpr = WIDTH - 1
        for ahead in tl.static_range(WIDTH):
            ds = _preactivation_gradient(
                tiles, sequences, weights, bias, dy_ptr, row, channel, length, channels, ahead, WIDTH, HAS_SEQ, ACC
            )
            dx += weights[ahead][None, :] * _same(sequences, here, here + ahead, ds, HAS_SEQ)
            if ahead == 0:
                added = ()
                for back in tl.static_range(WIDTH):
                    tap = _same(sequences, here, here - back, tiles[here - back].to(ACC), HAS_SEQ)
                    added = added + (sums[back] + ds * tap,)
                sums = added + (sums[WIDTH] + ds,)
        _store_input_gradient(
            dx, dx_ptr, dfinal_ptr, dstate_ptr, seq_ptr, row, channel, length, channels,
            WIDTH, HAS_SEQ, HAS_STATE, HAS_DFINAL, ACC,
        )  # fmt: skip
        row += BLOCK_L

    partial_ptr += (batch * tl.num_programs(0) + tl.program_id(0)) * (WIDTH + 1) * channels
    for index in tl.static_range(WIDTH + 1):
        tl.store(partial_ptr + index * channels + channel, tl.sum(sums[index], axis=0), mask=channel < channels)
