"""How the convolutions lay out what they read: images channels last, filters in panels; and which pixels meet.

Channels last, the numbers of a pixel are neighbours, and so are the pixels of a row: a product over channels reads
memory in order, and its results are stored in order. Images come in as (B, H, W, C) views here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import prange, types

from .common import compiled, parallel_for
from .tiles import copy_row, panels
from .vector_code import COLUMNS

IMAGES = types.Array(types.float32, 4, "A", readonly=True)  # (B, H, W, C), the numbers of a pixel contiguous
MADE = types.Array(types.float32, 4, "A")
PACKED = types.Array(types.float32, 3, "C", readonly=True)  # (panels, K, COLUMNS)
SPACE = types.float32[:, :, ::1]
FILTERS = types.Array(types.float32, 3, "A", readonly=True)  # (K, N, taps): sums go over K, columns are N
INTEGERS = types.Array(types.int64, 2, "C", readonly=True)
TAPS = types.int64[::1]
Size = tuple[int, ...]

_EIGHT = 8  # rows of the filters that are packed together


class Places(NamedTuple):
    """Which pixels of a result are made, and which pixels of the source each tap brings to them.

    The pixels of a result fall into phases, which are seen by the same taps. Of each phase and axis: pixel
    ``first + i step`` of the result for ``i < count``, to which tap t brings pixel ``i source_step + offset_t`` of the
    source; outside of it there are zeros.

    Attributes
    ----------
    axes : (phases, 2, 4) int64: first, step, count, source_step
    offsets : (pieces, 2) int64, of all phases
    begins : (phases + 1,) int64: where the pieces of each phase begin
    taps : int64, which taps of the kernel these are, counted row by row; a piece may be several taps in a row
    """

    axes: Any
    offsets: Any
    begins: Any
    taps: Any


def _places(phases: list[tuple[list[Size], list[tuple[int, int]]]], taps: list[int]) -> Places:
    begins = np.cumsum([0, *(len(offsets) for _, offsets in phases)], dtype=np.int64)
    offsets = np.array([offset for _, of_phase in phases for offset in of_phase], dtype=np.int64).reshape(-1, 2)
    return Places(
        np.array([axes for axes, _ in phases], dtype=np.int64), offsets, begins, np.array(taps, dtype=np.int64)
    )


def forward_places(output: Size, kernel: Size, stride: Size, padding: Size, dilation: Size) -> Places:
    """Those of the convolution itself: every result sees all taps."""
    axes: list[Size] = [(0, 1, n, s) for n, s in zip(output, stride, strict=True)]
    rows, columns = ([t * d - p for t in range(k)] for k, p, d in zip(kernel, padding, dilation, strict=True))
    return _places([(axes, [(i, j) for i in rows for j in columns])], list(range(kernel[0] * kernel[1])))


def line_places(output: Size, kernel: Size, stride: Size, dilation: Size) -> Places:
    """Those of a convolution over a padded copy, where a whole line of the kernel is one piece.

    Channels last, the pixels of a line are neighbours. Of 3 channels, 21 numbers of a line of 7 are better than 3.
    """
    axes: list[Size] = [(0, 1, n, s) for n, s in zip(output, stride, strict=True)]
    return _places([(axes, [(i * dilation[0], 0) for i in range(kernel[0])])], list(range(kernel[0] * kernel[1])))


def backward_places(size: Size, kernel: Size, stride: Size, padding: Size, dilation: Size) -> Places:
    """Those of the input gradient: tap t has seen pixel h where the stride divides ``h + padding - dilation t``."""

    def phases(axis: int) -> list[tuple[Size, list[tuple[int, int]]]]:
        n, s, p, d = size[axis], stride[axis], padding[axis], dilation[axis]
        found: list[tuple[Size, list[tuple[int, int]]]] = []
        for first in range(min(n, s)):
            seen = [(t, (first + p - d * t) // s) for t in range(kernel[axis]) if (first + p - d * t) % s == 0]
            found.append(((first, s, -(-(n - first) // s), 1), seen))
        return found

    both = [(row, column) for row in phases(0) for column in phases(1)]
    taps = [i * kernel[1] + j for (_, rows), (_, columns) in both for i, _ in rows for j, _ in columns]
    return _places(
        [([row, column], [(i, j) for _, i in rows for _, j in columns]) for (row, rows), (column, columns) in both],
        taps,
    )


@compiled
def source_at(x, b, h, w, nothing):  # type: ignore[no-untyped-def]
    """The address of a pixel, that of zeros where there is none."""
    if 0 <= h < x.shape[1] and 0 <= w < x.shape[2]:
        return x.ctypes.data + b * x.strides[0] + h * x.strides[1] + w * x.strides[2]
    return nothing


@compiled
def look(table, x, first, begin, end, axes, offsets, nothing):  # type: ignore[no-untyped-def]
    """Where pixels are: ``table[t, n]`` for the places ``first + n``, n from `begin` to `end`, of these (2, 4) axes.

    Row by row: within one, they are evenly spaced.
    """
    rows, columns, source_row, source_column = axes[0, 2], axes[1, 2], axes[0, 3], axes[1, 3]
    step = source_column * x.strides[2]
    n = begin
    while n < end:
        place = first + n
        j, i, b = place % columns, place // columns % rows, place // columns // rows
        run = min(columns - j, end - n)
        for t in range(offsets.shape[0]):
            h, w, some = i * source_row + offsets[t, 0], j * source_column + offsets[t, 1], table[t, n : n + run]
            low = min(run, (source_column - 1 - w) // source_column) if w < 0 else 0
            high = max(low, min(run, (x.shape[2] - w + source_column - 1) // source_column))
            if not 0 <= h < x.shape[1]:
                low = high = run
            start = x.ctypes.data + b * x.strides[0] + h * x.strides[1] + w * x.strides[2]
            for m in range(low):
                some[m] = nothing
            for m in range(low, high):
                some[m] = start + m * step
            for m in range(high, run):
                some[m] = nothing
        n += run


@parallel_for(types.float32[:, :, :, ::1], IMAGES, types.intp, types.intp)
def _copy(out, x, top, left):  # type: ignore[no-untyped-def]
    batch, height, width, channels = out.shape
    begin, end = max(0, left), min(width, x.shape[2] + left)
    for line in prange(batch * height):
        b, h = line // height, line % height
        row, source = out[b, h], h - top
        if not 0 <= source < x.shape[1] or end <= begin:
            row[:] = np.float32(0)
            continue
        row[:begin] = np.float32(0)
        row[end:] = np.float32(0)
        seen = x[b, source]
        if x.strides[3] == 4:
            for w in range(begin, end):
                for c in range(channels):
                    row[w, c] = seen[w - left, c]
        else:  # channel by channel, as they lie; the row stays in the cache meanwhile
            for c in range(channels):
                for w in range(begin, end):
                    row[w, c] = seen[w - left, c]


def padded(x: Any, top: int, left: int, height: int, width: int) -> Any:
    """A copy of `x` (B, H, W, C) of another size, with `top` rows and `left` columns of zeros before it, or cut off."""
    out = np.empty((x.shape[0], height, width, x.shape[3]), dtype=np.float32)
    _copy(out, x, top, left)
    return out


def channels_last(x: Any) -> Any:
    """`x` (B, C, H, W) as contiguous (B, H, W, C): without a copy where it lies so, as our own results do."""
    turned = x.transpose(0, 2, 3, 1)
    if turned.flags.c_contiguous and turned.flags.aligned:
        return turned
    return padded(turned, 0, 0, turned.shape[1], turned.shape[2])


def channels_first(y: Any) -> Any:
    """The view (B, C, H, W) of (B, H, W, C)."""
    return y.transpose(0, 3, 1, 2)


@compiled
def pack_panel(packed, filters, taps, panel, begin, end):  # type: ignore[no-untyped-def]
    """One panel of :func:`pack_filters`, (taps K, COLUMNS), for the ks from `begin` to `end`.

    Some ks at a time: in memory, ks or columns lie far apart, each with its taps and its neighbours on a cache line.
    """
    count, first = filters.shape[0], panel * COLUMNS
    width = min(COLUMNS, filters.shape[1] - first)
    some = np.zeros((_EIGHT, taps.size, COLUMNS), dtype=np.float32)
    for eight in range(begin, end, _EIGHT):
        ks = min(_EIGHT, end - eight)
        for column in range(width):
            for k in range(ks):
                for t in range(taps.size):
                    some[k, t, column] = filters[eight + k, first + column, taps[t]]
        for t in range(taps.size):
            for k in range(ks):
                copy_row(some[k, t].ctypes.data, packed[t * count + eight + k].ctypes.data)


@parallel_for(SPACE, FILTERS, TAPS)
def _pack(packed, filters, taps):  # type: ignore[no-untyped-def]
    count = filters.shape[0]
    parts = (count + _EIGHT - 1) // _EIGHT
    for task in prange(packed.shape[0] * parts):
        panel, part = task // parts, task % parts
        pack_panel(packed[panel], filters, taps, panel, part * _EIGHT, min(count, (part + 1) * _EIGHT))


def pack_filters(filters: Any, taps: Any) -> Any:
    """Some taps of filters (K, N, taps) as the right-hand matrix of products, (panels, taps K, COLUMNS)."""
    packed = np.empty((panels(filters.shape[1]), len(taps) * filters.shape[0], COLUMNS), dtype=np.float32)
    _pack(packed, filters, taps)
    return packed


def pack_bias(bias: Any, columns: int) -> Any:
    """The bias, or zeros, in rows of COLUMNS: (panels, COLUMNS)."""
    packed = np.zeros((panels(columns), COLUMNS), dtype=np.float32)
    if bias is not None:
        packed.reshape(-1)[:columns] = bias
    return packed
