"""GRU: all steps in one compiled call, a share of the batch for each thread, as :mod:`recurrent_lstm` says."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange, types

from ...backend import kernel, registered_ops
from .common import add_to, compiled, expect, parallel_for, sigmoid32, tanh32
from .recurrent import LENGTHS, MATRIX, PACKED, READ, VECTOR, WRITE, Sequences, around, by_time, share, states
from .recurrent_product import rows_times
from .tiles import padded

_ZERO, _ONE = np.float32(0), np.float32(1)


@compiled
def _forward_row(gates, bias, before, h):  # type: ignore[no-untyped-def]
    """One sequence, one step: `gates` become r, z, n and the state's part of n; `h` the new state."""
    width = h.size
    add_to(gates[: 4 * width], bias)
    sigmoids, z = gates[: 2 * width], gates[width : 2 * width]
    n, un = gates[2 * width : 3 * width], gates[3 * width : 4 * width]
    for u in range(2 * width):
        sigmoids[u] = sigmoid32(sigmoids[u])
    for u in range(width):
        n[u] += sigmoids[u] * un[u]
    for u in range(width):
        n[u] = tanh32(n[u])
    for u in range(width):
        h[u] = n[u] + z[u] * (before[u] - n[u])


@parallel_for(WRITE, PACKED, PACKED, VECTOR, LENGTHS, types.boolean, WRITE, WRITE, types.intp)
def _forward(gates, packed, packed_n, bias, lengths, reverse, hidden, y, parts):  # type: ignore[no-untyped-def]
    time, batch = gates.shape[:2]
    width = hidden.shape[2]
    for part in prange(parts):
        begin, end = share(batch, part, parts)
        for step in range(time):
            t = time - 1 - step if reverse else step
            before, after = (t + 1, t) if reverse else (t, t + 1)
            left = hidden.ctypes.data + before * hidden.strides[0] + begin * hidden.strides[1]
            target = gates.ctypes.data + t * gates.strides[0] + begin * gates.strides[1]
            rows_times(left, hidden.strides[1], end - begin, packed, target, gates.strides[1], 1)
            target += 4 * 3 * width  # the state's part of n stays by itself: r multiplies it alone
            rows_times(left, hidden.strides[1], end - begin, packed_n, target, gates.strides[1], 0)
            for b in range(begin, end):
                if t < lengths[b]:
                    _forward_row(gates[t, b], bias, hidden[before, b], hidden[after, b])
                    y[b, t] = hidden[after, b]
                else:
                    gates[t, b] = _ZERO
                    hidden[after, b] = hidden[before, b]
                    y[b, t] = _ZERO


@compiled
def _backward_row(gates, before, dh, dgates):  # type: ignore[no-untyped-def]
    """One sequence, one step: `dgates` becomes dr, dz, dn and du^n; `dh` what passes to the state before through z."""
    width = before.size
    r, z = gates[:width], gates[width : 2 * width]
    n, un = gates[2 * width : 3 * width], gates[3 * width : 4 * width]
    dr, dz = dgates[:width], dgates[width : 2 * width]
    dn, dun = dgates[2 * width : 3 * width], dgates[3 * width : 4 * width]
    for u in range(width):
        dn[u] = dh[u] * (_ONE - z[u]) * (_ONE - n[u] * n[u])
    for u in range(width):
        dz[u] = dh[u] * (before[u] - n[u]) * z[u] * (_ONE - z[u])
    for u in range(width):
        dr[u] = dn[u] * un[u] * r[u] * (_ONE - r[u])
    for u in range(width):
        dun[u] = dn[u] * r[u]
    for u in range(width):
        dh[u] *= z[u]


