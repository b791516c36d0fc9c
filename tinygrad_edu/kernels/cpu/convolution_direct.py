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
    FILTERS,
    IMAGES,
    INTEGERS,
    MADE,
    PACKED,
    TAPS,
    Places,
    look,
    pack_bias,
    pack_filters,
    pack_panel,
)
from .tiles import claim, copy, copy_row, fetch, gather, panels, sum_down
from .vector_code import COLUMNS, PANEL, ROWS

_SOME = 16 * ROWS  # pixels that stay in the cache while the panels pass by
_FEW = 512  # pixels up to which the filters are laid out panel by panel, by the thread that multiplies with them
_CHUNK = 16  # inputs of a task, where the filters of a gradient are shared out
_SUM = 128  # pixels that are summed at once; a panel of their gradients stays in the first cache

NUMBERS, BIAS, FILTERS_MADE = types.float32[::1], types.float32[:, ::1], types.float32[:, :, ::1]
AXES = types.Array(types.int64, 3, "C", readonly=True)


@compiled
def _place(table, targets, y, x, first, count, axes, offsets, nothing):  # type: ignore[no-untyped-def]
    """Of `count` pixels, the addresses of what their taps bring, and of themselves; the last tile is filled up.

    What they see is fetched, and where they lie claimed: they are the next to be multiplied. Of 64 channels, in 16
    images of 64x64, that takes 1x1 filters from 4.5 to 3.7 ms, 3x3 filters of stride 2 from 7.1 to 6.0.
    """
    look(table, x, first, 0, count, axes, offsets, nothing.ctypes.data)
    for t in range(offsets.shape[0]):
        for n in range(count):
            fetch(table[t, n], nothing.size)
        for n in range(count, (count + ROWS - 1) // ROWS * ROWS):
            table[t, n] = nothing.ctypes.data
    own, begin = axes.copy(), np.empty((1, 2), dtype=np.int64)
    for axis in range(2):
        begin[0, axis], own[axis, 3] = axes[axis, 0], axes[axis, 1]
    look(targets.reshape(1, -1), y, first, 0, count, own, begin, 0)
    for n in range(count):
        claim(targets[n], y.shape[3])


@compiled
def _multiply(table, targets, count, taps, length, packed, bias, panel, width, aside):  # type: ignore[no-untyped-def]
    """One panel of the results of `count` pixels, `width` columns of it; what is no whole tile goes through `aside`."""
    there = np.empty(ROWS, dtype=np.int64)
    for r in range(ROWS):
        there[r] = aside[r].ctypes.data
    for n in range(0, count, ROWS):
        here = table.ctypes.data + 8 * n
        if width == COLUMNS and n + ROWS <= count:
            target = targets.ctypes.data + 8 * n
            gather(here, table.strides[0], taps, length, packed, bias.ctypes.data, target, panel * PANEL)
            continue
        gather(here, table.strides[0], taps, length, packed, bias.ctypes.data, there.ctypes.data, 0)
        for r in range(min(ROWS, count - n)):
            copy(aside[r].ctypes.data, targets[n + r] + panel * PANEL, width)


@parallel_for(MADE, IMAGES, PACKED, BIAS, AXES, INTEGERS, TAPS, NUMBERS, types.intp, types.intp)
def _by_pixels(y, x, packed, bias, axes, offsets, begins, nothing, some, parts):  # type: ignore[no-untyped-def]
    length, outputs = nothing.size, y.shape[3]
    for part in prange(parts):
        aside = np.empty((ROWS, COLUMNS), dtype=np.float32)
        table, targets = np.empty((2, offsets.shape[0], some), dtype=np.int64), np.empty((2, some), dtype=np.int64)
        for phase in range(axes.shape[0]):
            pieces, of_phase = offsets[begins[phase] : begins[phase + 1]], axes[phase]
            pixels, at = y.shape[0] * of_phase[0, 2] * of_phase[1, 2], begins[phase] * length * PANEL
            blocks, taps = (pixels + some - 1) // some, len(pieces)
            begin, end = blocks * part // parts, blocks * (part + 1) // parts
            if taps == 0 or begin == end:
                continue
            first = begin * some
            _place(table[0], targets[0], y, x, first, min(some, pixels - first), of_phase, pieces, nothing)
            for block in range(begin, end):
                now, then, count = (block - begin) % 2, (block + 1 - begin) % 2, min(some, pixels - block * some)
                if block + 1 < end:
                    first = (block + 1) * some
                    _place(
                        table[then], targets[then], y, x, first, min(some, pixels - first), of_phase, pieces, nothing
                    )
                for panel in range(packed.shape[0]):
                    _multiply(
                        table[now], targets[now], count, taps, length, packed[panel].ctypes.data + at, bias[panel],
                        panel, min(COLUMNS, outputs - panel * COLUMNS), aside,
                    )  # fmt: skip


@parallel_for(FILTERS, TAPS, MADE, IMAGES, BIAS, AXES, INTEGERS, TAPS, NUMBERS)
def _by_panels(filters, taps, y, x, bias, axes, offsets, begins, nothing):  # type: ignore[no-untyped-def]
    phases, length, outputs, most = axes.shape[0], nothing.size, y.shape[3], 0
    for phase in range(phases):
        most = max(most, y.shape[0] * axes[phase, 0, 2] * axes[phase, 1, 2])
    room = (most + ROWS - 1) // ROWS * ROWS
    table, targets = np.empty((offsets.shape[0], room), dtype=np.int64), np.empty((phases, room), dtype=np.int64)
    for phase in range(phases):
        pixels = y.shape[0] * axes[phase, 0, 2] * axes[phase, 1, 2]
        begin, end = begins[phase], begins[phase + 1]
        _place(table[begin:end], targets[phase], y, x, 0, pixels, axes[phase], offsets[begin:end], nothing)
    for panel in prange(bias.shape[0]):
        aside = np.empty((ROWS, COLUMNS), dtype=np.float32)
        packed = np.empty((taps.size * filters.shape[0], COLUMNS), dtype=np.float32)
        pack_panel(packed, filters, taps, panel, 0, filters.shape[0])
        for phase in range(phases):
            begin, end = begins[phase], begins[phase + 1]
            if begin < end:
                _multiply(
                    table[begin:end], targets[phase], y.shape[0] * axes[phase, 0, 2] * axes[phase, 1, 2], end - begin,
                    length, packed.ctypes.data + begin * length * PANEL, bias[panel], panel,
                    min(COLUMNS, outputs - panel * COLUMNS), aside,
                )  # fmt: skip


def convolve(y: Any, x: Any, filters: Any, bias: Any, places: Places) -> None:
    """The sums over the taps of `places` into those pixels of `y` (B, H', W', N) that they name.

    Parameters
    ----------
    x : (B, H, W, K), the numbers of a pixel contiguous
    filters : (K, N, *kernel), in any layout
    bias : (N,) or None
    """
    axes, offsets, begins, taps = places
    for phase in np.flatnonzero(begins[1:] == begins[:-1]):  # a stride larger than the kernel leaves pixels out
        (row, row_step, *_), (column, column_step, *_) = axes[phase]
        y[:, row::row_step, column::column_step] = 0
    if not len(taps):
        return
    filters = filters.reshape(*filters.shape[:2], -1)  # a view, also of a kernel that is turned
    start, nothing = pack_bias(bias, y.shape[3]), np.zeros(len(filters) * len(taps) // len(offsets), dtype=np.float32)
    pixels = math.prod(y.shape[:3])
    if pixels <= _FEW and panels(y.shape[3]) >= threads():
        _by_panels(filters, taps, y, x, start, axes, offsets, begins, nothing)
    else:
        some = min(_SOME, -(-pixels // (threads() * len(axes) * ROWS)) * ROWS)
        _by_pixels(y, x, pack_filters(filters, taps), start, axes, offsets, begins, nothing, some, threads())


@compiled
def _prepare(table, gradients, dy, x, first, begin, end, axes, offsets, nothing):  # type: ignore[no-untyped-def]
    """What is multiplied at pixels `first` + `begin` to `end`: the addresses of x (taps, pixels), and dy in panels."""
    look(table, x, first, begin, end, axes, offsets, nothing.ctypes.data)
    own, places, outputs = axes.copy(), np.empty((1, end), dtype=np.int64), dy.shape[3]
    own[:, 3] = 1
    look(places, dy, first, begin, end, own, np.zeros((1, 2), dtype=np.int64), 0)
    for n in range(begin, end):
        gradient = places[0, n]
        for panel in range(gradients.shape[0]):
            width = outputs - panel * COLUMNS
            if width >= COLUMNS:
                copy_row(gradient + panel * PANEL, gradients[panel, n].ctypes.data)
            else:
                copy(gradient + panel * PANEL, gradients[panel, n].ctypes.data, width)


@compiled
def _write(dweight, sums, panel, first, rows):  # type: ignore[no-untyped-def]
    """The filters of a panel from some rows of the sums of each piece, (pieces, rows, COLUMNS), from `first` on."""
    inputs, length = dweight.shape[1], dweight.shape[1] * dweight.shape[2] // sums.shape[0]
    for column in range(min(COLUMNS, dweight.shape[0] - panel * COLUMNS)):
        target = dweight[panel * COLUMNS + column]
        if length == inputs:
            for row in range(rows):
                of_row = target[first + row]
                for t in range(sums.shape[0]):
                    of_row[t] = sums[t, row, column]
            continue
        for t in range(sums.shape[0]):  # pieces of several taps
            for row in range(rows):
                tap, c = divmod(t * length + first + row, inputs)
                target[c, tap] = sums[t, row, column]


@parallel_for(IMAGES, IMAGES, FILTERS_MADE, types.float32[:, :, :, :, ::1], INTEGERS, INTEGERS, NUMBERS, types.intp)
def _gradient_apart(dy, x, dweight, sums, axes, offsets, nothing, some):  # type: ignore[no-untyped-def]
    pixels, parts, outputs = dy.shape[0] * dy.shape[1] * dy.shape[2], sums.shape[0], sums.shape[1]
    pieces, length, blocks = offsets.shape[0], nothing.size, (pixels + some - 1) // some
    for part in prange(parts):
        table = np.empty((pieces, some), dtype=np.int64)
        gradients = np.zeros((outputs, some, COLUMNS), dtype=np.float32)
        mine, begin = sums[part], blocks * part // parts
        for block in range(begin, blocks * (part + 1) // parts):
            first = block * some
            count = min(some, pixels - first)
            _prepare(table, gradients, dy, x, first, 0, count, axes, offsets, nothing)
            for panel in range(outputs):
                for t in range(pieces):
                    sum_down(
                        0, length, table[t].ctypes.data, count, gradients[panel].ctypes.data,
                        mine[panel, t].ctypes.data, 1 if block > begin else 0,
                    )  # fmt: skip
    chunks = (length + _CHUNK - 1) // _CHUNK
    for task in prange(outputs * chunks):
        panel, first = task // chunks, task % chunks * _CHUNK
        end = min(length, first + _CHUNK)
        for t in range(pieces):
            for row in range(first, end):
                for part in range(1, parts):
                    add_to(sums[0, panel, t, row], sums[part, panel, t, row])
        _write(dweight, sums[0, panel, :, first:end], panel, first, end - first)


@parallel_for(FILTERS_MADE, IMAGES, IMAGES, types.float32[:, :, :, ::1], INTEGERS, INTEGERS, NUMBERS, types.intp)
def _gradient_together(dweight, dy, x, sums, axes, offsets, nothing, some):  # type: ignore[no-untyped-def]
    pixels, outputs = dy.shape[0] * dy.shape[1] * dy.shape[2], (dweight.shape[0] + COLUMNS - 1) // COLUMNS
    pieces, length = offsets.shape[0], nothing.size
    chunks = (length + _CHUNK - 1) // _CHUNK
    table = np.empty((pieces, some), dtype=np.int64)
    gradients = np.zeros((outputs, some, COLUMNS), dtype=np.float32)
    for first in range(0, pixels, some):
        count = min(some, pixels - first)
        parts = (count + 7) // 8
        for part in prange(parts):
            begin, end = count * part // parts, count * (part + 1) // parts
            _prepare(table, gradients, dy, x, first, begin, end, axes, offsets, nothing)
        for task in prange(outputs * chunks):
            panel, row = task // chunks, task % chunks * _CHUNK
            end = min(length, row + _CHUNK)
            mine = sums[task] if sums.shape[0] else np.empty((pieces, _CHUNK, COLUMNS), dtype=np.float32)
            for t in range(pieces):
                sum_down(
                    row, end, table[t].ctypes.data, count, gradients[panel].ctypes.data,
                    mine[t].ctypes.data - row * PANEL, 1 if first else 0,
                )  # fmt: skip
            if first + some >= pixels:
                _write(dweight, mine, panel, row, end - row)


def convolve_weight_gradient(dweight: Any, dy: Any, x: Any, places: Places) -> None:
    """The gradient of filters, `dweight` (O, C, *kernel), from that of the results `dy` (B, H', W', O).

    Each thread sums pixels of its own; or, where they are few, or the memory for so many sums would outgrow the arrays,
    all look at the same pixels, and share out the filters.
    """
    axes, offsets = places.axes[0], places.offsets
    filters = dweight.reshape(*dweight.shape[:2], -1)
    nothing = np.zeros(math.prod(dweight.shape[1:]) // len(offsets), dtype=np.float32)
    outputs, pixels = panels(dy.shape[3]), math.prod(dy.shape[:3])
    shape = threads(), outputs, len(offsets), nothing.size, COLUMNS
    if pixels >= shape[0] * _SUM and math.prod(shape) <= x.size + dy.size + dweight.size:
        sums = np.empty(shape, dtype=np.float32)
        _gradient_apart(dy, x, filters, sums, axes, offsets, nothing, min(_SUM, pixels))
        return
    some = min(2 * _SUM, pixels)
    tasks = outputs * -(-nothing.size // _CHUNK) if some < pixels else 0  # of a single round no sums are kept
    sums = np.empty((tasks, len(offsets), _CHUNK, COLUMNS), dtype=np.float32)
    _gradient_together(filters, dy, x, sums, axes, offsets, nothing, some)
