"""Convolution into few channels: all taps at once, then folded together.

A tile has COLUMNS columns. Of 3 outputs, the product of one tap would use 3 of them; the products of all nine taps
side by side use 27. They belong to different pixels, and are added up where they overlap (as in ``col2im``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange, types

from .common import add_to, parallel_for
from .convolution_layout import IMAGES, PACKED
from .tiles import down, pack, panels
from .vector_code import COLUMNS, PANEL

_BAND = 16  # lines of the result that are one task


@parallel_for(
    IMAGES, types.float32[:, :, :, ::1], PACKED, types.float32[::1],
    types.UniTuple(types.intp, 2), types.UniTuple(types.intp, 2), types.UniTuple(types.intp, 2),
)  # fmt: skip
def _folded(x, y, packed, bias, kernel, stride, padding):  # type: ignore[no-untyped-def]
    batch, height, width, channels = y.shape
    bands, lengths = (height + _BAND - 1) // _BAND, x.shape[3]
    line = kernel[1] * channels
    for task in prange(batch * bands):
        b, begin = task // bands, task % bands * _BAND
        end = min(height, begin + _BAND)
        for h in range(begin, end):
            for w in range(width):
                y[b, h, w] = bias
        products = np.empty((x.shape[2], packed.shape[0] * COLUMNS), dtype=np.float32)
        # Row i of x reaches rows i stride - padding + tap, some of which must lie in this band.
        first = max(0, -((kernel[0] - 1 - padding[0] - begin) // stride[0]))
        for i in range(first, min(x.shape[1], (end - 1 + padding[0]) // stride[0] + 1)):
            for panel in range(packed.shape[0]):
                down(
                    x.shape[2], x.ctypes.data + b * x.strides[0] + i * x.strides[1], x.strides[2], 4,
                    packed[panel].ctypes.data, PANEL, products.ctypes.data + panel * PANEL, products.strides[0],
                    lengths, 0,
                )  # fmt: skip
            for tap in range(kernel[0]):
                h = i * stride[0] - padding[0] + tap
                if not begin <= h < end:
                    continue
                row = y[b, h].reshape(-1)
                for j in range(x.shape[2]):
                    w = j * stride[1] - padding[1]
                    seen, unseen = max(0, -w), min(kernel[1], width - w)
                    if seen < unseen:
                        add_to(
                            row[(w + seen) * channels : (w + unseen) * channels],
                            products[j, tap * line + seen * channels : tap * line + unseen * channels],
                        )


def folds(outputs: int, kernel: tuple[int, int], dilation: tuple[int, int]) -> bool:
    """Whether the products of all taps side by side are less than half of those of the taps one by one."""
    taps = kernel[0] * kernel[1]
    return dilation == (1, 1) and 2 * panels(taps * outputs) <= taps * panels(outputs)


def convolve(y: Any, x: Any, filters: Any, bias: Any, stride: tuple[int, int], padding: tuple[int, int]) -> None:
    """What the pixels of `x` add to those that they are seen by: the input gradient of a convolution.

    Pixel i of `x` is multiplied with tap t for pixel ``i stride - padding + t`` of `y`. With the kernel turned,
    stride 1 and the padding ``kernel - 1 - padding`` it is the convolution itself.

    Parameters
    ----------
    y : (B, H', W', N), contiguous
    x : (B, H, W, K), the numbers of a pixel contiguous
    filters : (K, N, *kernel), in any layout
    bias : (N,) or None
    """
    channels, outputs, *kernel = filters.shape
    packed = pack(filters.transpose(0, 2, 3, 1).reshape(channels, -1))
    start = np.zeros(outputs, dtype=np.float32) if bias is None else np.ascontiguousarray(bias)
    _folded(x, y, packed, start, tuple(kernel), stride, padding)
