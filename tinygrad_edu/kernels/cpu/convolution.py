"""Convolutions: which way to go for which sizes.

Results are (B, C, *size) as everywhere, but channels last in memory, as the next convolution reads them. Images that
lie otherwise are copied once. There are four ways:

- Winograd's, for 3x3 filters of stride 1 (:mod:`.convolution_winograd`);
- tap by tap, for all others (:mod:`.convolution_direct`);
- all taps at once, where they lead to few channels (:mod:`.convolution_folded`);
- by channels, where none meets another (:mod:`.convolution_depthwise`).

Groups of more channels go one by one, small ones in bundles.

At stride 1 the gradient of the image is a convolution itself, with filters turned and their two sides exchanged. So all
of these are told filters as (K, N, *kernel): the sum goes over K channels of what is read, for N of what is made.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import prange, types

from ...backend import kernel, registered_ops
from ...errors import ShapeError, format_shape
from . import convolution_depthwise as depthwise
from . import convolution_direct as direct
from . import convolution_folded as folded
from . import convolution_winograd as winograd
from .blas import threads
from .common import expect, parallel_for
from .convolution_layout import (
    backward_places,
    channels_first,
    channels_last,
    forward_places,
    line_places,
    padded,
)
from .vector_code import COLUMNS

_MANY = 16  # channels that are worth a transformation: a whole vector of them
_LINES = 32  # numbers up to which a line of the kernel is taken as one tap: fewer leave the tile idle between two taps
_FEW = 12  # outputs of a weight gradient that had better be rows of the tiles than columns

Two = tuple[int, int]


class _Steps(NamedTuple):
    """How the kernel moves over an image."""

    stride: Two
    padding: Two
    dilation: Two


def _pair(values: tuple[int, ...], line: int) -> Two:
    """Of two axes; a line is an image of height 1."""
    return (line, values[0]) if len(values) == 1 else (values[0], values[1])


def _steps(stride: tuple[int, ...], padding: tuple[int, ...], dilation: tuple[int, ...]) -> _Steps:
    return _Steps(_pair(stride, 1), _pair(padding, 0), _pair(dilation, 1))


def _image(x: Any) -> Any:
    return x[:, :, None] if x.ndim == 3 else x


def _possible(x: Any, weight: Any) -> bool:
    """Whether these are images or lines, and have numbers at all; the readable op does the rest."""
    return x.ndim in (3, 4) and weight.ndim == x.ndim and x.size > 0 and weight.size > 0


def _output(size: tuple[int, ...], taps: tuple[int, ...], steps: _Steps) -> tuple[int, ...]:
    return tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, taps, steps.stride, steps.padding, steps.dilation, strict=True)
    )


def _check_groups(op: str, channels: int, weight: tuple[int, ...], groups: int) -> None:
    if weight[1] * groups != channels or weight[0] % groups:
        raise ShapeError(
            f"{op}: weight must be (outputs, {channels} / groups, *kernel), with outputs a multiple of the "
            f"{groups} groups, got {format_shape(weight)}"
        )


def _back(filters: Any) -> Any:
    """The kernel turned by 180 degrees."""
    return filters[:, :, ::-1, ::-1]


def _opposite(taps: tuple[int, ...], steps: _Steps) -> Two:
    """The padding with which a convolution of the results, the kernel turned, gives an image of the size before."""
    rows, columns = (d * (k - 1) - p for k, p, d in zip(taps, steps.padding, steps.dilation, strict=True))
    return rows, columns


def _convolve(y: Any, x: Any, filters: Any, bias: Any, steps: _Steps) -> None:
    """Convolution of `x` (B, H, W, K) with `filters` (K, N, *kernel) into `y` (B, H', W', N)."""
    channels, outputs, *kernel = filters.shape
    taps = (kernel[0], kernel[1])
    stride, padding, dilation = steps
    plain = stride == (1, 1)
    if plain and y.flags.c_contiguous and folded.folds(outputs, taps, dilation):
        folded.convolve(y, x, _back(filters), bias, (1, 1), _opposite(taps, steps))
    elif plain and taps == (3, 3) and dilation == (1, 1) and min(channels, outputs) >= _MANY:
        winograd.convolve(y, x, filters, bias, *padding)
    elif taps[1] > 1 and dilation[1] == 1 and channels * taps[1] <= _LINES:
        places = line_places(y.shape[1:3], taps, stride, dilation)
        direct.convolve(y, _framed(x, y.shape[1:3], taps, steps), filters, bias, places)
    else:
        direct.convolve(y, x, filters, bias, forward_places(y.shape[1:3], taps, stride, padding, dilation))


def _slices(groups: int, outputs: int, inputs: int) -> list[tuple[slice, slice]]:
    """The outputs and the inputs of each group."""
    o, i = outputs // groups, inputs // groups
    return [(slice(g * o, (g + 1) * o), slice(g * i, (g + 1) * i)) for g in range(groups)]


def _bundle(weight: tuple[int, ...], groups: int) -> int:
    """How many groups are taken as one, with zeros for filters between them.

    A tile has COLUMNS columns, and groups of 4 outputs would use 4 of them at a time; the zeros cost nothing more. (But
    zero times infinity is NaN: what is not finite shows in the bundle, not in its group alone.)
    """
    most = COLUMNS // max(weight[0] // groups, weight[1])
    return max(n for n in range(1, groups + 1) if groups % n == 0 and n <= max(1, most))


def _diagonal(filters: Any, groups: int, bundle: int) -> Any:
    """Of the filters (O, C, *kernel) of bundles each group's own: a view (bundles, bundle, O / groups, C', *kernel)."""
    outputs, inputs, *kernel = filters.shape
    parts = filters.reshape(groups // bundle, bundle, outputs // groups, bundle, inputs // bundle, *kernel)
    return np.einsum("abcbd...->abcd...", parts)  # a view


def _in_bundles(filters: Any, groups: int) -> tuple[Any, int]:
    """Filters (O, C / groups, *kernel) as those of fewer groups; and how many those are."""
    bundle = _bundle(filters.shape, groups)
    if bundle == 1:
        return filters, groups
    outputs, inputs, *kernel = filters.shape
    wide = np.zeros((outputs, bundle * inputs, *kernel), dtype=np.float32)
    _diagonal(wide, groups, bundle)[:] = filters.reshape(groups // bundle, bundle, -1, inputs, *kernel)
    return wide, groups // bundle


def _framed(x: Any, output: Any, taps: Two, steps: _Steps) -> Any:
    """A copy of `x` with all the zeros that the kernel sees around it."""
    height, width = (
        (n - 1) * s + (k - 1) * d + 1 for n, k, s, d in zip(output, taps, steps.stride, steps.dilation, strict=True)
    )
    return padded(x, *steps.padding, height, width)


@kernel("convolution", device="cpu")
def convolution(x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
    if not _possible(x, weight):
        return registered_ops()["convolution"].reference(x, weight, bias, stride, padding, dilation, groups)
    _check_groups("convolution", x.shape[1], weight.shape, groups)
    outputs = len(weight)
    if bias is not None:
        expect("convolution", (outputs,), bias=bias)
    steps, filters = _steps(stride, padding, dilation), _image(weight)
    height, width = _output(_image(x).shape[2:], filters.shape[2:], steps)
    if height < 1 or width < 1:
        return registered_ops()["convolution"].reference(x, weight, bias, stride, padding, dilation, groups)
    images = channels_last(_image(x))
    y = np.empty((len(x), height, width, outputs), dtype=np.float32)
    if groups == 1:
        _convolve(y, images, filters.transpose(1, 0, 2, 3), bias, steps)
    elif groups == x.shape[1] == outputs:
        places = forward_places((height, width), filters.shape[2:], *steps)
        depthwise.convolve(y, images, filters, bias, places)
    else:
        filters, groups = _in_bundles(filters, groups)
        for made, seen in _slices(groups, outputs, x.shape[1]):
            part = None if bias is None else bias[made]
            _convolve(y[..., made], images[..., seen], filters[made].transpose(1, 0, 2, 3), part, steps)
    result = channels_first(y)
    return result[:, :, 0] if x.ndim == 3 else result


def _convolve_back(dx: Any, dy: Any, filters: Any, steps: _Steps) -> None:
    """The input gradient `dx` (B, H, W, N) of a convolution, from `dy` (B, H', W', K) and `filters` (K, N, *kernel)."""
    taps = filters.shape[2:]
    if steps.stride == (1, 1):
        _convolve(dx, dy, _back(filters), None, _Steps((1, 1), _opposite(taps, steps), steps.dilation))
    elif dx.flags.c_contiguous and folded.folds(filters.shape[1], taps, steps.dilation):
        folded.convolve(dx, dy, filters, None, steps.stride, steps.padding)
    else:
        direct.convolve(dx, dy, filters, None, backward_places(dx.shape[1:3], taps, *steps))


@kernel("convolution_input_gradient", device="cpu")
def convolution_input_gradient(
    dy: Any, weight: Any, size: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> Any:
    if not _possible(dy, weight) or 0 in size:
        return registered_ops()["convolution_input_gradient"].reference(
            dy, weight, size, stride, padding, dilation, groups
        )
    steps, filters, outputs = _steps(stride, padding, dilation), _image(weight), len(weight)
    channels = weight.shape[1] * groups
    image = _pair(size, 1)
    _check_groups("convolution_input_gradient", channels, weight.shape, groups)
    output = _output(image, filters.shape[2:], steps)
    expect("convolution_input_gradient", (len(dy), outputs, *output), dy=_image(dy))
    gradients = channels_last(_image(dy))
    dx = np.empty((len(dy), *image, channels), dtype=np.float32)
    if groups == 1:
        _convolve_back(dx, gradients, filters, steps)
    elif groups == channels == outputs:
        depthwise.convolve(dx, gradients, filters, None, backward_places(image, filters.shape[2:], *steps))
    else:
        filters, groups = _in_bundles(filters, groups)
        for made, seen in _slices(groups, outputs, channels):
            _convolve_back(dx[..., seen], gradients[..., made], filters[made], steps)
    result = channels_first(dx)
    return result[:, :, 0] if dy.ndim == 3 else result


def _convolve_weight_gradient(dweight: Any, dy: Any, x: Any, steps: _Steps) -> None:
    """The gradient `dweight` (O, C, *kernel) of filters, from `dy` (B, H', W', O) and `x` (B, H, W, C)."""
    outputs, channels, *kernel = dweight.shape
    taps = (kernel[0], kernel[1])
    stride, padding, dilation = steps
    plain = stride == (1, 1)
    if plain and taps == (3, 3) and dilation == (1, 1) and min(channels, outputs) >= _MANY:
        winograd.convolve_weight_gradient(dweight, dy, x, *padding)
    elif plain and outputs <= _FEW and outputs < channels:
        # The other way round: what x is to the filters, dy is to the filters turned.
        turned = np.empty((channels, outputs, *taps), dtype=np.float32)
        _convolve_weight_gradient(turned, x, dy, _Steps((1, 1), _opposite(taps, steps), dilation))
        dweight[:] = _back(turned).transpose(1, 0, 2, 3)
    elif taps[1] > 1 and dilation[1] == 1 and channels * taps[1] <= _LINES:
        places = line_places(dy.shape[1:3], taps, stride, dilation)
        direct.convolve_weight_gradient(dweight, dy, _framed(x, dy.shape[1:3], taps, steps), places)
    else:
        direct.convolve_weight_gradient(dweight, dy, x, forward_places(dy.shape[1:3], taps, *steps))


@kernel("convolution_weight_gradient", device="cpu")
def convolution_weight_gradient(
    dy: Any, x: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> Any:
    if dy.ndim not in (3, 4) or x.ndim != dy.ndim or not dy.size or not x.size:
        return registered_ops()["convolution_weight_gradient"].reference(
            dy, x, kernel, stride, padding, dilation, groups
        )
    steps, taps = _steps(stride, padding, dilation), _pair(kernel, 1)
    outputs, channels = dy.shape[1], x.shape[1]
    _check_groups("convolution_weight_gradient", channels, (outputs, channels // groups, *kernel), groups)
    output = _output(_image(x).shape[2:], taps, steps)
    expect("convolution_weight_gradient", (len(x), outputs, *output), dy=_image(dy))
    gradients, images = channels_last(_image(dy)), channels_last(_image(x))
    dweight = np.empty((outputs, channels // groups, *taps), dtype=np.float32)
    if groups == 1:
        _convolve_weight_gradient(dweight, gradients, images, steps)
    elif groups == channels == outputs:
        places = forward_places(gradients.shape[1:3], taps, *steps)
        depthwise.convolve_weight_gradient(dweight, gradients, images, places)
    else:
        bundle = _bundle(dweight.shape, groups)
        wide = np.empty((outputs, bundle * (channels // groups), *taps), dtype=np.float32)
        for made, seen in _slices(groups // bundle, outputs, channels):
            _convolve_weight_gradient(wide[made], gradients[..., made], images[..., seen], steps)
        dweight = np.ascontiguousarray(_diagonal(wide, groups, bundle))
    return dweight.reshape(outputs, channels // groups, *kernel)


@parallel_for(types.Array(types.float32, 2, "C", readonly=True), types.float64[:, ::1])
def _sum_rows(rows, sums):  # type: ignore[no-untyped-def]
    parts, channels = sums.shape
    for part in prange(parts):
        some = np.empty(channels, dtype=np.float32)
        begin, end = rows.shape[0] * part // parts, rows.shape[0] * (part + 1) // parts
        for first in range(begin, end, 64):  # lest small numbers be lost in a large sum
            some[:] = np.float32(0)
            for n in range(first, min(end, first + 64)):
                row = rows[n]
                for c in range(channels):
                    some[c] += row[c]
            for c in range(channels):
                sums[part, c] += some[c]


@kernel("channel_sum", device="cpu")
def channel_sum(dy: Any) -> Any:
    """One pass, in the order of memory where that is channels last."""
    if dy.ndim < 3 or not dy.size:
        return registered_ops()["channel_sum"].reference(dy)
    last = dy.transpose(0, *range(2, dy.ndim), 1)
    if not last.flags.c_contiguous:
        return registered_ops()["channel_sum"].reference(dy)
    sums = np.zeros((threads(), dy.shape[1]), dtype=np.float64)
    _sum_rows(last.reshape(-1, dy.shape[1]), sums)
    return sums.sum(axis=0).astype(np.float32)
