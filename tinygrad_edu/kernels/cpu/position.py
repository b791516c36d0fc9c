"""Rotary positions: each pair of numbers is read once and turned, where NumPy makes six passes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange, types

from ...backend import kernel
from .common import expect, parallel_for

_TABLE = types.Array(types.float32, 2, "A", readonly=True)


@parallel_for(types.Array(types.float32, 4, "A", readonly=True), _TABLE, _TABLE, types.float32[:, :, :, :])
def _rotary(x, cos, sin, y):  # type: ignore[no-untyped-def]
    batch, heads, length, dim = x.shape
    half = dim // 2
    for row in prange(batch * length):
        b, t = row // length, row % length
        for h in range(heads):
            for i in range(half):
                first, second = x[b, h, t, i], x[b, h, t, half + i]
                y[b, h, t, i] = first * cos[t, i] - second * sin[t, i]
                y[b, h, t, half + i] = second * cos[t, i] + first * sin[t, i]


@kernel("rotary", device="cpu")
def rotary(x: Any, cos: Any, sin: Any) -> Any:
    """The result lies by time, (B, T, H, hd) in memory, as the packed projection does."""
    half = cos.shape[-1]
    expect("rotary", (*x.shape[:-1], 2 * half), x=x)
    expect("rotary", (x.shape[-2], half), cos=cos, sin=sin)
    if x.size == 0:
        return np.empty(x.shape, dtype=x.dtype)
    heads = x.reshape(-1, *x.shape[-3:]) if x.ndim >= 3 else x[None, None]
    batch, count, length, dim = heads.shape
    y = np.empty((batch, length, count, dim), dtype=x.dtype).transpose(0, 2, 1, 3)
    _rotary(heads, cos, sin, y)
    return y.reshape(x.shape)