@parallel_for(READ, PACKED, PACKED, READ, LENGTHS, types.boolean, READ, WRITE, MATRIX, WRITE, types.intp)
def _backward(  # type: ignore[no-untyped-def]
    gates, packed, packed_n, dy, lengths, reverse, hidden, dgates, dh, dbias, parts
):
    time, batch, width = dy.shape
    for part in prange(parts):
        begin, end = share(batch, part, parts)
        total, of_step = dbias[part, 0], dbias[part, 1]
        total[:] = _ZERO
        for step in range(time):
            t = step if reverse else time - 1 - step
            before = t + 1 if reverse else t
            of_step[:] = _ZERO
            for b in range(begin, end):
                row = dgates[t, b]
                if t < lengths[b]:
                    carried = dh[b, :width]
                    add_to(carried, dy[t, b])
                    _backward_row(gates[t, b], hidden[before, b], carried, row)
                    add_to(of_step, row)
                else:
                    row[:] = _ZERO
            add_to(total, of_step)
            left = dgates.ctypes.data + t * dgates.strides[0] + begin * dgates.strides[1]
            target = dh.ctypes.data + begin * dh.strides[0]
            rows_times(left, dgates.strides[1], end - begin, packed, target, dh.strides[0], 1)
            rows_times(left + 4 * 3 * width, dgates.strides[1], end - begin, packed_n, target, dh.strides[0], 1)


@kernel("gru", device="cpu")
def gru(
    x: Any, h0: Any, weight_ih: Any, weight_hh: Any, bias_ih: Any, bias_hh: Any, lengths: Any, reverse: bool
) -> Any:
    s = Sequences("gru", x, h0, weight_ih, weight_hh, lengths, gates=3)
    if s.empty:
        return registered_ops()["gru"].reference(x, h0, weight_ih, weight_hh, bias_ih, bias_hh, lengths, reverse)
    two, three = 2 * s.width, 3 * s.width
    bias_i, bias_h = s.bias(bias_ih, "bias_ih", three), s.bias(bias_hh, "bias_hh", three)
    bias = np.concatenate([bias_i[:two] + bias_h[:two], bias_i[two:], bias_h[two:]])
    gates, hidden = s.room(three + padded(s.width)), states(h0, s.time, reverse)
    y = np.empty((s.batch, s.time, s.width), dtype=np.float32)
    s.inputs_times(x, weight_ih, gates)
    if s.one_step:
        of_state = np.matmul(h0, weight_hh.T)
        gates[0, :, :two] += of_state[:, :two]
        gates[0, :, three : three + s.width] = of_state[:, two:]
    _forward(gates, s.packed(weight_hh[:two].T), s.packed(weight_hh[two:].T), bias, s.lengths, reverse, hidden, y,
             s.parts)  # fmt: skip
    return y.transpose(1, 0, 2), hidden[0 if reverse else -1].copy(), hidden, gates[:, :, : 4 * s.width]


@kernel("gru_backward", device="cpu")
def gru_backward(
    dy: Any,
    dhn: Any,
    x: Any,
    weight_ih: Any,
    weight_hh: Any,
    lengths: Any,
    reverse: bool,
    hidden: Any,
    gates: Any,
    with_bias: bool,
) -> Any:
    s = Sequences("gru_backward", x, dhn, weight_ih, weight_hh, lengths, gates=3)
    expect("gru_backward", (s.time, s.batch, s.width), dy=dy)
    expect("gru_backward", (s.time + 1, s.batch, s.width), hidden=hidden)
    expect("gru_backward", (s.time, s.batch, 4 * s.width), gates=gates)
    if s.empty:
        return registered_ops()["gru_backward"].reference(
            dy, dhn, x, weight_ih, weight_hh, lengths, reverse, hidden, gates, with_bias
        )
    two, three = 2 * s.width, 3 * s.width
    dgates, sums = s.room(4 * s.width), np.empty((s.parts, 2, 4 * s.width), dtype=np.float32)
    dh = s.state_gradient(dhn)
    _backward(by_time(gates), s.packed(weight_hh[:two]), s.packed(weight_hh[two:]), by_time(dy), s.lengths, reverse,
              by_time(hidden), dgates, dh, sums, s.parts)  # fmt: skip
    rows, before = dgates.reshape(s.rows, -1), around(hidden, reverse)
    if s.one_step:
        dh[:, : s.width] += np.matmul(rows[:, :two], weight_hh[:two]) + np.matmul(rows[:, three:], weight_hh[two:])
    dx, dweight_ih = s.input_gradients(rows[:, :three], x, weight_ih)
    dweight_hh = np.concatenate([s.weight_gradient(part, before) for part in (rows[:, :two], rows[:, three:])])
    dbias = sums[:, 0].sum(axis=0)
    dbias_ih, dbias_hh = (dbias[:three], np.delete(dbias, slice(two, three))) if with_bias else (None, None)
    return dx, dh[:, : s.width], dweight_ih, dweight_hh, dbias_ih, dbias_hh
