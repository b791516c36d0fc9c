"""Pooling over windows, in any number of axes: the largest value of each, or the mean.

Shapes are those of torch.nn: images x (B, C, *size), results y (B, C, *output). `kernel`, `stride`, `padding` and
`dilation` are tuples with a number for each axis of `size`. Like convolution, pooling is done tap by tap: a tap sees
of every window the same pixel, through a view of the image.
"""

from __future__ import annotations

import math
from typing import Any

from ..backend import Array, namespace, op
from .convolution_ops import taps
from .images import Size
from .padding_ops import along_axes


def pooled_size(size: Size, kernel: Size, stride: Size, padding: Size, dilation: Size, ceil_mode: bool) -> Size:
    """How many windows lie along each axis.

    With `ceil_mode`, a last window that reaches beyond the padded image counts too, if it begins within the image or
    the padding before it.
    """
    counts = []
    for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True):
        room = n + 2 * p - d * (k - 1) - 1  # how far the first window can be moved
        count = room // s + 1
        if ceil_mode and room % s and count * s < n + p:
            count += 1
        counts.append(count)
    return tuple(counts)


def _margins(
    size: Size, kernel: Size, stride: Size, padding: Size, dilation: Size, output: Size
) -> list[tuple[int, int]]:
    """Pixels to lay before and after the image so that every window is whole."""
    ends = ((n - 1) * s + d * (k - 1) + 1 for n, s, d, k in zip(output, stride, dilation, kernel, strict=True))
    return [(p, max(0, end - n - p)) for n, p, end in zip(size, padding, ends, strict=True)]


def _padded(x: Array, margins: list[tuple[int, int]], value: float) -> Array:
    return namespace(x).pad(x, ((0, 0), (0, 0), *margins), constant_values=value) if any(map(any, margins)) else x


def _spread(xp: Any, like: Array, size: Size, margins: list[tuple[int, int]]) -> tuple[Array, Array]:
    """Zeros for the padded image, and the view of the image in it."""
    padded = xp.zeros(
        (*like.shape[:2], *(n + a + b for n, (a, b) in zip(size, margins, strict=True))), dtype=like.dtype
    )
    return padded, padded[(..., *(slice(a, a + n) for n, (a, _) in zip(size, margins, strict=True)))]


@op
def max_pool(
    x: Array, kernel: Size, stride: Size, padding: Size, dilation: Size, ceil_mode: bool
) -> tuple[Array, Array]:
    r"""Largest value of each window.

    With t running over the taps of the window, s the stride, :math:`\delta` the dilation, and :math:`-\infty` around
    the image:

    .. math:: y_{bcp} = \max_t\; \tilde x_{bc,\; sp + \delta t}, \qquad
              \tau_{bcp} = \text{the first } t \text{ at which it is reached}

    Parameters
    ----------
    x : (B, C, *size)
    kernel, stride, padding, dilation : an integer for each axis of `size`; padding at most half the kernel
    ceil_mode : whether a last window that reaches beyond the image counts, see :func:`pooled_size`

    Returns
    -------
    y : (B, C, *output)
    winner : (B, C, *output), the number of the winning tap in row order, all that backward needs; uint8 if the kernel
        has at most 256 taps, int32 otherwise. A NaN wins over all numbers, so that it is not lost.
    """
    xp = namespace(x)
    size = tuple(x.shape[2:])
    output = pooled_size(size, kernel, stride, padding, dilation, ceil_mode)
    padded = _padded(x, _margins(size, kernel, stride, padding, dilation, output), -math.inf)
    winner = xp.zeros((*x.shape[:2], *output), dtype=xp.uint8 if math.prod(kernel) <= 256 else xp.int32)
    y = xp.full(winner.shape, -math.inf, dtype=x.dtype)
    for number, (_, seen) in enumerate(taps(kernel, stride, dilation, output)):
        better = (padded[seen] > y) | (padded[seen] != padded[seen])  # the second is true of NaN alone
        y = xp.where(better, padded[seen], y)
        winner[better] = number
    return y, winner


@op
def max_pool_backward(
    dy: Array, winner: Array, size: Size, kernel: Size, stride: Size, padding: Size, dilation: Size
) -> Array:
    r"""Gradient of :func:`max_pool`.

    y is a copy of the winning pixel, and does not feel the others. A pixel may win in several windows:

    .. math:: d\tilde x_{bcq} = \sum_{p, t \,:\, sp + \delta t = q} dy_{bcp}\,[\tau_{bcp} = t]

    Parameters
    ----------
    dy : (B, C, *output)
    winner : as :func:`max_pool` gave it
    size : of the image; several sizes may give the same output, so it must be told

    Returns
    -------
    dx : (B, C, *size)
    """
    xp = namespace(dy, winner)
    output = tuple(dy.shape[2:])
    dpadded, dx = _spread(xp, dy, size, _margins(size, kernel, stride, padding, dilation, output))
    for number, (_, seen) in enumerate(taps(kernel, stride, dilation, output)):
        dpadded[seen] += dy * (winner == number)
    return dx


