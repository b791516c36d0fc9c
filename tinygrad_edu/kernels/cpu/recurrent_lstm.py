"""LSTM: all steps in one compiled call, a share of the batch for each thread.

Sequences of a batch do not meet in the recurrence, so a thread takes some of them through all steps and never waits for
another. A step is one product with the packed W_hh and, row by row, the gates while they are in the cache. The loops
of a row are short and read few arrays each: with more, the compiler gives up proving that they do not overlap, and
makes no vector code.
"""

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
def _forward_row(z, bias, c_before, c, h):  # type: ignore[no-untyped-def]
    """One sequence, one step: `z` becomes i, f, g, o; `c` and `h` the new cell and state."""
    width = c.size
    add_to(z[: 4 * width], bias)
    sigmoids, candidates, outputs = z[: 2 * width], z[2 * width : 3 * width], z[3 * width : 4 * width]
    for u in range(2 * width):
        sigmoids[u] = sigmoid32(sigmoids[u])
    for u in range(width):
        candidates[u] = tanh32(candidates[u])
    for u in range(width):
        outputs[u] = sigmoid32(outputs[u])
    forgotten = z[width : 2 * width]
    for u in range(width):
        c[u] = forgotten[u] * c_before[u]
    for u in range(width):
        c[u] += sigmoids[u] * candidates[u]
    for u in range(width):
        h[u] = outputs[u] * tanh32(c[u])


@parallel_for(WRITE, PACKED, VECTOR, LENGTHS, types.boolean, WRITE, WRITE, WRITE, types.intp)
def _forward(gates, packed, bias, lengths, reverse, hidden, cells, y, parts):  # type: ignore[no-untyped-def]
    time, batch = gates.shape[:2]
    for part in prange(parts):
        begin, end = share(batch, part, parts)
        for step in range(time):
            t = time - 1 - step if reverse else step
            before, after = (t + 1, t) if reverse else (t, t + 1)
            rows_times(
                hidden.ctypes.data + before * hidden.strides[0] + begin * hidden.strides[1], hidden.strides[1],
                end - begin, packed, gates.ctypes.data + t * gates.strides[0] + begin * gates.strides[1],
                gates.strides[1], 1,
            )  # fmt: skip
            for b in range(begin, end):
                if t < lengths[b]:
                    _forward_row(gates[t, b], bias, cells[before, b], cells[after, b], hidden[after, b])
                    y[b, t] = hidden[after, b]
                else:
                    gates[t, b] = _ZERO
                    cells[after, b] = cells[before, b]
                    hidden[after, b] = hidden[before, b]
                    y[b, t] = _ZERO


@compiled
def _backward_row(gates, c_before, c, dh, dc, tanh_c, dz):  # type: ignore[no-untyped-def]
    """One sequence, one step: `dz` is written; `dc` becomes the gradient of the cell before."""
    width = c.size
    i, f = gates[:width], gates[width : 2 * width]
    g, o = gates[2 * width : 3 * width], gates[3 * width : 4 * width]
    di, df = dz[:width], dz[width : 2 * width]
    dg, do = dz[2 * width : 3 * width], dz[3 * width : 4 * width]
    for u in range(width):
        tanh_c[u] = tanh32(c[u])
    for u in range(width):
        do[u] = dh[u] * tanh_c[u] * o[u] * (_ONE - o[u])
    for u in range(width):
        dc[u] += dh[u] * o[u] * (_ONE - tanh_c[u] * tanh_c[u])
    for u in range(width):
        di[u] = dc[u] * g[u] * i[u] * (_ONE - i[u])
    for u in range(width):
        dg[u] = dc[u] * i[u] * (_ONE - g[u] * g[u])
    for u in range(width):
        df[u] = dc[u] * c_before[u] * f[u] * (_ONE - f[u])
    for u in range(width):
        dc[u] *= f[u]


