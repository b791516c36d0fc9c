"""How an array lies in memory, so that a kernel goes through it as it lies, and gives back one that lies the same.

Images (B, C, H, W) lie either plain, plane after plane, or channels-last, pixel after pixel: then they are a
contiguous (B, H, W, C) seen through a transposition. A kernel that insisted on one of them would copy the other, which
takes longer than most of these kernels do.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Axes = tuple[int, ...] | None  # the axes of an array from the slowest to the fastest; None if as they are numbered


def axes_of(x: Any) -> Axes:
    """In what order the axes of `x` lie in memory."""
    if x.flags.c_contiguous:
        return None
    strides = x.strides
    return tuple(sorted(range(x.ndim), key=lambda axis: -abs(strides[axis])))


def vector(x: Any, axes: Axes) -> Any:
    """`x` as a contiguous vector, gone through in the order of `axes`; a view if it lies so."""
    return np.ascontiguousarray(x if axes is None else x.transpose(axes)).reshape(-1)


def new(x: Any, axes: Axes) -> Any:
    """An array of the shape and type of `x`, not filled, that lies in the order of `axes`."""
    if axes is None:
        return np.empty(x.shape, dtype=x.dtype)
    back = [0] * x.ndim
    for place, axis in enumerate(axes):
        back[axis] = place
    return np.empty([x.shape[axis] for axis in axes], dtype=x.dtype).transpose(back)


def by_pixels(x: Any) -> bool:
    """Whether an image (B, C, *size) lies channels-last. Where both are true, as of vectors (B, C), it says so too."""
    if x.ndim == 2:
        return True
    _, channels, *size = x.strides
    # An axis of one place has no step. Of one channel, planes are the longer rows.
    return x.shape[1] > 1 and all(
        n == 1 or abs(channels) < abs(step) for n, step in zip(x.shape[2:], size, strict=True)
    )


def pixels(x: Any) -> Any:
    """An image (B, C, *size) as contiguous (B, places * C), pixel after pixel; a view if it lies so."""
    last = np.ascontiguousarray(x.transpose(0, *range(2, x.ndim), 1))
    return last.reshape(len(x), x.size // max(1, len(x)))


def planes(x: Any) -> Any:
    """An image (B, C, *size) as contiguous (B * C, places), plane after plane; a view if it lies so."""
    rows = len(x) * x.shape[1]
    return np.ascontiguousarray(x).reshape(rows, x.size // max(1, rows))
