"""The affine map: many rows by :mod:`.linear_product`, a few by a loop of their own; backward, BLAS."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from ...backend import kernel
from .blas import accumulate_product
from .common import expect, parallel
from .linear_product import product

#: Up to so many rows BLAS is the slower way: (3072, 768) weights and 1, 4, 8, 16 rows 0.35, 0.42, 0.81, 1.36 ms here,
#: 0.43, 0.98, 1.18, 1.33 ms there.
_FEW = 8
_BLOCK = 16  # outputs that a task computes


@parallel
def _few_rows(weight, x, bias, y):  # type: ignore[no-untyped-def]
    """Each row of the weights is read once, for all rows of x: with so few of these, reading is what takes time."""
    for block in prange((weight.shape[0] + _BLOCK - 1) // _BLOCK):
        part = slice(block * _BLOCK, (block + 1) * _BLOCK)
        rows, some = weight[part], y[:, part]
        for o in range(rows.shape[0]):
            w = rows[o]
            for n in range(x.shape[0]):
                total = np.float32(0)
                v = x[n]
                for i in range(w.size):
                    total += w[i] * v[i]
                some[n, o] = total
        if bias.size:
            b = bias[part]
            for n in range(x.shape[0]):
                for o in range(b.size):
                    some[n, o] += b[o]


@kernel("linear", device="cpu")
def linear(x: Any, weight: Any, bias: Any) -> Any:
    out_features, in_features = weight.shape
    if bias is not None:
        expect("linear", (out_features,), bias=bias)
    rows = x.reshape(-1, in_features)
    alike = weight.dtype == x.dtype and (bias is None or bias.dtype == x.dtype)
    if 0 < len(rows) <= _FEW and alike and weight.flags.c_contiguous:
        y = np.empty((len(rows), out_features), dtype=x.dtype)
        no_bias = np.empty(0, dtype=x.dtype)
        _few_rows(weight, np.ascontiguousarray(rows), no_bias if bias is None else bias, y)
        return y.reshape(*x.shape[:-1], out_features)
    return product(rows, weight, bias).reshape(*x.shape[:-1], out_features)


@kernel("linear_backward", device="cpu")
def linear_backward(dy: Any, x: Any, weight: Any, with_bias: bool, dweight: Any = None, dbias: Any = None) -> Any:
    """The sum over rows is a matrix-vector product with ones: BLAS reads dy once, in order."""
    out_features, in_features = weight.shape
    rows, inputs = dy.reshape(-1, out_features), x.reshape(-1, in_features)
    dx = np.matmul(rows, weight).reshape(x.shape)
    if dweight is None:
        dweight = np.matmul(rows.T, inputs)
    else:
        expect("linear_backward", weight.shape, dweight=dweight)
        if not accumulate_product(rows.T, inputs, dweight):
            dweight += np.matmul(rows.T, inputs)
    if not with_bias:
        return dx, dweight, None
    total = np.matmul(np.ones(len(rows), dtype=rows.dtype), rows)
    if dbias is None:
        return dx, dweight, total
    expect("linear_backward", (out_features,), dbias=dbias)
    dbias += total
    return dx, dweight, dbias
