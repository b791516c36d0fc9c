"""Pooling: the largest value of each window, as it lies in memory; means, by banded matrices along each axis."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numba import prange, types

from ...backend import kernel, registered_ops
from . import layout
from .bands import Bands, bands_of, multiply
from .common import expect, parallel_for

Size = tuple[int, ...]

_FEW = 8  # channels; of fewer, plain images are gone through plane by plane, and not laid channels-last first
_READ = types.Array(types.float32, 4, "C", readonly=True)
_WRITE = types.float32[:, :, :, ::1]
_WON = types.Array(types.uint8, 4, "C", readonly=True)
_PAIR = types.UniTuple(types.intp, 2)


def _windows(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """How many windows lie along an axis; a last one beyond the image must begin in it or in the margin before."""
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    count = room // stride + 1
    return count + (ceil_mode and room % stride != 0 and count * stride < size + padding)


# -- the largest value -----------------------------------------------------------------------------------


@parallel_for(_READ, _PAIR, _PAIR, _PAIR, _PAIR, _WRITE, types.uint8[:, :, :, ::1])
def _max_pool(x, kernel, stride, padding, dilation, y, winner):  # type: ignore[no-untyped-def]
    """(B, H, W, C) to (B, H', W', C). A NaN wins over all numbers."""
    batch, height, width, channels = y.shape
    for task in prange(batch * height):
        image, i = task // height, task % height
        for j in range(width):
            best, won = y[image, i, j], winner[image, i, j]
            for c in range(channels):
                best[c], won[c] = -np.inf, 0
            for s in range(kernel[0]):
                row = i * stride[0] - padding[0] + s * dilation[0]
                if row < 0 or row >= x.shape[1]:
                    continue
                for t in range(kernel[1]):
                    column = j * stride[1] - padding[1] + t * dilation[1]
                    if column < 0 or column >= x.shape[2]:
                        continue
                    pixel, tap = x[image, row, column], np.uint8(s * kernel[1] + t)
                    for c in range(channels):
                        better = pixel[c] > best[c] or pixel[c] != pixel[c]
                        best[c] = pixel[c] if better else best[c]
                        won[c] = tap if better else won[c]


@parallel_for(_READ, _WON, _PAIR, _PAIR, _PAIR, _PAIR, _WRITE)
def _max_pool_backward(dy, winner, kernel, stride, padding, dilation, dx):  # type: ignore[no-untyped-def]
    """Each pixel collects from the windows that it lies in, so that no two threads write to one."""
    batch, height, width, channels = dx.shape
    for task in prange(batch * height):
        image, row = task // height, task % height
        for column in range(width):
            out = dx[image, row, column]
            for c in range(channels):
                out[c] = 0
            for s in range(kernel[0]):
                above = row + padding[0] - s * dilation[0]
                i = above // stride[0]
                if above < 0 or above % stride[0] != 0 or i >= dy.shape[1]:
                    continue
                for t in range(kernel[1]):
                    before = column + padding[1] - t * dilation[1]
                    j = before // stride[1]
                    if before < 0 or before % stride[1] != 0 or j >= dy.shape[2]:
                        continue
                    share, won, tap = dy[image, i, j], winner[image, i, j], np.uint8(s * kernel[1] + t)
                    for c in range(channels):
                        out[c] += share[c] if won[c] == tap else np.float32(0)


def _pair(values: Size, other: int) -> Size:
    """A number for height and width: a sequence is an image of height 1."""
    return values if len(values) == 2 else (other, *values)


def _flat(x: Any, by_pixels: bool) -> Any:
    """(B, C, *size) as (B, H, W, C), or plane by plane as (B C, H, W, 1)."""
    batch, channels, *size = x.shape
    size = [1] * (2 - len(size)) + size
    if by_pixels:
        return layout.pixels(x).reshape(batch, *size, channels)
    return layout.planes(x).reshape(batch * channels, *size, 1)


def _image(flat: Any, by_pixels: bool, shape: Size, size: Size) -> Any:
    """Back from :func:`_flat`: (B, C, *size), with B and C as in `shape`."""
    if not by_pixels:
        return flat.reshape(*shape[:2], *size)
    last = flat.reshape(shape[0], *size, shape[1])
    return last.transpose(0, last.ndim - 1, *range(1, last.ndim - 1))


@kernel("max_pool", device="cpu")
def max_pool(x: Any, kernel: Size, stride: Size, padding: Size, dilation: Size, ceil_mode: bool) -> Any:
    if len(kernel) > 2 or math.prod(kernel) > 256:
        return registered_ops()["max_pool"].reference(x, kernel, stride, padding, dilation, ceil_mode)
    size = x.shape[2:]
    output = tuple(_windows(*of, ceil_mode) for of in zip(size, kernel, stride, padding, dilation, strict=True))
    by_pixels = layout.by_pixels(x) or x.shape[1] >= _FEW
    flat = _flat(x, by_pixels)
    shape = (len(flat), *_pair(output, 1), flat.shape[-1])
    y, winner = np.empty(shape, dtype=x.dtype), np.empty(shape, dtype=np.uint8)
    _max_pool(flat, _pair(kernel, 1), _pair(stride, 1), _pair(padding, 0), _pair(dilation, 1), y, winner)
    return tuple(_image(each, by_pixels, x.shape, output) for each in (y, winner))


@kernel("max_pool_backward", device="cpu")
def max_pool_backward(
    dy: Any, winner: Any, size: Size, kernel: Size, stride: Size, padding: Size, dilation: Size
) -> Any:
    expect("max_pool_backward", winner.shape, dy=dy)
    if len(kernel) > 2 or winner.dtype != np.uint8:
        return registered_ops()["max_pool_backward"].reference(dy, winner, size, kernel, stride, padding, dilation)
    by_pixels = layout.by_pixels(winner)
    share, won = _flat(dy, by_pixels), _flat(winner, by_pixels)
    dx = np.empty((len(share), *_pair(size, 1), share.shape[-1]), dtype=dy.dtype)
    _max_pool_backward(share, won, _pair(kernel, 1), _pair(stride, 1), _pair(padding, 0), _pair(dilation, 1), dx)
    return _image(dx, by_pixels, dy.shape, size)


# -- means -----------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=128)
def _sums(
    size: int, kernel: int, stride: int, padding: int, windows: int, counted: str, divisor: int, transposed: bool
) -> Bands:
    """Each window's sum over its pixels, divided by how many pixels are `counted`, ``"padded"`` or ``"inside"``, and
    by `divisor`.
    """
    begin = np.arange(windows) * stride - padding
    end = np.minimum(begin + kernel, size + padding)
    place = np.arange(size)
    matrix = ((begin[:, None] <= place) & (place < end[:, None])) / divisor
    if counted == "padded":
        matrix /= (end - begin)[:, None]
    elif counted == "inside":
        matrix /= (np.minimum(end, size) - np.maximum(begin, 0))[:, None]
    return bands_of(matrix.T if transposed else matrix)


def _means(
    size: Size,
    output: Size,
    kernel: Size,
    stride: Size,
    padding: Size,
    count_padding: bool,
    divisor: int | None,
    transposed: bool,
) -> tuple[Bands, ...]:
    counted = ("padded" if count_padding else "inside") if divisor is None else ""
    axes = zip(size, kernel, stride, padding, output, strict=True)
    # A divisor for the whole window divides along the last axis alone.
    return tuple(
        _sums(*of, counted, divisor or 1 if axis == len(size) - 1 else 1, transposed) for axis, of in enumerate(axes)
    )


@kernel("average_pool", device="cpu")
def average_pool(
    x: Any, kernel: Size, stride: Size, padding: Size, ceil_mode: bool, count_padding: bool, divisor: int | None
) -> Any:
    if len(kernel) > 2:
        reference = registered_ops()["average_pool"].reference
        return reference(x, kernel, stride, padding, ceil_mode, count_padding, divisor)
    size = x.shape[2:]
    output = tuple(_windows(*of, 1, ceil_mode) for of in zip(size, kernel, stride, padding, strict=True))
    return multiply(x, _means(size, output, kernel, stride, padding, count_padding, divisor, False))


@kernel("average_pool_backward", device="cpu")
def average_pool_backward(
    dy: Any, size: Size, kernel: Size, stride: Size, padding: Size, count_padding: bool, divisor: int | None
) -> Any:
    if len(kernel) > 2:
        reference = registered_ops()["average_pool_backward"].reference
        return reference(dy, size, kernel, stride, padding, count_padding, divisor)
    return multiply(dy, _means(size, dy.shape[2:], kernel, stride, padding, count_padding, divisor, True))


@functools.lru_cache(maxsize=128)
def _parts(size: int, windows: int, transposed: bool) -> Bands:
    """Means over windows that begin at floor(i n / m) and end before ceil((i + 1) n / m)."""
    i, place = np.arange(windows)[:, None], np.arange(size)
    matrix = (i * size // windows <= place) & (place < -(-(i + 1) * size // windows))
    matrix = matrix / matrix.sum(axis=1, keepdims=True)
    return bands_of(matrix.T if transposed else matrix)


@kernel("adaptive_average_pool", device="cpu")
def adaptive_average_pool(x: Any, output: Size) -> Any:
    if len(output) > 2:
        return registered_ops()["adaptive_average_pool"].reference(x, output)
    return multiply(x, tuple(_parts(n, m, False) for n, m in zip(x.shape[2:], output, strict=True)))


@kernel("adaptive_average_pool_backward", device="cpu")
def adaptive_average_pool_backward(dy: Any, size: Size) -> Any:
    if len(size) > 2:
        return registered_ops()["adaptive_average_pool_backward"].reference(dy, size)
    return multiply(dy, tuple(_parts(n, m, True) for n, m in zip(size, dy.shape[2:], strict=True)))