def _divisors(
    like: Array, size: Size, kernel: Size, stride: Size, padding: Size, count_padding: bool, divisor: int | None
) -> Any:
    """By what the sum of each window is divided: (*output), or one number for all; `like` is (B, C, *output)."""
    if divisor is not None:
        return divisor
    xp = namespace(like)
    pixels = xp.ones((), dtype=like.dtype)
    for n, k, s, p, m in zip(size, kernel, stride, padding, like.shape[2:], strict=True):
        begin = xp.arange(m) * s - p
        end = xp.minimum(begin + k, n + p)  # what reaches beyond the padding, in ceil mode, is never counted
        if not count_padding:
            begin, end = xp.maximum(begin, 0), xp.minimum(end, n)
        pixels = pixels[..., None] * (end - begin).astype(like.dtype)
    return pixels


@op
def average_pool(
    x: Array, kernel: Size, stride: Size, padding: Size, ceil_mode: bool, count_padding: bool, divisor: int | None
) -> Array:
    r"""Mean of each window, with zeros around the image.

    .. math:: y_{bcp} = \frac{1}{n_p} \sum_t \tilde x_{bc,\; sp + t}

    Parameters
    ----------
    x : (B, C, *size)
    kernel, stride, padding : an integer for each axis of `size`; padding at most half the kernel
    ceil_mode : whether a last window that reaches beyond the image counts, see :func:`pooled_size`
    count_padding : whether :math:`n_p` counts the padded zeros among the pixels of a window
    divisor : :math:`n_p` for all windows alike, or None

    Returns
    -------
    y : (B, C, *output)
    """
    xp = namespace(x)
    size, dense = tuple(x.shape[2:]), (1,) * len(kernel)
    output = pooled_size(size, kernel, stride, padding, dense, ceil_mode)
    padded = _padded(x, _margins(size, kernel, stride, padding, dense, output), 0.0)
    y = xp.zeros((*x.shape[:2], *output), dtype=x.dtype)
    for _, seen in taps(kernel, stride, dense, output):
        y += padded[seen]
    return y / _divisors(y, size, kernel, stride, padding, count_padding, divisor)


@op
def average_pool_backward(
    dy: Array, size: Size, kernel: Size, stride: Size, padding: Size, count_padding: bool, divisor: int | None
) -> Array:
    r"""Gradient of :func:`average_pool`: every pixel of a window gets an equal share of the window's gradient.

    .. math:: d\tilde x_{bcq} = \sum_{p, t \,:\, sp + t = q} dy_{bcp} / n_p

    Parameters
    ----------
    dy : (B, C, *output)
    size : of the image

    Returns
    -------
    dx : (B, C, *size)
    """
    xp = namespace(dy)
    output, dense = tuple(dy.shape[2:]), (1,) * len(kernel)
    dpadded, dx = _spread(xp, dy, size, _margins(size, kernel, stride, padding, dense, output))
    share = dy / _divisors(dy, size, kernel, stride, padding, count_padding, divisor)
    for _, seen in taps(kernel, stride, dense, output):
        dpadded[seen] += share
    return dx


def _means(xp: Any, length: int, windows: int, dtype: Any) -> Array:
    """(windows, length): row i takes the mean of the pixels from ⌊i n/m⌋ to ⌈(i + 1) n/m⌉, the end excluded."""
    window, pixel = xp.arange(windows)[:, None], xp.arange(length)
    inside = (window * length // windows <= pixel) & (pixel < -(-(window + 1) * length // windows))
    return (inside / inside.sum(axis=1, keepdims=True)).astype(dtype)


@op
def adaptive_average_pool(x: Array, output: Size) -> Array:
    r"""Means of windows that divide the image into `output` parts (as nearly as the pixels allow).

    Window i of m begins at pixel :math:`\lfloor i n / m \rfloor` and ends before :math:`\lceil (i + 1) n / m \rceil`.
    A mean over a rectangle is a mean over rows of means over columns, so there is a matrix of means for each axis:
    :math:`Y = M_h\,X M_w^\top`.

    Parameters
    ----------
    x : (B, C, *size)
    output : sizes of the result

    Returns
    -------
    y : (B, C, *output)
    """
    xp = namespace(x)
    return along_axes(x, [_means(xp, n, m, x.dtype) for n, m in zip(x.shape[2:], output, strict=True)])


@op
def adaptive_average_pool_backward(dy: Array, size: Size) -> Array:
    r"""Gradient of :func:`adaptive_average_pool`: the transposed matrices, :math:`dX = M_h^\top dY\,M_w`.

    Parameters
    ----------
    dy : (B, C, *output)
    size : of the image

    Returns
    -------
    dx : (B, C, *size)
    """
    xp = namespace(dy)
    return along_axes(dy, [_means(xp, n, m, dy.dtype).T for n, m in zip(size, dy.shape[2:], strict=True)])
