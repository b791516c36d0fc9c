"""The two passes of a norm over an image, as it lies in memory: sums of the channels, and what is made of them.

Images that lie channels-last have few channels in a row. So several pixels are taken together as a **strip**, long
enough for vector code, and the numbers of the channels are repeated along it. Of plain images each plane is a row.
"""

from __future__ import annotations

import numpy as np
from numba import prange, types

from .common import parallel_for

_LIGHT = 32  # a few operations a number, see `parallel`
_IMAGES = types.Array(types.float32, 2, "C", readonly=True)  # (images, places * C) or (images * C, places)
_OUT = types.float32[:, ::1]
_SUMS = types.float64[:, :, ::1]  # (tasks, 2, strip); (images, 2, C) of planes


@parallel_for(_IMAGES, types.intp, _SUMS, times=_LIGHT)
def sums_by_pixels(x, parts, sums):  # type: ignore[no-untyped-def]
    """Sums of x and of x^2. In float64: the variance is their difference, which float32 would lose to cancellation."""
    images, length = x.shape
    strip = sums.shape[2]
    strips = (length + strip - 1) // strip
    for task in prange(images * parts):
        image, part = task // parts, task % parts
        row = x[image, strips * part // parts * strip : strips * (part + 1) // parts * strip]
        total, square = sums[task, 0], sums[task, 1]
        fours = row.size // (4 * strip)
        for four in range(fours):  # the sums are read and written once for four strips
            start = 4 * four * strip
            a, b = row[start : start + strip], row[start + strip : start + 2 * strip]
            c, d = row[start + 2 * strip : start + 3 * strip], row[start + 3 * strip : start + 4 * strip]
            for i in range(strip):
                p, q, r, s = np.float64(a[i]), np.float64(b[i]), np.float64(c[i]), np.float64(d[i])
                total[i] += (p + q) + (r + s)
                square[i] += (p * p + q * q) + (r * r + s * s)
        for start in range(4 * fours * strip, row.size, strip):
            a = row[start : start + strip]
            for i in range(a.size):
                p = np.float64(a[i])
                total[i] += p
                square[i] += p * p


@parallel_for(_IMAGES, _IMAGES, _IMAGES, types.intp, _SUMS, times=_LIGHT)
def gradient_sums_by_pixels(dy, x, center, parts, sums):  # type: ignore[no-untyped-def]
    """Sums of dy and of dy (x - center)."""
    images, length = x.shape
    strip = sums.shape[2]
    strips = (length + strip - 1) // strip
    for task in prange(images * parts):
        image, part = task // parts, task % parts
        low, high = strips * part // parts * strip, strips * (part + 1) // parts * strip
        row, drow, mu = x[image, low:high], dy[image, low:high], center[image]
        total, product = sums[task, 0], sums[task, 1]
        fours = row.size // (4 * strip)
        for four in range(fours):
            start = 4 * four * strip
            a, da = row[start : start + strip], drow[start : start + strip]
            b, db = row[start + strip : start + 2 * strip], drow[start + strip : start + 2 * strip]
            start += 2 * strip
            c, dc = row[start : start + strip], drow[start : start + strip]
            d, dd = row[start + strip : start + 2 * strip], drow[start + strip : start + 2 * strip]
            for i in range(strip):  # four at a time in float32, which costs no digit to speak of
                total[i] += np.float64((da[i] + db[i]) + (dc[i] + dd[i]))
                left = da[i] * (a[i] - mu[i]) + db[i] * (b[i] - mu[i])
                product[i] += np.float64(left + (dc[i] * (c[i] - mu[i]) + dd[i] * (d[i] - mu[i])))
        for start in range(4 * fours * strip, row.size, strip):
            a, da = row[start : start + strip], drow[start : start + strip]
            for i in range(a.size):
                total[i] += np.float64(da[i])
                product[i] += np.float64(da[i] * (a[i] - mu[i]))


@parallel_for(_IMAGES, _IMAGES, _IMAGES, _IMAGES, types.intp, _OUT, times=_LIGHT)
def apply_by_pixels(x, center, scale, shift, parts, y):  # type: ignore[no-untyped-def]
    images, length = x.shape
    strip = center.shape[1]
    strips = (length + strip - 1) // strip
    for task in prange(images * parts):
        image, part = task // parts, task % parts
        whole = slice(strips * part // parts * strip, strips * (part + 1) // parts * strip)
        row, out = x[image, whole], y[image, whole]
        mu, a, b = center[image], scale[image], shift[image]
        for start in range(0, row.size, strip):
            xs, ys = row[start : start + strip], out[start : start + strip]
            for i in range(xs.size):
                ys[i] = (xs[i] - mu[i]) * a[i] + b[i]


@parallel_for(_IMAGES, _IMAGES, _IMAGES, _IMAGES, _IMAGES, _IMAGES, types.intp, _OUT, times=_LIGHT)
def apply_backward_by_pixels(dy, x, center, scale, slope, shift, parts, dx):  # type: ignore[no-untyped-def]
    images, length = x.shape
    strip = center.shape[1]
    strips = (length + strip - 1) // strip
    for task in prange(images * parts):
        image, part = task // parts, task % parts
        whole = slice(strips * part // parts * strip, strips * (part + 1) // parts * strip)
        row, drow, out = x[image, whole], dy[image, whole], dx[image, whole]
        mu, a, k, b = center[image], scale[image], slope[image], shift[image]
        for start in range(0, row.size, strip):
            xs, dys, dxs = row[start : start + strip], drow[start : start + strip], out[start : start + strip]
            for i in range(xs.size):
                dxs[i] = dys[i] * a[i] - (xs[i] - mu[i]) * k[i] - b[i]


@parallel_for(_IMAGES, _SUMS, times=_LIGHT)
def sums_by_planes(x, sums):  # type: ignore[no-untyped-def]
    channels = sums.shape[2]
    for plane in prange(x.shape[0]):
        row = x[plane]
        total, square = 0.0, 0.0
        for i in range(row.size):
            p = np.float64(row[i])
            total += p
            square += p * p
        sums[plane // channels, 0, plane % channels] = total
        sums[plane // channels, 1, plane % channels] = square


@parallel_for(_IMAGES, _IMAGES, _IMAGES, _SUMS, times=_LIGHT)
def gradient_sums_by_planes(dy, x, center, sums):  # type: ignore[no-untyped-def]
    channels = sums.shape[2]
    images = center.shape[0]
    for plane in prange(x.shape[0]):
        row, drow = x[plane], dy[plane]
        mu = center[plane // channels % images, plane % channels]
        total, product = 0.0, 0.0
        for i in range(row.size):
            total += np.float64(drow[i])
            product += np.float64(drow[i] * (row[i] - mu))
        sums[plane // channels, 0, plane % channels] = total
        sums[plane // channels, 1, plane % channels] = product


@parallel_for(_IMAGES, _IMAGES, _IMAGES, _IMAGES, _OUT, times=_LIGHT)
def apply_by_planes(x, center, scale, shift, y):  # type: ignore[no-untyped-def]
    images, channels = center.shape
    for plane in prange(x.shape[0]):
        image, channel = plane // channels % images, plane % channels
        mu, a, b = center[image, channel], scale[image, channel], shift[image, channel]
        xs, ys = x[plane], y[plane]
        for i in range(xs.size):
            ys[i] = (xs[i] - mu) * a + b


@parallel_for(_IMAGES, _IMAGES, _IMAGES, _IMAGES, _IMAGES, _IMAGES, _OUT, times=_LIGHT)
def apply_backward_by_planes(dy, x, center, scale, slope, shift, dx):  # type: ignore[no-untyped-def]
    images, channels = center.shape
    for plane in prange(x.shape[0]):
        image, channel = plane // channels % images, plane % channels
        mu, a = center[image, channel], scale[image, channel]
        k, b = slope[image, channel], shift[image, channel]
        xs, dys, dxs = x[plane], dy[plane], dx[plane]
        for i in range(xs.size):
            dxs[i] = dys[i] * a - (xs[i] - mu) * k - b
