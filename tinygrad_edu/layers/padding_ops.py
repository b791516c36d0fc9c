"""A margin around an image; and the product of each axis of an image with a matrix, of which its gradient is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..backend import Array, namespace, op

Margins = tuple[tuple[int, int], ...]  # pixels before and after, for each axis of the image

PADDING_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}  # xp.pad's names


def along_axes(x: Array, matrices: Sequence[Array]) -> Array:
    r"""Multiply each axis of the images with its matrix, :math:`Y = A_h\,X A_w^\top` in two dimensions.

    Parameters
    ----------
    x : (B, C, *size)
    matrices : (m, n) for an axis of length n, which then has length m

    Returns
    -------
    y : (B, C, *output)
    """
    xp = namespace(x)
    for axis, matrix in enumerate(matrices, start=2):
        x = xp.moveaxis(xp.moveaxis(x, axis, -1) @ matrix.T.astype(x.dtype), -1, axis)
    return x


def _sources(xp: Any, length: int, margin: tuple[int, int], mode: str) -> Array:
    """For each pixel along a padded axis the number of the pixel it shows, -1 for a zero."""
    return xp.pad(xp.arange(1, length + 1), margin, mode=PADDING_MODES[mode]) - 1


@op
def pad_image(x: Array, margins: Margins, mode: str) -> Array:
    r"""An image with a margin: of zeros, mirrored, of copies of the outermost pixel, or of the opposite side.

    Along each axis, pixel i of the padded image shows pixel :math:`\sigma(i)` of x, or zero:
    :math:`y_i = x_{\sigma(i)}`.

    Parameters
    ----------
    x : (B, C, *size)
    margins : pixels before and after, for each axis of `size`
    mode : ``"zeros"``, ``"reflect"``, ``"replicate"`` or ``"circular"``

    Returns
    -------
    y : (B, C, *padded)
    """
    return namespace(x).pad(x, ((0, 0), (0, 0), *margins), mode=PADDING_MODES[mode])


@op
def pad_image_backward(dy: Array, margins: Margins, mode: str) -> Array:
    r"""Gradient of :func:`pad_image`: each pixel gets the sum over all places that show it.

    .. math:: dx_j = \sum_{i \,:\, \sigma(i) = j} dy_i

    Returns
    -------
    dx : (B, C, *size)
    """
    xp = namespace(dy)
    size = tuple(n - sum(margin) for n, margin in zip(dy.shape[2:], margins, strict=True))
    if mode == "zeros":  # no pixel is shown twice
        return dy[(..., *(slice(before, before + n) for n, (before, _) in zip(size, margins, strict=True)))]
    shows = [
        _sources(xp, n, margin, mode) == xp.arange(n)[:, None]  # (n, padded)
        for n, margin in zip(size, margins, strict=True)
    ]
    return along_axes(dy, shows)
