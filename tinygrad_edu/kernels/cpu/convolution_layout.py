"""How the convolutions lay out what they read: images channels last, filters in panels; and which pixels meet.

Channels last, the numbers of a pixel are neighbours, and so are the pixels of a row: a product over channels reads
memory in order, and its results are stored in order. Images come in as (B, H, W, C) views here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import prange, types

from .common import compiled, parallel_for
from .tiles import COLUMNS, panels

IMAGES = types.Array(types.float32, 4, "A", readonly=True)  # (B, H, W, C), the numbers of a pixel contiguous
MADE = types.Array(types.float32, 4, "A")
PACKED = types.Array(types.float32, 3, "C", readonly=True)  # (panels, K, COLUMNS)
SPACE = types.float32[:, :, ::1]
FILTERS = types.Array(types.float32, 4, "A", readonly=True)  # (K, N, *kernel): sums go over K, columns are N
INTEGERS = types.Array(types.int64, 2, "C", readonly=True)

_EIGHT = 8  # columns that are packed together: their cache lines stay in reach


class Places(NamedTuple):
    """Which pixels of a result are made, and which pixels of the source each tap brings to them.

    Of each axis: pixel ``first + i step`` of the result for ``i < count``, to which tap t brings pixel
    ``i source_step + offset_t`` of the source; outside of it there are zeros.

    Attributes
    ----------
    axes : (2, 4) int64: first, step, count, source_step
    offsets : (taps, 2) int64
    taps : which taps of the kernel these are, counted row by row
    """

    axes: Any
    offsets: Any
    taps: tuple[int, ...]


def forward_places(
    output: tuple[int, ...], kernel: tuple[int, ...], stride: Any, padding: Any, dilation: Any
) -> Places:
    """Those of the convolution itself: every result sees all taps."""
    (height, width), (rows, columns) = output, kernel
    axes = np.array([(0, 1, height, stride[0]), (0, 1, width, stride[1])], dtype=np.int64)
    offsets = [
        (i * dilation[0] - padding[0], j * dilation[1] - padding[1]) for i in range(rows) for j in range(columns)
    ]
    return Places(axes, np.array(offsets, dtype=np.int64), tuple(range(rows * columns)))


def backward_places(
    size: tuple[int, ...], kernel: tuple[int, ...], stride: Any, padding: Any, dilation: Any
) -> list[Places]:
    """Those of the input gradient, which by the stride falls into phases: pixels that the same taps have seen.

    Pixel h was seen by tap t where ``h + padding - dilation t`` is a multiple of the stride.
    """

    def phases(axis: int) -> list[tuple[tuple[int, ...], list[tuple[int, int]]]]:
        n, s, p, d = size[axis], stride[axis], padding[axis], dilation[axis]
        found: list[tuple[tuple[int, ...], list[tuple[int, int]]]] = []
        for first in range(min(n, s)):
            seen = [(t, (first + p - d * t) // s) for t in range(kernel[axis]) if (first + p - d * t) % s == 0]
            found.append(((first, s, -(-(n - first) // s), 1), seen))
        return found

    places = []
    for row_axis, rows in phases(0):
        for column_axis, columns in phases(1):
            offsets = np.array([(i, j) for _, i in rows for _, j in columns], dtype=np.int64).reshape(-1, 2)
            taps = tuple(i * kernel[1] + j for i, _ in rows for j, _ in columns)
            places.append(Places(np.array([row_axis, column_axis], dtype=np.int64), offsets, taps))
    return places


def line_places(output: tuple[int, ...], kernel: tuple[int, ...], stride: Any, dilation: Any) -> Places:
    """Those of a convolution over a padded copy, where a whole line of the kernel is one tap.

    Channels last, the pixels of a line are neighbours. Of 3 channels, 21 numbers of a line of 7 are better than 3.
    """
    axes = np.array([(0, 1, output[0], stride[0]), (0, 1, output[1], stride[1])], dtype=np.int64)
    offsets = np.array([(i * dilation[0], 0) for i in range(kernel[0])], dtype=np.int64)
    return Places(axes, offsets, tuple(range(kernel[0] * kernel[1])))


@compiled
def source_at(x, b, h, w, nothing):  # type: ignore[no-untyped-def]
    """The address of a pixel, that of zeros where there is none."""
    if 0 <= h < x.shape[1] and 0 <= w < x.shape[2]:
        return x.ctypes.data + b * x.strides[0] + h * x.strides[1] + w * x.strides[2]
    return nothing


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


@parallel_for(SPACE, FILTERS, types.int64[::1])
def _pack(packed, filters, taps):  # type: ignore[no-untyped-def]
    count, columns, kernel = filters.shape[0], filters.shape[1], filters.shape[3]
    parts = min(count, 16)
    for task in prange(packed.shape[0] * parts):
        panel, part = task // parts, task % parts
        first = panel * COLUMNS
        width, target = min(COLUMNS, columns - first), packed[panel]
        for eight in range(0, COLUMNS, _EIGHT):
            end = min(width, eight + _EIGHT)
            for k in range(count * part // parts, count * (part + 1) // parts):
                for t in range(taps.size):
                    row, i, j = target[t * count + k], taps[t] // kernel, taps[t] % kernel
                    for column in range(eight, end):
                        row[column] = filters[k, first + column, i, j]
                    for column in range(max(eight, end), eight + _EIGHT):
                        row[column] = np.float32(0)


def pack_filters(filters: Any, taps: tuple[int, ...]) -> Any:
    """Some taps of filters (K, N, *kernel) as the right-hand matrix of products, (panels, taps K, COLUMNS)."""
    packed = np.empty((panels(filters.shape[1]), len(taps) * filters.shape[0], COLUMNS), dtype=np.float32)
    _pack(packed, filters, np.array(taps, dtype=np.int64))
    return packed


def pack_bias(bias: Any, columns: int) -> Any:
    """The bias, or zeros, in rows of COLUMNS: (panels, COLUMNS)."""
    packed = np.zeros((panels(columns), COLUMNS), dtype=np.float32)
    if bias is not None:
        packed.reshape(-1)[:columns] = bias
    return packed


@parallel_for(types.float32[:, :, ::1], types.float32[:, :, :, ::1])
def _unpack(dweight, sums):  # type: ignore[no-untyped-def]
    outputs, inputs, taps = dweight.shape
    for o in prange(outputs):
        target, panel, column = dweight[o], sums[o // COLUMNS], o % COLUMNS
        for t in range(taps):
            for c in range(inputs):
                target[c, t] = panel[t, c, column]


def unpack_filters(sums: Any, dweight: Any) -> None:
    """Sums (panels, taps C, COLUMNS) as filters `dweight` (O, C, *kernel)."""
    outputs, inputs = dweight.shape[:2]
    by_tap = sums.reshape(sums.shape[0], -1, inputs, COLUMNS)
    _unpack(dweight.reshape(outputs, inputs, -1), by_tap)
