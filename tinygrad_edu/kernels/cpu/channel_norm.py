"""Batch and group normalisation: two passes over the image in each direction, as it lies in memory.

The first pass sums, for each channel of each image, what the statistics are made of; the second is
``(x - center) * scale + shift`` with three numbers a channel. What is between them concerns a few numbers only. Batch
normalisation is group normalisation of one channel each in one image, the whole batch, so both are the same loops.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import get_num_threads

from ...backend import kernel
from . import channel_norm_loops as loops
from . import layout
from .common import compiled, expect

_STRIP = 1024  # numbers in a strip, at most: three of the channels' and what they are applied to fit into L1
_STRIPS = 32  # at least so many strips an image, or repeating the numbers would take longer than applying them
_SUMMED = 64  # numbers in a strip of the sums, which take four strips at once: side by side they are read in order


# -- between the two passes: a few numbers ---------------------------------------------------------------


@compiled
def _each_channel(sums, images, channels):  # type: ignore[no-untyped-def]
    """Sums of the tasks and along the strips, (tasks, 2, strip), for each channel of each image: (images, 2, C)."""
    found = np.zeros((images, 2, channels))
    parts = sums.shape[0] // images
    for task in range(sums.shape[0]):
        for kind in range(2):
            for start in range(0, sums.shape[2], channels):
                for c in range(channels):
                    found[task // parts, kind, c] += sums[task, kind, start + c]
    return found


@compiled
def _repeat(numbers, channels):  # type: ignore[no-untyped-def]
    """The numbers of the channels, which stand at the beginning of each strip, along the rest of it."""
    for kind in range(numbers.shape[0]):
        for image in range(numbers.shape[1]):
            strip = numbers[kind, image]
            for start in range(channels, strip.size, channels):
                strip[start : start + channels] = strip[:channels]


@compiled
def _statistics(sums, images, groups, count, weight, bias, eps, mean, var, numbers):  # type: ignore[no-untyped-def]
    """From the sums to mean and variance (images, G), and to center, scale and shift, `numbers` (3, images, strip)."""
    channels = weight.size
    each, width = _each_channel(sums, images, channels), channels // groups
    for image in range(images):
        for group in range(groups):
            total, square = 0.0, 0.0
            for c in range(group * width, (group + 1) * width):
                total += each[image, 0, c]
                square += each[image, 1, c]
            mu = total / count
            sigma2 = square / count - mu * mu
            sigma2 = 0.0 if sigma2 < 0 else sigma2  # a NaN stays one
            mean[image, group], var[image, group] = mu, sigma2
            r = 1 / np.sqrt(sigma2 + eps)
            rest = np.float64(mean[image, group]) - mu  # what the center lost when it was rounded
            for c in range(group * width, (group + 1) * width):
                numbers[0, image, c], numbers[1, image, c] = mean[image, group], r * weight[c]
                numbers[2, image, c] = bias[c] + rest * r * weight[c]
    _repeat(numbers, channels)


@compiled
def _slopes(sums, images, groups, count, weight, mean, var, eps, numbers, dweight, dbias):  # type: ignore[no-untyped-def]
    """From the sums to the gradients of weight and bias, and to center, scale, slope and shift: `numbers`, (4, ...).

    With s the sums of dy and p those of dy (x - mu), the means that the gradient loses are those of w s and of
    r w p, and dx = r w dy - r^3 mean(w p) (x - mu) - r mean(w s).
    """
    channels = weight.size
    each, width = _each_channel(sums, images, channels), channels // groups
    for image in range(images):
        for group in range(groups):
            r = 1 / np.sqrt(np.float64(var[image, group]) + eps)
            shift, slope = 0.0, 0.0
            for c in range(group * width, (group + 1) * width):
                shift += weight[c] * each[image, 0, c]
                slope += weight[c] * each[image, 1, c]
                dbias[c] += each[image, 0, c]
                dweight[c] += each[image, 1, c] * r
            shift, slope = r * shift / count, r * r * r * slope / count
            for c in range(group * width, (group + 1) * width):
                numbers[0, image, c], numbers[1, image, c] = mean[image, group], r * weight[c]
                numbers[2, image, c], numbers[3, image, c] = slope, shift
    _repeat(numbers, channels)


# -- the ops ---------------------------------------------------------------------------------------------


class _Image:
    """The images of a call, as the loops take them.

    Parameters
    ----------
    x : (B, C, *size)
    whole : whether all of the batch counts as one image
    """

    def __init__(self, x: Any, whole: bool):
        self.shape, self.channels = x.shape, x.shape[1]
        self.images = 1 if whole else len(x)
        self.by_pixels = layout.by_pixels(x)
        self.x = self.flat(x)
        self.strip = self.summed = self.channels
        if self.by_pixels:
            self.strip *= max(1, min(_STRIP, x.size // max(1, self.images) // _STRIPS) // self.channels)
            self.summed *= max(1, _SUMMED // self.channels)
        threads = get_num_threads()
        self.parts = 1 if self.images % threads == 0 else threads

    def flat(self, x: Any) -> Any:
        """An array of this shape as a matrix, in the order in which these images lie."""
        if not self.by_pixels:
            return layout.planes(x)
        return layout.pixels(x).reshape(self.images, x.size // max(1, self.images))

    def unflat(self, values: Any) -> Any:
        """Back from :meth:`flat`."""
        if not self.by_pixels:
            return values.reshape(self.shape)
        batch, channels, *size = self.shape
        last = values.reshape(batch, *size, channels)
        return last.transpose(0, last.ndim - 1, *range(1, last.ndim - 1))

    def sums(self) -> Any:
        """The sums of x and of x^2, or rather what the tasks have of them."""
        if self.by_pixels:
            sums = np.zeros((self.images * self.parts, 2, self.summed))
            loops.sums_by_pixels(self.x, self.parts, sums)
        else:
            sums = np.empty((self.shape[0], 2, self.channels))
            loops.sums_by_planes(self.x, sums)
        return sums

    def gradient_sums(self, dy: Any, center: Any) -> Any:
        """The sums of dy and of dy (x - center), with `center` (images, C)."""
        center = self.along(center, self.summed)
        if self.by_pixels:
            sums = np.zeros((self.images * self.parts, 2, self.summed))
            loops.gradient_sums_by_pixels(dy, self.x, center, self.parts, sums)
        else:
            sums = np.empty((self.shape[0], 2, self.channels))
            loops.gradient_sums_by_planes(dy, self.x, center, sums)
        return sums

    def along(self, values: Any, strip: int) -> Any:
        """Numbers of channels, (..., C), repeated along a strip."""
        return np.tile(values, strip // self.channels).astype(np.float32, copy=False)

    def apply(self, x: Any, center: Any, scale: Any, shift: Any) -> Any:
        """(x - center) * scale + shift, an image again."""
        y = np.empty_like(x)
        if self.by_pixels:
            loops.apply_by_pixels(x, center, scale, shift, self.parts, y)
        else:
            loops.apply_by_planes(x, center, scale, shift, y)
        return self.unflat(y)

    def apply_backward(self, dy: Any, center: Any, scale: Any, slope: Any, shift: Any) -> Any:
        """dy * scale - (x - center) * slope - shift, an image again."""
        dx = np.empty_like(dy)
        if self.by_pixels:
            loops.apply_backward_by_pixels(dy, self.x, center, scale, slope, shift, self.parts, dx)
        else:
            loops.apply_backward_by_planes(dy, self.x, center, scale, slope, shift, dx)
        return self.unflat(dx)


def _forward(name: str, x: Any, whole: bool, groups: int, weight: Any, bias: Any, eps: float) -> tuple[Any, Any, Any]:
    channels = x.shape[1]
    weight, bias = _or(weight, channels, 1), _or(bias, channels, 0)
    expect(name, (channels,), weight=weight, bias=bias)
    image = _Image(x, whole)
    mean, var = np.empty((2, image.images, groups), dtype=np.float32)
    numbers = np.empty((3, image.images, image.strip), dtype=np.float32)
    count = x.size // max(1, image.images * groups)
    _statistics(image.sums(), image.images, groups, count, weight, bias, eps, mean, var, numbers)
    return image.apply(image.x, *numbers), mean, var


def _backward(
    name: str, dy: Any, x: Any, whole: bool, groups: int, weight: Any, mean: Any, var: Any, eps: float
) -> tuple[Any, Any, Any]:
    channels = x.shape[1]
    weight = _or(weight, channels, 1)
    image = _Image(x, whole)
    expect(name, x.shape, dy=dy)
    expect(name, (image.images, groups), mean=mean, var=var)
    expect(name, (channels,), weight=weight)
    dy = image.flat(dy)
    sums = image.gradient_sums(dy, np.repeat(mean, channels // groups, axis=1))
    numbers, count = np.empty((4, image.images, image.strip), np.float32), x.size // max(1, image.images * groups)
    dweight, dbias = np.zeros((2, channels))
    _slopes(sums, image.images, groups, count, weight, mean, var, eps, numbers, dweight, dbias)
    return image.apply_backward(dy, *numbers), dweight.astype(np.float32), dbias.astype(np.float32)


def _or(values: Any, channels: int, other: float) -> Any:
    """A parameter of the channels, or a number for all that have none."""
    return np.full(channels, other, dtype=np.float32) if values is None else np.ascontiguousarray(values)


@kernel("batchnorm", device="cpu")
def batchnorm(x: Any, weight: Any, bias: Any, eps: float) -> Any:
    y, mean, var = _forward("batchnorm", x, True, x.shape[1], weight, bias, eps)
    return y, mean[0], var[0]


@kernel("batchnorm_backward", device="cpu")
def batchnorm_backward(dy: Any, x: Any, weight: Any, mean: Any, var: Any, eps: float) -> Any:
    return _backward("batchnorm_backward", dy, x, True, x.shape[1], weight, mean[None], var[None], eps)


@kernel("groupnorm", device="cpu")
def groupnorm(x: Any, num_groups: int, weight: Any, bias: Any, eps: float) -> Any:
    return _forward("groupnorm", x, False, num_groups, weight, bias, eps)


@kernel("groupnorm_backward", device="cpu")
def groupnorm_backward(dy: Any, x: Any, num_groups: int, weight: Any, mean: Any, var: Any, eps: float) -> Any:
    return _backward("groupnorm_backward", dy, x, False, num_groups, weight, mean, var, eps)


@kernel("batchnorm_inference", device="cpu")
def batchnorm_inference(x: Any, weight: Any, bias: Any, mean: Any, var: Any, eps: float) -> Any:
    channels = x.shape[1]
    weight, bias = _or(weight, channels, 1), _or(bias, channels, 0)
    expect("batchnorm_inference", (channels,), weight=weight, bias=bias, mean=mean, var=var)
    image = _Image(x, whole=True)
    scale = weight / np.sqrt(var + np.float32(eps))
    numbers = image.along(np.stack([mean, scale, bias])[:, None], image.strip)
    return image.apply(image.x, *numbers)


@kernel("batchnorm_inference_backward", device="cpu")
def batchnorm_inference_backward(dy: Any, x: Any, weight: Any, mean: Any, var: Any, eps: float) -> Any:
    name, channels = "batchnorm_inference_backward", x.shape[1]
    weight = _or(weight, channels, 1)
    expect(name, x.shape, dy=dy)
    expect(name, (channels,), weight=weight, mean=mean, var=var)
    image = _Image(x, whole=True)
    dy, rstd = image.flat(dy), 1 / np.sqrt(var + np.float32(eps))
    none, scale = image.along(np.stack([np.zeros_like(mean), weight * rstd])[:, None], image.strip)
    dbias, product = _each_channel(image.gradient_sums(dy, mean[None]), 1, channels)[0]
    return image.apply(dy, none, scale, none), (product * rstd).astype(np.float32), dbias.astype(np.float32)
