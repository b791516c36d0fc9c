"""The plain recurrent layer: all steps in one compiled call, as :mod:`recurrent_lstm` says."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange, types

from ...backend import kernel, registered_ops
from .common import add_to, compiled, expect, parallel_for, tanh32
from .recurrent import LENGTHS, MATRIX, PACKED, READ, VECTOR, WRITE, Sequences, around, by_time, share, states
from .recurrent_product import rows_times
from .tiles import padded

_ZERO, _ONE = np.float32(0), np.float32(1)


@compiled
def _forward_row(z, bias, h, relu):  # type: ignore[no-untyped-def]
    add_to(z, bias)
    if relu:
        for u in range(h.size):
            h[u] = _ZERO if z[u] < _ZERO else z[u]  # noqa: FURB136 - a NaN stays one
    else:
        for u in range(h.size):
            h[u] = tanh32(z[u])


@parallel_for(WRITE, PACKED, VECTOR, LENGTHS, types.boolean, types.boolean, WRITE, WRITE, types.intp)
def _forward(z, packed, bias, lengths, reverse, relu, hidden, y, parts):  # type: ignore[no-untyped-def]
    time, batch = z.shape[:2]
    width = hidden.shape[2]
    for part in prange(parts):
        begin, end = share(batch, part, parts)
        for step in range(time):
            t = time - 1 - step if reverse else step
            before, after = (t + 1, t) if reverse else (t, t + 1)
            rows_times(
                hidden.ctypes.data + before * hidden.strides[0] + begin * hidden.strides[1], hidden.strides[1],
                end - begin, packed, z.ctypes.data + t * z.strides[0] + begin * z.strides[1], z.strides[1], 1,
            )  # fmt: skip
            for b in range(begin, end):
                if t < lengths[b]:
                    _forward_row(z[t, b, :width], bias, hidden[after, b], relu)
                    y[b, t] = hidden[after, b]
                else:
                    hidden[after, b] = hidden[before, b]
                    y[b, t] = _ZERO


@compiled
def _backward_row(h, dh, dz, relu):  # type: ignore[no-untyped-def]
    if relu:
        for u in range(h.size):
            dz[u] = dh[u] if h[u] > _ZERO else _ZERO
    else:
        for u in range(h.size):
            dz[u] = dh[u] * (_ONE - h[u] * h[u])


@parallel_for(READ, PACKED, LENGTHS, types.boolean, types.boolean, READ, WRITE, MATRIX, WRITE, types.intp)
def _backward(dy, packed, lengths, reverse, relu, hidden, dz, dh, dbias, parts):  # type: ignore[no-untyped-def]
    time, batch, width = dy.shape
    for part in prange(parts):
        begin, end = share(batch, part, parts)
        total, of_step = dbias[part, 0], dbias[part, 1]
        total[:] = _ZERO
        for step in range(time):
            t = step if reverse else time - 1 - step
            after = t if reverse else t + 1
            of_step[:] = _ZERO
            for b in range(begin, end):
                row = dz[t, b]
                if t < lengths[b]:
                    add_to(dh[b, :width], dy[t, b])
                    _backward_row(hidden[after, b], dh[b], row, relu)
                    add_to(of_step, row)
                    dh[b] = _ZERO  # the product is added to it; beyond the end it stays as it is
                else:
                    row[:] = _ZERO
            add_to(total, of_step)
            rows_times(
                dz.ctypes.data + t * dz.strides[0] + begin * dz.strides[1], dz.strides[1], end - begin, packed,
                dh.ctypes.data + begin * dh.strides[0], dh.strides[0], 1,
            )  # fmt: skip


@kernel("rnn", device="cpu")
def rnn(
    x: Any,
    h0: Any,
    weight_ih: Any,
    weight_hh: Any,
    bias_ih: Any,
    bias_hh: Any,
    lengths: Any,
    reverse: bool,
    nonlinearity: str,
) -> Any:
    s = Sequences("rnn", x, h0, weight_ih, weight_hh, lengths, gates=1)
    if s.empty:
        return registered_ops()["rnn"].reference(
            x, h0, weight_ih, weight_hh, bias_ih, bias_hh, lengths, reverse, nonlinearity
        )
    bias = s.bias(bias_ih, "bias_ih", s.width) + s.bias(bias_hh, "bias_hh", s.width)
    z, hidden = s.room(padded(s.width)), states(h0, s.time, reverse)
    y = np.empty((s.batch, s.time, s.width), dtype=np.float32)
    s.inputs_times(x, weight_ih, z)
    if s.one_step:
        z[0, :, : s.width] += np.matmul(h0, weight_hh.T)
    _forward(z, s.packed(weight_hh.T), bias, s.lengths, reverse, nonlinearity == "relu", hidden, y, s.parts)
    return y.transpose(1, 0, 2), hidden[0 if reverse else -1].copy(), hidden


@kernel("rnn_backward", device="cpu")
def rnn_backward(
    dy: Any,
    dhn: Any,
    x: Any,
    weight_ih: Any,
    weight_hh: Any,
    lengths: Any,
    reverse: bool,
    nonlinearity: str,
    hidden: Any,
    with_bias: bool,
) -> Any:
    s = Sequences("rnn_backward", x, dhn, weight_ih, weight_hh, lengths, gates=1)
    expect("rnn_backward", (s.time, s.batch, s.width), dy=dy)
    expect("rnn_backward", (s.time + 1, s.batch, s.width), hidden=hidden)
    if s.empty:
        return registered_ops()["rnn_backward"].reference(
            dy, dhn, x, weight_ih, weight_hh, lengths, reverse, nonlinearity, hidden, with_bias
        )
    dz, sums, dh = s.room(s.width), np.empty((s.parts, 2, s.width), dtype=np.float32), s.state_gradient(dhn)
    _backward(by_time(dy), s.packed(weight_hh), s.lengths, reverse, nonlinearity == "relu", by_time(hidden), dz, dh,
              sums, s.parts)  # fmt: skip
    rows = dz.reshape(s.rows, -1)
    if s.one_step:
        dh[:, : s.width] += np.matmul(rows, weight_hh)
    dx, dweight_ih = s.input_gradients(rows, x, weight_ih)
    dbias = sums[:, 0].sum(axis=0) if with_bias else None
    return dx, dh[:, : s.width], dweight_ih, s.weight_gradient(rows, around(hidden, reverse)), dbias, dbias
