"""Depthwise convolution, each channel by itself: there is no matrix product in it, so pixels are added as they lie."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange, types

from .blas import threads
from .common import add_to, compiled, parallel_for
from .convolution_layout import INTEGERS, Places

_PIXELS = types.Array(types.float32, 4, "C", readonly=True)  # (B, H, W, C)
_TAPS = types.Array(types.float32, 2, "C", readonly=True)  # (taps, C)


@compiled
def _add_products(total, x, factor):  # type: ignore[no-untyped-def]
    for c in range(total.size):
        total[c] += x[c] * factor[c]


@parallel_for(
    types.float32[:, :, :, ::1], _PIXELS, _TAPS, types.Array(types.float32, 1, "C", readonly=True), INTEGERS, INTEGERS
)  # fmt: skip
def _convolve(y, x, filters, bias, axes, offsets):  # type: ignore[no-untyped-def]
    (first_row, row_step, rows, source_row), (first_column, column_step, columns, source_column) = axes[0], axes[1]
    for line in prange(y.shape[0] * rows):
        b, i = line // rows, line % rows
        for j in range(columns):
            result = y[b, first_row + i * row_step, first_column + j * column_step]
            result[:] = bias
            for t in range(offsets.shape[0]):
                h, w = i * source_row + offsets[t, 0], j * source_column + offsets[t, 1]
                if 0 <= h < x.shape[1] and 0 <= w < x.shape[2]:
                    _add_products(result, x[b, h, w], filters[t])


@parallel_for(_PIXELS, _PIXELS, types.float32[:, :, ::1], INTEGERS, INTEGERS)
def _sum(dy, x, sums, axes, offsets):  # type: ignore[no-untyped-def]
    batch, rows, columns, _ = dy.shape
    parts = sums.shape[0]
    for part in prange(parts):
        total = np.empty(dy.shape[3], dtype=np.float32)  # of a line: small numbers would be lost in large sums
        for line in range(batch * rows * part // parts, batch * rows * (part + 1) // parts):
            b, i = line // rows, line % rows
            for t in range(offsets.shape[0]):
                h = i * axes[0, 3] + offsets[t, 0]
                if not 0 <= h < x.shape[1]:
                    continue
                total[:] = np.float32(0)
                for j in range(columns):
                    w = j * axes[1, 3] + offsets[t, 1]
                    if 0 <= w < x.shape[2]:
                        _add_products(total, x[b, h, w], dy[b, i, j])
                add_to(sums[part, t], total)


def convolve(y: Any, x: Any, filters: Any, bias: Any, places: Places) -> None:
    """The sums over the taps of `places` into those pixels of `y` (B, H', W', C) that they name.

    Parameters
    ----------
    y, x : contiguous
    filters : (C, 1, *kernel)
    bias : (C,) or None
    """
    channels = y.shape[3]
    by_tap = np.ascontiguousarray(filters.reshape(channels, -1)[:, places.taps].T)  # (taps, C)
    start = np.zeros(channels, dtype=np.float32) if bias is None else np.ascontiguousarray(bias)
    for axes, begin, end in zip(places.axes, places.begins, places.begins[1:], strict=False):
        _convolve(y, x, by_tap[begin:end], start, axes, places.offsets[begin:end])


def convolve_weight_gradient(dweight: Any, dy: Any, x: Any, places: Places) -> None:
    """The gradient of filters, `dweight` (C, 1, *kernel), from that of the results `dy` (B, H', W', C)."""
    sums = np.zeros((threads(), len(places.taps), dy.shape[3]), dtype=np.float32)
    _sum(dy, x, sums, places.axes[0], places.offsets)
    dweight[:] = sums.sum(axis=0).T.reshape(dweight.shape)
