"""Images whose pixels are weighted sums of neighbours in another image: means of windows, copies, interpolation.

All of them multiply each axis of an image with a matrix, ``A_h X A_w^T``, and so do their gradients, with the matrices
transposed. Each row of such a matrix has its few numbers next to each other: a **band**, where it begins, how long it
is, and its numbers. One loop for each memory layout then serves them all.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import prange, types

from . import layout
from .common import parallel_for

_INTEGERS = types.Array(types.intp, 1, "C", readonly=True)
_WEIGHTS = types.Array(types.float32, 2, "C", readonly=True)
_PIXELS = types.Array(types.float32, 4, "C", readonly=True)
_PLANES = types.Array(types.float32, 3, "C", readonly=True)


class Bands(NamedTuple):
    """A matrix (m, n) by its rows, each of which is zero but for one run of numbers.

    Attributes
    ----------
    first, length : (m,), where the run begins, and how many numbers it has
    weights : (m, longest)
    """

    first: Any
    length: Any
    weights: Any


def bands_of(matrix: Any) -> Bands:
    """The bands of a dense matrix (m, n)."""
    used = matrix != 0
    first = used.argmax(axis=1)
    length = np.where(used.any(axis=1), matrix.shape[1] - used[:, ::-1].argmax(axis=1) - first, 0)
    places = np.minimum(first[:, None] + np.arange(length.max(initial=0)), matrix.shape[1] - 1)
    weights = np.take_along_axis(matrix, places, axis=1) if matrix.size else np.zeros(places.shape)
    for array in (bands := Bands(first.astype(np.intp), length.astype(np.intp), weights.astype(np.float32))):
        array.flags.writeable = False  # they are kept, for all calls of these sizes
    return bands


@parallel_for(_PIXELS, _INTEGERS, _INTEGERS, _WEIGHTS, _INTEGERS, _INTEGERS, _WEIGHTS, types.float32[:, :, :, ::1])
def _by_pixels(x, top, rows, down, left, columns, across, y):  # type: ignore[no-untyped-def]
    """(B, H, W, C) to (B, H', W', C). A row of x is summed up first: long sums keep their digits so."""
    batch, height, width, channels = y.shape
    for task in prange(batch * height):
        image, i = task // height, task % height
        line = np.empty(channels, dtype=np.float32)
        for j in range(width):
            out = y[image, i, j]
            if rows[i] == 0 or columns[j] == 0:
                for c in range(channels):
                    out[c] = 0
            for r in range(rows[i]):
                row, a = x[image, top[i] + r], down[i, r]
                if columns[j] == 1:
                    p, w = row[left[j]], a * across[j, 0]
                    if r == 0:
                        for c in range(channels):
                            out[c] = w * p[c]
                    else:
                        for c in range(channels):
                            out[c] += w * p[c]
                elif columns[j] == 2:
                    p, q = row[left[j]], row[left[j] + 1]
                    w, v = a * across[j, 0], a * across[j, 1]
                    if r == 0:
                        for c in range(channels):
                            out[c] = w * p[c] + v * q[c]
                    else:
                        for c in range(channels):
                            out[c] += w * p[c] + v * q[c]
                elif columns[j] > 2:
                    p, w = row[left[j]], across[j, 0]
                    for c in range(channels):
                        line[c] = w * p[c]
                    for s in range(1, columns[j]):
                        p, w = row[left[j] + s], across[j, s]
                        for c in range(channels):
                            line[c] += w * p[c]
                    if r == 0:
                        for c in range(channels):
                            out[c] = a * line[c]
                    else:
                        for c in range(channels):
                            out[c] += a * line[c]


@parallel_for(_PLANES, _INTEGERS, _INTEGERS, _WEIGHTS, _INTEGERS, _INTEGERS, _WEIGHTS, types.float32[:, :, ::1])
def _by_planes(x, top, rows, down, left, columns, across, y):  # type: ignore[no-untyped-def]
    """(B C, H, W) to (B C, H', W'): rows are summed up, which is vector code, and their numbers are picked after."""
    planes, height, width = y.shape
    for task in prange(planes * height):
        plane, i = task // height, task % height
        line, out = np.zeros(x.shape[2], dtype=np.float32), y[plane, i]
        for r in range(rows[i]):
            row, a = x[plane, top[i] + r], down[i, r]
            for k in range(line.size):
                line[k] += a * row[k]
        for j in range(width):
            total = np.float32(0)
            for s in range(columns[j]):
                total += across[j, s] * line[left[j] + s]
            out[j] = total


def multiply(x: Any, matrices: tuple[Bands, ...]) -> Any:
    """The image `x` (B, C, *size), of one or two sizes, times a banded matrix along each axis; it keeps its layout."""
    (*before, (left, columns, across)) = matrices
    top, rows, down = before[0] if before else _ONE
    output = tuple(len(bands.first) for bands in matrices)
    batch, channels, *size = x.shape
    height, width = len(top), len(left)
    if layout.by_pixels(x):
        y = np.empty((batch, height, width, channels), dtype=x.dtype)
        flat = layout.pixels(x).reshape(batch, *(1,) * (2 - len(size)), *size, channels)
        _by_pixels(flat, top, rows, down, left, columns, across, y)
        y = y.reshape(batch, *output, channels)
        return y.transpose(0, y.ndim - 1, *range(1, y.ndim - 1))
    y = np.empty((batch * channels, height, width), dtype=x.dtype)
    flat = layout.planes(x).reshape(batch * channels, *(1,) * (2 - len(size)), *size)
    _by_planes(flat, top, rows, down, left, columns, across, y)
    return y.reshape(batch, channels, *output)


_ONE = bands_of(np.ones((1, 1)))  # for the height that a sequence has not
