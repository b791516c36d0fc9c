"""Convolution as it is written down, tap by tap, for any stride, padding and dilation.

Results of neighbouring pixels are the rows of a tile, outputs its columns. Where the tile finds its pixels says a table
of addresses; so nothing is unfolded and nothing padded, and the pixels need not lie evenly spaced.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import prange, types

from .blas import threads
from .common import add_to, compiled, parallel_for
from .convolution_layout import (
    IMAGES,
    INTEGERS,
    MADE,
    PACKED,
    Places,
    pack_bias,
    pack_filters,
    source_at,
    unpack_filters,
)
from .tiles import COLUMNS, PANEL, ROWS, copy, copy_row, gather, panels, sum_down

_GROUPS = 8  # tiles whose pixels stay in the cache while the panels pass by
_CHUNK = 64  # inputs of a task, where the tasks of a weight gradient are shared out
_SUM = 128  # pixels that are summed at once; a panel of their gradients stays in the first cache

NUMBERS, SPACES = types.float32[::1], types.float32[:, :, :, ::1]


@parallel_for(
    MADE, IMAGES, PACKED, types.float32[:, ::1], INTEGERS, INTEGERS, NUMBERS, types.intp
)  # fmt: skip
def _gathered(y, x, packed, start, axes, offsets, nothing, parts):  # type: ignore[no-untyped-def]
    (first_row, row_step, rows, source_row), (first_column, column_step, columns, source_column) = axes[0], axes[1]
    taps, length, outputs = offsets.shape[0], nothing.size, y.shape[3]
    pixels = y.shape[0] * rows * columns
    blocks = (pixels + _GROUPS * ROWS - 1) // (_GROUPS * ROWS)
    for part in prange(parts):
        trash = np.empty((ROWS, COLUMNS), dtype=np.float32)
        table, targets = np.empty((_GROUPS, taps, ROWS), dtype=np.int64), np.empty((_GROUPS, ROWS), dtype=np.int64)
        aside = np.empty(ROWS, dtype=np.int64)
        for r in range(ROWS):
            aside[r] = trash.ctypes.data + r * PANEL
        for block in range(blocks * part // parts, blocks * (part + 1) // parts):
            first = block * _GROUPS * ROWS
            count = min(_GROUPS * ROWS, pixels - first)
            groups = (count + ROWS - 1) // ROWS
            j = first % columns
            i = first // columns % rows
            b = first // columns // rows
            for n in range(groups * ROWS):
                g, r = n // ROWS, n % ROWS
                if n >= count:  # the rows of the last tile that are none
                    targets[g, r] = 0
                    for t in range(taps):
                        table[g, t, r] = nothing.ctypes.data
                    continue
                targets[g, r] = (
                    y.ctypes.data
                    + b * y.strides[0]
                    + (first_row + i * row_step) * y.strides[1]
                    + (first_column + j * column_step) * y.strides[2]
                )
                h, w = i * source_row, j * source_column
                for t in range(taps):
                    table[g, t, r] = source_at(x, b, h + offsets[t, 0], w + offsets[t, 1], nothing.ctypes.data)
                j += 1
                if j == columns:
                    i, j = i + 1, 0
                    if i == rows:
                        b, i = b + 1, 0
            for panel in range(packed.shape[0]):
                width = min(COLUMNS, outputs - panel * COLUMNS)
                right = packed.ctypes.data + panel * packed.strides[0]
                bias = start.ctypes.data + panel * PANEL
                for g in range(groups):
                    here, there = table[g].ctypes.data, targets[g]
                    if width == COLUMNS and (g + 1) * ROWS <= count:
                        gather(here, taps, length, right, bias, there.ctypes.data, panel * PANEL)
                        continue
                    gather(here, taps, length, right, bias, aside.ctypes.data, 0)
                    for r in range(min(ROWS, count - g * ROWS)):
                        copy(trash[r].ctypes.data, there[r] + panel * PANEL, width)


def convolve(y: Any, x: Any, filters: Any, bias: Any, places: Places) -> None:
    """The sums over the taps of `places` into those pixels of `y` (B, H', W', N) that they name.

    Parameters
    ----------
    x : (B, H, W, K), the numbers of a pixel contiguous
    filters : (K, N, *kernel), in any layout
    bias : (N,) or None
    """
    if not places.taps:  # a stride larger than the kernel leaves pixels out
        (first_row, row_step, *_), (first_column, column_step, *_) = places.axes
        y[:, first_row::row_step, first_column::column_step] = 0
        return
    packed, start = pack_filters(filters, places.taps), pack_bias(bias, y.shape[3])
    nothing = np.zeros(packed.shape[1] // len(places.offsets), dtype=np.float32)
    _gathered(y, x, packed, start, places.axes, places.offsets, nothing, threads())


@compiled
def _look(table, gradients, dy, x, first, begin, end, axes, offsets, nothing):  # type: ignore[no-untyped-def]
    """What is multiplied at pixels `first` + `begin` to `end`: the addresses of x (taps, pixels), and dy in panels."""
    columns, rows, outputs = axes[1, 2], axes[0, 2], dy.shape[3]
    for n in range(begin, end):
        place = first + n
        j, i, b = place % columns, place // columns % rows, place // columns // rows
        h, w = i * axes[0, 3], j * axes[1, 3]
        for t in range(offsets.shape[0]):
            table[t, n] = source_at(x, b, h + offsets[t, 0], w + offsets[t, 1], nothing.ctypes.data)
        gradient = dy.ctypes.data + b * dy.strides[0] + i * dy.strides[1] + j * dy.strides[2]
        for panel in range(gradients.shape[0]):
            width = outputs - panel * COLUMNS
            if width >= COLUMNS:
                copy_row(gradient + panel * PANEL, gradients[panel, n].ctypes.data)
            else:
                copy(gradient + panel * PANEL, gradients[panel, n].ctypes.data, width)


@parallel_for(IMAGES, IMAGES, SPACES, INTEGERS, INTEGERS, NUMBERS, types.intp)
def _sums_apart(dy, x, sums, axes, offsets, nothing, some):  # type: ignore[no-untyped-def]
    pixels, parts = dy.shape[0] * dy.shape[1] * dy.shape[2], sums.shape[0]
    taps, length, blocks = offsets.shape[0], nothing.size, (pixels + some - 1) // some
    for part in prange(parts):
        table = np.empty((taps, some), dtype=np.int64)
        gradients = np.zeros((sums.shape[1], some, COLUMNS), dtype=np.float32)
        mine, begin = sums[part], blocks * part // parts
        for block in range(begin, blocks * (part + 1) // parts):
            first = block * some
            count = min(some, pixels - first)
            _look(table, gradients, dy, x, first, 0, count, axes, offsets, nothing)
            for panel in range(gradients.shape[0]):
                for t in range(taps):
                    sum_down(
                        0, length, table[t].ctypes.data, count, gradients[panel].ctypes.data,
                        mine[panel, t * length].ctypes.data, 1 if block > begin else 0,
                    )  # fmt: skip
    rows = sums.shape[2]
    for row in prange(sums.shape[1] * rows):
        for part in range(1, parts):
            add_to(sums[0, row // rows, row % rows], sums[part, row // rows, row % rows])


@parallel_for(SPACES, IMAGES, IMAGES, INTEGERS, INTEGERS, NUMBERS, types.intp)
def _sums_together(sums, dy, x, axes, offsets, nothing, some):  # type: ignore[no-untyped-def]
    pixels, total = dy.shape[0] * dy.shape[1] * dy.shape[2], sums[0]
    taps, length = offsets.shape[0], nothing.size
    chunks = (length + _CHUNK - 1) // _CHUNK
    table = np.empty((taps, some), dtype=np.int64)
    gradients = np.zeros((total.shape[0], some, COLUMNS), dtype=np.float32)
    for first in range(0, pixels, some):
        count = min(some, pixels - first)
        parts = (count + 7) // 8
        for part in prange(parts):
            begin, end = count * part // parts, count * (part + 1) // parts
            _look(table, gradients, dy, x, first, begin, end, axes, offsets, nothing)
        for task in prange(taps * total.shape[0] * chunks):
            chunk, t, panel = task % chunks, task // chunks % taps, task // chunks // taps
            sum_down(
                chunk * _CHUNK, min(length, (chunk + 1) * _CHUNK), table[t].ctypes.data, count,
                gradients[panel].ctypes.data, total[panel, t * length].ctypes.data, 1 if first else 0,
            )  # fmt: skip


def convolve_weight_gradient(dweight: Any, dy: Any, x: Any, places: Places) -> None:
    """The gradient of filters, `dweight` (O, C, *kernel), from that of the results `dy` (B, H', W', O).

    Each thread sums pixels of its own; or, where the memory for so many sums would outgrow the arrays, all look at the
    same pixels, and share out the filters.
    """
    taps = len(places.offsets)
    nothing = np.zeros(math.prod(dweight.shape[1:]) // taps, dtype=np.float32)
    shape, pixels = (panels(dy.shape[3]), taps * nothing.size, COLUMNS), math.prod(dy.shape[:3])
    parts = min(threads(), -(-pixels // _SUM))
    if parts * math.prod(shape) <= x.size + dy.size + dweight.size:
        sums = np.empty((parts, *shape), dtype=np.float32)
        _sums_apart(dy, x, sums, places.axes, places.offsets, nothing, min(_SUM, pixels))
    else:
        sums = np.empty((1, *shape), dtype=np.float32)
        _sums_together(sums, dy, x, places.axes, places.offsets, nothing, min(2 * _SUM, pixels))
    unpack_filters(sums[0], dweight)
