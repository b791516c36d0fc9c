"""Winograd's convolution of 3x3 filters at stride 1: 2.25 times fewer products than the sum over taps.

Images are cut into tiles of 2x2 results. Of each, the 4x4 pixels that it sees are transformed, channel by channel, into
16 factors; likewise the filters. Then the convolution is 16 products over channels, one for each place in the tile,
with tiles for rows and outputs for columns; and what they give is transformed into the results. See
:mod:`.convolution_transforms`. For 64 channels, and 16 images of 64x64, it takes 12.5 ms where the sum over taps takes
25: 10 for the products, the rest for the transforms.

The factors are 4 times as large as the image. So they are made for some tiles at a time, and used while they lie in
the second cache. Where the filters outweigh the image, it is they that are transformed bit by bit.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import prange, types

from .blas import threads
from .common import add_to, compiled, parallel_for
from .convolution_layout import IMAGES, MADE, pack_bias, source_at
from .convolution_transforms import (
    SIDE,
    TAPS,
    TILE,
    transform_filter,
    transform_filter_gradient,
    transform_pixels,
    transform_result,
    transform_result_gradient,
)
from .tiles import down, panels
from .vector_code import COLUMNS, LANES, PANEL

_PLACES = TILE * TILE
_GAP = LANES  # numbers between the factors of two places, lest all sixteen fall on the same lines of the cache
_TILES, _AT_ONCE = 48, 8192  # tiles of a block, whose factors lie in the second cache
_FEW, _LARGE = 512, 128 * 96  # tiles, and filters; see _few
_NUMBERS = 32768  # factors at each place, of the tiles that are summed before the next task
_INPUTS = 128  # inputs whose filters are transformed at once, to be used while they lie in the second cache
_CHUNK = 16  # inputs of a task, where the tasks of a weight gradient are shared out

_FILTERS = types.Array(types.float32, 4, "A", readonly=True)  # (K, N, 3, 3)
_FACTORS = types.float32[:, :, :, ::1]  # (panels, 16, K, COLUMNS)
_BIAS = types.float32[:, ::1]  # (panels, COLUMNS)
_VECTOR = types.float32[::1]


@compiled
def _transform_filters(factors, filters, panel, begin, end):  # type: ignore[no-untyped-def]
    """Factors (16, K, COLUMNS) of a panel of filters, for the ks from `begin` to `end`."""
    first = panel * COLUMNS
    width = min(COLUMNS, filters.shape[1] - first)
    taps = np.zeros((TAPS * TAPS, COLUMNS), dtype=np.float32)
    sources, targets = np.empty(TAPS * TAPS, dtype=np.int64), np.empty(_PLACES, dtype=np.int64)
    for k in range(begin, end):
        for j in range(width):
            for row in range(TAPS):
                for column in range(TAPS):
                    taps[row * TAPS + column, j] = filters[k, first + j, row, column]
        for t in range(TAPS * TAPS):
            sources[t] = taps[t].ctypes.data
        for place in range(_PLACES):
            targets[place] = factors[place, k].ctypes.data
        transform_filter(sources.ctypes.data, targets.ctypes.data, COLUMNS)


@parallel_for(_FACTORS, _FILTERS)
def _transform_all_filters(factors, filters):  # type: ignore[no-untyped-def]
    parts = min(16, filters.shape[0])
    for task in prange(factors.shape[0] * parts):
        panel, part = task // parts, task % parts
        begin, end = filters.shape[0] * part // parts, filters.shape[0] * (part + 1) // parts
        _transform_filters(factors[panel], filters, panel, begin, end)


@compiled
def _tiles(y):  # type: ignore[no-untyped-def]
    """Rows, columns and number of the tiles that make `y`."""
    rows, columns = (y.shape[1] + SIDE - 1) // SIDE, (y.shape[2] + SIDE - 1) // SIDE
    return rows, columns, y.shape[0] * rows * columns


@compiled
def _square(addresses, x, side, b, h, w, elsewhere):  # type: ignore[no-untyped-def]
    """The addresses of `side` x `side` pixels, of which the image may not have all."""
    if min(h, w) >= 0 and h + side <= x.shape[1] and w + side <= x.shape[2]:
        start = x.ctypes.data + b * x.strides[0] + h * x.strides[1] + w * x.strides[2]
        for i in range(side):
            for j in range(side):
                addresses[i * side + j] = start + i * x.strides[1] + j * x.strides[2]
    else:
        for i in range(side):
            for j in range(side):
                addresses[i * side + j] = source_at(x, b, h + i, w + j, elsewhere)


@compiled
def _transform_images(factors, x, first, end, rows, columns, top, left, nothing):  # type: ignore[no-untyped-def]
    """Factors (16, tiles C + gap) of the pixels that the tiles from `first` to `end` see."""
    sources, targets = np.empty(_PLACES, dtype=np.int64), np.empty(_PLACES, dtype=np.int64)
    channels = nothing.size
    for tile in range(first, end):
        b, h, w = tile // columns // rows, tile // columns % rows * SIDE - top, tile % columns * SIDE - left
        _square(sources, x, TILE, b, h, w, nothing.ctypes.data)
        for place in range(_PLACES):
            targets[place] = factors.ctypes.data + place * factors.strides[0] + 4 * (tile - first) * channels
        transform_pixels(sources.ctypes.data, targets.ctypes.data, channels)


@compiled
def _results(y, products, bias, panel, first, end, rows, columns):  # type: ignore[no-untyped-def]
    """Results of the tiles from `first` to `end` in one panel of outputs, from products (16, tiles COLUMNS + gap)."""
    width, at = min(COLUMNS, y.shape[3] - panel * COLUMNS), panel * PANEL
    sources, targets = np.empty(_PLACES + 1, dtype=np.int64), np.empty(SIDE * SIDE, dtype=np.int64)
    trash = np.empty(COLUMNS, dtype=np.float32)
    for tile in range(first, end):
        b, h, w = tile // columns // rows, tile // columns % rows * SIDE, tile % columns * SIDE
        _square(targets, y, SIDE, b, h, w, trash.ctypes.data - at)
        for i in range(SIDE * SIDE):
            targets[i] += at
        for place in range(_PLACES):
            sources[place] = products[place].ctypes.data + (tile - first) * PANEL
        sources[_PLACES] = bias[panel].ctypes.data
        transform_result(sources.ctypes.data, targets.ctypes.data, width)


@parallel_for(MADE, IMAGES, _FACTORS, _BIAS, types.intp, types.intp, _VECTOR, types.intp, types.intp)
def _by_tiles(y, x, filters, bias, top, left, nothing, some, parts):  # type: ignore[no-untyped-def]
    rows, columns, tiles = _tiles(y)
    channels, blocks = nothing.size, (tiles + some - 1) // some
    for part in prange(parts):
        pixels = np.empty((_PLACES, some * channels + _GAP), dtype=np.float32)
        products = np.empty((_PLACES, some * COLUMNS + _GAP), dtype=np.float32)
        for block in range(blocks * part // parts, blocks * (part + 1) // parts):
            first, end = block * some, min(tiles, (block + 1) * some)
            _transform_images(pixels, x, first, end, rows, columns, top, left, nothing)
            for panel in range(filters.shape[0]):
                for place in range(_PLACES):
                    down(
                        end - first, pixels[place].ctypes.data, 4 * channels, 4,
                        filters[panel, place].ctypes.data, PANEL, products[place].ctypes.data, PANEL, channels, 0,
                    )  # fmt: skip
                _results(y, products, bias, panel, first, end, rows, columns)


@parallel_for(_FILTERS, MADE, IMAGES, types.float32[:, ::1], _BIAS, types.intp, types.intp, _VECTOR)
def _by_panels(filters, y, x, pixels, bias, top, left, nothing):  # type: ignore[no-untyped-def]
    rows, columns, tiles = _tiles(y)
    channels = nothing.size
    eights = (tiles + 7) // 8
    for eight in prange(eights):
        first, end = eight * 8, min(tiles, eight * 8 + 8)
        _transform_images(pixels[:, first * channels :], x, first, end, rows, columns, top, left, nothing)
    for panel in prange(bias.shape[0]):
        factors = np.empty((_PLACES, _INPUTS + 1, COLUMNS), dtype=np.float32)  # one more for the gap
        products = np.empty((_PLACES, tiles * COLUMNS + _GAP), dtype=np.float32)
        for begin in range(0, channels, _INPUTS):
            count = min(_INPUTS, channels - begin)
            _transform_filters(factors, filters[begin : begin + count], panel, 0, count)
            for place in range(_PLACES):
                down(
                    tiles, pixels[place].ctypes.data + 4 * begin, 4 * channels, 4, factors[place].ctypes.data, PANEL,
                    products[place].ctypes.data, PANEL, count, 1 if begin else 0,
                )  # fmt: skip
        _results(y, products, bias, panel, 0, tiles, rows, columns)


def _number_of_tiles(y: Any) -> int:
    """How many tiles make `y` (B, H, W, C)."""
    return int(y.shape[0] * -(-y.shape[1] // SIDE) * -(-y.shape[2] // SIDE))


def _block(channels: int) -> int:
    """How many tiles are transformed at once."""
    return min(_TILES, max(16, _AT_ONCE // channels))


def _few(tiles: int, filters: int, factors: int, *arrays: Any) -> bool:
    """Whether filters so outweigh the image that all of its factors are made first, where memory allows for so many."""
    return tiles < _FEW and filters > _LARGE and factors <= 2 * sum(array.size for array in arrays)


def convolve(y: Any, x: Any, filters: Any, bias: Any, top: int, left: int) -> None:
    """Convolution into `y` (B, H', W', N).

    Parameters
    ----------
    x : (B, H, W, K), the numbers of a pixel contiguous
    filters : (K, N, 3, 3), in any layout
    bias : (N,) or None
    top, left : rows and columns of zeros that are thought before the image
    """
    channels, outputs = filters.shape[:2]
    start, nothing = pack_bias(bias, outputs), np.zeros(channels, dtype=np.float32)
    tiles = _number_of_tiles(y)
    few = _few(tiles, channels * outputs, _PLACES * tiles * channels, x, y, filters)
    if few and panels(outputs) >= threads():
        pixels = np.empty((_PLACES, tiles * channels + _GAP), dtype=np.float32)
        _by_panels(filters, y, x, pixels, start, top, left, nothing)
        return
    factors = np.empty((panels(outputs), _PLACES, channels + 1, COLUMNS), dtype=np.float32)  # one more for the gap
    _transform_all_filters(factors, filters)
    some = min(_block(channels), -(-tiles // threads()))
    _by_tiles(y, x, factors, start, top, left, nothing, some, threads())


@compiled
def _transform_gradients(factors, dy, first, end, rows, columns, nothing):  # type: ignore[no-untyped-def]
    """Factors (16, panels, tiles, COLUMNS) of the gradients of the tiles from `first` to `end`."""
    corners, sources = np.empty(SIDE * SIDE, dtype=np.int64), np.empty(SIDE * SIDE, dtype=np.int64)
    targets = np.empty(_PLACES, dtype=np.int64)
    for tile in range(first, end):
        b, h, w = tile // columns // rows, tile // columns % rows * SIDE, tile % columns * SIDE
        _square(corners, dy, SIDE, b, h, w, nothing.ctypes.data)
        for panel in range(factors.shape[1]):
            for i in range(SIDE * SIDE):
                sources[i] = corners[i] + panel * PANEL
            for place in range(_PLACES):
                targets[place] = factors[place, panel, tile - first].ctypes.data
            width = min(COLUMNS, dy.shape[3] - panel * COLUMNS)
            transform_result_gradient(sources.ctypes.data, targets.ctypes.data, width)


@compiled
def _write_filters(dweight, sums, panel, chunk):  # type: ignore[no-untyped-def]
    """The gradients of some filters from those of their factors, (16, CHUNK, COLUMNS)."""
    taps = np.empty((TAPS * TAPS, COLUMNS), dtype=np.float32)
    sources, targets = np.empty(_PLACES, dtype=np.int64), np.empty(TAPS * TAPS, dtype=np.int64)
    first = panel * COLUMNS
    width = min(COLUMNS, dweight.shape[0] - first)
    for c in range(chunk * _CHUNK, min(dweight.shape[1], (chunk + 1) * _CHUNK)):
        for place in range(_PLACES):
            sources[place] = sums[place, c - chunk * _CHUNK].ctypes.data
        for t in range(TAPS * TAPS):
            targets[t] = taps[t].ctypes.data
        transform_filter_gradient(sources.ctypes.data, targets.ctypes.data, COLUMNS)
        for o in range(width):
            for t in range(TAPS * TAPS):
                dweight[first + o, c, t] = taps[t, o]


@parallel_for(
    IMAGES, IMAGES, types.float32[:, :, ::1], types.float32[:, ::1], _FACTORS, _FACTORS, types.intp, types.intp,
    _VECTOR, _VECTOR,
)  # fmt: skip
def _gradient_together(dy, x, dweight, pixels, gradients, sums, top, left, no_pixel, no_gradient):  # type: ignore[no-untyped-def]
    rows, columns, tiles = _tiles(dy)
    channels, some = no_pixel.size, gradients.shape[2] - 1
    chunks = (channels + _CHUNK - 1) // _CHUNK
    for first in range(0, tiles, some):
        count = min(some, tiles - first)
        parts = (count + 7) // 8
        for part in prange(parts):
            begin, end = first + count * part // parts, first + count * (part + 1) // parts
            _transform_images(
                pixels[:, (begin - first) * channels :], x, begin, end, rows, columns, top, left, no_pixel
            )
            _transform_gradients(gradients[:, :, begin - first :], dy, begin, end, rows, columns, no_gradient)
        for task in prange(gradients.shape[1] * chunks):
            panel, chunk = task // chunks, task % chunks
            mine = sums[task] if sums.shape[0] else np.empty((_PLACES, _CHUNK, COLUMNS), dtype=np.float32)
            height = min(_CHUNK, channels - chunk * _CHUNK)
            for place in range(_PLACES):
                down(
                    height, pixels[place].ctypes.data + 4 * chunk * _CHUNK, 4, 4 * channels,
                    gradients[place, panel].ctypes.data, PANEL, mine[place].ctypes.data, PANEL, count,
                    1 if first else 0,
                )  # fmt: skip
            if first + some >= tiles:
                _write_filters(dweight, mine, panel, chunk)


@parallel_for(
    IMAGES, IMAGES, types.float32[:, :, ::1], types.float32[:, :, :, :, ::1], types.intp, types.intp, _VECTOR,
    _VECTOR, types.intp,
)  # fmt: skip
def _gradient_apart(dy, x, dweight, sums, top, left, no_pixel, no_gradient, some):  # type: ignore[no-untyped-def]
    rows, columns, tiles = _tiles(dy)
    parts, tasks = sums.shape[0], sums.shape[1]
    channels, blocks = no_pixel.size, (tiles + some - 1) // some
    chunks = (channels + _CHUNK - 1) // _CHUNK
    for part in prange(parts):
        pixels = np.empty((_PLACES, some * channels + _GAP), dtype=np.float32)
        gradients = np.zeros((_PLACES, tasks // chunks, some + 1, COLUMNS), dtype=np.float32)
        mine = sums[part]
        begin = blocks * part // parts
        for block in range(begin, blocks * (part + 1) // parts):
            first, end = block * some, min(tiles, (block + 1) * some)
            _transform_images(pixels, x, first, end, rows, columns, top, left, no_pixel)
            _transform_gradients(gradients, dy, first, end, rows, columns, no_gradient)
            for place in range(_PLACES):
                for task in range(tasks):
                    panel, chunk = task // chunks, task % chunks
                    down(
                        min(_CHUNK, channels - chunk * _CHUNK), pixels[place].ctypes.data + 4 * chunk * _CHUNK, 4,
                        4 * channels, gradients[place, panel].ctypes.data, PANEL, mine[task, place].ctypes.data, PANEL,
                        end - first, 1 if block > begin else 0,
                    )  # fmt: skip
    for task in prange(tasks):
        total = sums[0, task]
        for part in range(1, parts):
            for place in range(_PLACES):
                add_to(total[place].reshape(-1), sums[part, task, place].reshape(-1))
        _write_filters(dweight, total, task // chunks, task % chunks)


def convolve_weight_gradient(dweight: Any, dy: Any, x: Any, top: int, left: int) -> None:
    """The gradient of filters, `dweight` (O, C, 3, 3), from that of the results `dy` (B, H', W', O).

    Each thread sums tiles of its own, which it alone transforms and reads: 14 ms for 64 channels and 16 images of 64x64
    pixels, where sharing all factors took 20. But where the memory for so many sums would outgrow the arrays, all
    transform the same tiles, and share out the filters.
    """
    outputs, channels = dweight.shape[:2]
    dweight = dweight.reshape(outputs, channels, -1)
    tiles = _number_of_tiles(dy)
    tasks = panels(outputs) * -(-channels // _CHUNK)
    no_pixel, no_gradient = np.zeros(channels, dtype=np.float32), np.zeros(outputs, dtype=np.float32)
    shape, parts = (tasks, _PLACES, _CHUNK, COLUMNS), min(threads(), tiles)
    factors = _PLACES * tiles * (channels + panels(outputs) * COLUMNS)
    few = _few(tiles, channels * outputs, factors, x, dy, dweight)
    if not few and parts * math.prod(shape) <= x.size + dy.size + dweight.size:
        some = min(_block(channels + outputs), -(-tiles // parts))
        sums = np.empty((min(parts, -(-tiles // some)), *shape), dtype=np.float32)
        _gradient_apart(dy, x, dweight, sums, top, left, no_pixel, no_gradient, some)
        return
    some = tiles if few else min(tiles, max(_TILES, _NUMBERS // (channels + outputs)))
    pixels = np.empty((_PLACES, some * channels + _GAP), dtype=np.float32)
    gradients = np.zeros((_PLACES, panels(outputs), some + 1, COLUMNS), dtype=np.float32)  # one more for the gap
    sums = np.empty((tasks if some < tiles else 0, *shape[1:]), dtype=np.float32)  # of a single round none are kept
    _gradient_together(dy, x, dweight, pixels, gradients, sums, top, left, no_pixel, no_gradient)
