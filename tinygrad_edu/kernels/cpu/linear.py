"""The affine map: BLAS, and the bias in one parallel pass."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from ...backend import kernel
from .common import expect, parallel


@parallel
def _add_bias(y, bias):  # type: ignore[no-untyped-def]
    for n in prange(y.shape[0]):
        for o in range(y.shape[1]):
            y[n, o] += bias[o]


@kernel("linear", device="cpu")
def linear(x: Any, weight: Any, bias: Any) -> Any:
    out_features, in_features = weight.shape
    y = np.matmul(x.reshape(-1, in_features), weight.T)
    if bias is not None:
        expect("linear", (out_features,), bias=bias)
        _add_bias(y, bias)
    return y.reshape(*x.shape[:-1], out_features)


@kernel("linear_backward", device="cpu")
def linear_backward(dy: Any, x: Any, weight: Any, with_bias: bool) -> Any:
    """The sum over rows is a matrix-vector product with ones: BLAS reads dy once, in order."""
    out_features, in_features = weight.shape
    rows = dy.reshape(-1, out_features)
    dx = np.matmul(rows, weight).reshape(x.shape)
    dweight = np.matmul(rows.T, x.reshape(-1, in_features))
    dbias = np.matmul(np.ones(len(rows), dtype=rows.dtype), rows) if with_bias else None
    return dx, dweight, dbias
