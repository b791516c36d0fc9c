"""Convolution over any number of axes: the product, and its two gradients.

Shapes are those of torch.nn: images x (B, C, *size), filters weight (O, C / groups, *kernel), results
y (B, O, *output). `stride`, `padding` and `dilation` are tuples with a number for each axis of `size`; `padding`
zeros are thought on either side.

All three ops are sums over **taps**, the positions of the kernel. A tap sees the image through a view, shifted by
the tap's place and thinned by the stride, and on that view a convolution is nothing but a matrix product over
channels. So the unfolded image, `kernel` times as large as the image, is never built.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from ..backend import Array, namespace, op
from .images import Size


def convolved_size(size: Size, kernel: Size, stride: Size, padding: Size, dilation: Size) -> Size:
    """Size of the result: how often the dilated kernel, moved by the stride, fits into the padded image."""
    return tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    )


def taps(kernel: Size, stride: Size, dilation: Size, output: Size) -> Iterator[tuple[Size, tuple[slice, ...]]]:
    """Each position in the kernel, and which pixels of the padded image it is multiplied with, one an output."""
    for tap in itertools.product(*(range(k) for k in kernel)):
        seen = (
            slice(t * d, t * d + s * (n - 1) + 1, s) for t, d, s, n in zip(tap, dilation, stride, output, strict=True)
        )
        yield tap, (slice(None), slice(None), *seen)


def _padded(x: Array, padding: Size) -> Array:
    return namespace(x).pad(x, ((0, 0), (0, 0), *((p, p) for p in padding))) if any(padding) else x


def _grouped(x: Array, groups: int) -> Array:
    """(B, C, *size) -> (B, groups, C / groups, pixels): group g of the outputs sees group g of the inputs alone."""
    return x.reshape(x.shape[0], groups, x.shape[1] // groups, math.prod(x.shape[2:]))


@op
def convolution(
    x: Array, weight: Array, bias: Array | None, stride: Size, padding: Size, dilation: Size, groups: int
) -> Array:
    r"""Convolution, as the field calls this cross-correlation (LeCun et al., 1989).

    With :math:`\tilde x` the padded image, s the stride, :math:`\delta` the dilation (how far apart the taps lie) and
    t running over the taps of the kernel:

    .. math:: y_{b o p} = \beta_o + \sum_t \sum_c W_{o c t}\; \tilde x_{b c, \; s p + \delta t}

    Parameters
    ----------
    x : (B, C, *size)
    weight : (O, C / groups, *kernel)
    bias : (O,) or None
    stride, padding, dilation : an integer for each axis of `size`
    groups : divides C and O; each group of outputs sees its own group of inputs

    Returns
    -------
    y : (B, O, *output), output sizes as :func:`convolved_size` gives them
    """
    xp = namespace(x, weight)
    kernel = weight.shape[2:]
    output = convolved_size(x.shape[2:], kernel, stride, padding, dilation)
    padded = _padded(x, padding)
    y = xp.zeros((len(x), len(weight), *output), dtype=x.dtype)
    by_group = _grouped(y, groups)  # a view: (B, groups, O / groups, pixels)
    for tap, seen in taps(kernel, stride, dilation, output):
        mix = weight[(..., *tap)].reshape(groups, -1, weight.shape[1])  # (groups, O / groups, C / groups)
        by_group += mix @ _grouped(padded[seen], groups)
    if bias is not None:
        y += bias.reshape(-1, *(1 for _ in kernel))
    return y


@op
def convolution_input_gradient(
    dy: Array, weight: Array, size: Size, stride: Size, padding: Size, dilation: Size, groups: int
) -> Array:
    r"""Gradient of :func:`convolution` with respect to its image; as a function of dy, the transposed convolution.

    Pixel q of the padded image went into y at every p with :math:`s p + \delta t = q`, times :math:`W_{oct}`; so what
    forward reads through a tap's view, backward adds to through the same view:

    .. math:: d\tilde x_{b c q} = \sum_{t, p \,:\, s p + \delta t = q} \sum_o W_{o c t}\; dy_{b o p}

    and the margin that was padded is cut off. Stride 1 makes of it a convolution of dy with the kernel turned by
    180 degrees. Run forward, it enlarges images (Zeiler et al., 2010).

    Parameters
    ----------
    dy : (B, O, *output)
    weight : (O, C / groups, *kernel)
    size : of the image; several sizes may give the same output, so it must be told

    Returns
    -------
    dx : (B, C, *size)
    """
    xp = namespace(dy, weight)
    channels = weight.shape[1] * groups
    padded = xp.zeros((len(dy), channels, *(n + 2 * p for n, p in zip(size, padding, strict=True))), dtype=dy.dtype)
    by_group = _grouped(dy, groups)
    for tap, seen in taps(weight.shape[2:], stride, dilation, dy.shape[2:]):
        mix = weight[(..., *tap)].reshape(groups, -1, weight.shape[1])  # (groups, O / groups, C / groups)
        padded[seen] += (mix.swapaxes(-1, -2) @ by_group).reshape(len(dy), channels, *dy.shape[2:])
    return padded[(..., *(slice(p, p + n) for n, p in zip(size, padding, strict=True)))]


@op
def convolution_weight_gradient(
    dy: Array, x: Array, kernel: Size, stride: Size, padding: Size, dilation: Size, groups: int
) -> Array:
    r"""Gradient of :func:`convolution` with respect to its filters.

    :math:`W_{oct}` multiplies, in every image and at every place, the pixel that tap t sees there:

    .. math:: dW_{o c t} = \sum_b \sum_p dy_{b o p}\; \tilde x_{b c, \; s p + \delta t}

    Parameters
    ----------
    dy : (B, O, *output)
    x : (B, C, *size)
    kernel : sizes of the kernel

    Returns
    -------
    dweight : (O, C / groups, *kernel)
    """
    xp = namespace(dy, x)
    padded = _padded(x, padding)
    by_group = _grouped(dy, groups)
    dweight = xp.empty((dy.shape[1], x.shape[1] // groups, *kernel), dtype=dy.dtype)
    for tap, seen in taps(kernel, stride, dilation, dy.shape[2:]):
        product = by_group @ _grouped(padded[seen], groups).swapaxes(-1, -2)  # (B, groups, O / groups, C / groups)
        dweight[(..., *tap)] = product.sum(axis=0).reshape(dweight.shape[:2])
    return dweight


@op
def channel_sum(dy: Array) -> Array:
    r"""Sum over images and places, for each channel: the gradient of a bias, which is added everywhere.

    .. math:: d\beta_o = \sum_b \sum_p dy_{b o p}

    Parameters
    ----------
    dy : (B, C, *size)

    Returns
    -------
    dbias : (C,)
    """
    return dy.sum(axis=(0, *range(2, dy.ndim)))