@parallel_for(READ, PACKED, READ, LENGTHS, types.boolean, READ, WRITE, MATRIX, MATRIX, WRITE, types.intp)
def _backward(gates, packed, dy, lengths, reverse, cells, dz, dh, dc, dbias, parts):  # type: ignore[no-untyped-def]
    time, batch = dz.shape[:2]
    width = dc.shape[1]
    for part in prange(parts):
        begin, end = share(batch, part, parts)
        total, of_step, tanh_c = dbias[part, 0], dbias[part, 1], dbias[part, 2, :width]
        total[:] = _ZERO
        for step in range(time):
            t = step if reverse else time - 1 - step
            before, after = (t + 1, t) if reverse else (t, t + 1)
            of_step[:] = _ZERO
            for b in range(begin, end):
                row = dz[t, b]
                if t < lengths[b]:
                    add_to(dh[b, :width], dy[t, b])
                    _backward_row(gates[t, b], cells[before, b], cells[after, b], dh[b], dc[b], tanh_c, row)
                    add_to(of_step, row)
                    dh[b] = _ZERO  # the product is added to it; beyond the end it stays as it is
                else:
                    row[:] = _ZERO
            add_to(total, of_step)
            rows_times(
                dz.ctypes.data + t * dz.strides[0] + begin * dz.strides[1], dz.strides[1], end - begin, packed,
                dh.ctypes.data + begin * dh.strides[0], dh.strides[0], 1,
            )  # fmt: skip


@kernel("lstm", device="cpu")
def lstm(
    x: Any,
    h0: Any,
    c0: Any,
    weight_ih: Any,
    weight_hh: Any,
    bias_ih: Any,
    bias_hh: Any,
    lengths: Any,
    reverse: bool,
) -> Any:
    s = Sequences("lstm", x, h0, weight_ih, weight_hh, lengths, gates=4)
    expect("lstm", h0.shape, c0=c0)
    if s.empty:
        return registered_ops()["lstm"].reference(x, h0, c0, weight_ih, weight_hh, bias_ih, bias_hh, lengths, reverse)
    bias = s.bias(bias_ih, "bias_ih", 4 * s.width) + s.bias(bias_hh, "bias_hh", 4 * s.width)
    gates, hidden, cells = s.room(padded(4 * s.width)), states(h0, s.time, reverse), states(c0, s.time, reverse)
    y = np.empty((s.batch, s.time, s.width), dtype=np.float32)
    s.inputs_times(x, weight_ih, gates)
    if s.one_step:
        gates[0, :, : 4 * s.width] += np.matmul(h0, weight_hh.T)
    _forward(gates, s.packed(weight_hh.T), bias, s.lengths, reverse, hidden, cells, y, s.parts)
    last = 0 if reverse else -1
    kept = hidden, cells, gates[:, :, : 4 * s.width]
    return y.transpose(1, 0, 2), hidden[last].copy(), cells[last].copy(), *kept


@kernel("lstm_backward", device="cpu")
def lstm_backward(
    dy: Any,
    dhn: Any,
    dcn: Any,
    x: Any,
    weight_ih: Any,
    weight_hh: Any,
    lengths: Any,
    reverse: bool,
    hidden: Any,
    cells: Any,
    gates: Any,
    with_bias: bool,
) -> Any:
    s = Sequences("lstm_backward", x, dhn, weight_ih, weight_hh, lengths, gates=4)
    expect("lstm_backward", (s.time, s.batch, s.width), dy=dy)
    expect("lstm_backward", dhn.shape, dcn=dcn)
    expect("lstm_backward", (s.time + 1, s.batch, s.width), hidden=hidden, cells=cells)
    expect("lstm_backward", (s.time, s.batch, 4 * s.width), gates=gates)
    if s.empty:
        return registered_ops()["lstm_backward"].reference(
            dy, dhn, dcn, x, weight_ih, weight_hh, lengths, reverse, hidden, cells, gates, with_bias
        )
    dz, sums = s.room(4 * s.width), np.empty((s.parts, 3, 4 * s.width), dtype=np.float32)
    dh, dc = s.state_gradient(dhn), np.array(dcn, order="C")
    _backward(by_time(gates), s.packed(weight_hh), by_time(dy), s.lengths, reverse, by_time(cells), dz, dh, dc, sums,
              s.parts)  # fmt: skip
    rows = dz.reshape(s.rows, -1)
    if s.one_step:
        dh[:, : s.width] += np.matmul(rows, weight_hh)
    dx, dweight_ih = s.input_gradients(rows, x, weight_ih)
    dbias = sums[:, 0].sum(axis=0) if with_bias else None
    return dx, dh[:, : s.width], dc, dweight_ih, s.weight_gradient(rows, around(hidden, reverse)), dbias, dbias
