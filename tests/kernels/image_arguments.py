"""How to draw the arguments of the ops of images: convolution, pooling, other sizes, norms."""

from __future__ import annotations

from typing import Any

from tests.kernels.draw import Draw, Entry, lay_out
from tinygrad_edu import reference_ops
from tinygrad_edu.backend import registered_ops


def _channels(d: Draw, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Weight and bias, or none."""
    if d.choice(True, False):
        return None, None
    return d.normal(shape[1]), d.normal(shape[1])


def _batchnorm(d: Draw) -> tuple[Any, ...]:
    shape = d.image_shape()
    shape = (max(shape[0], 2), *shape[1:])  # of one value a channel the variance is rounding alone
    return d.image(*shape), *_channels(d, shape), 1e-2


def _batchnorm_backward(d: Draw, least: int) -> tuple[Any, ...]:
    batch, *rest = d.image_shape()
    shape = (max(batch, least), *rest)
    weight, _ = _channels(d, shape)
    return d.image(*shape), d.image(*shape), weight, d.normal(shape[1]), abs(d.normal(shape[1])), 1e-2


def _batchnorm_inference(d: Draw) -> tuple[Any, ...]:
    shape = d.image_shape()
    return d.image(*shape), *_channels(d, shape), d.normal(shape[1]), abs(d.normal(shape[1])), 1e-2


def _groupnorm(d: Draw) -> tuple[Any, ...]:
    shape = d.image_shape()
    groups = d.choice(*(g for g in range(1, shape[1] + 1) if shape[1] % g == 0))
    return d.image(*shape), groups, *_channels(d, shape), 1e-2


def _groupnorm_backward(d: Draw) -> tuple[Any, ...]:
    x, groups, weight, _, eps = _groupnorm(d)
    statistics = d.normal(len(x), groups), abs(d.normal(len(x), groups))
    return d.image(*x.shape), x, groups, weight, *statistics, eps


def _convolution_shapes(d: Draw) -> tuple[Any, ...]:
    """Shapes of x, of weight and of y, then stride, padding, dilation and groups.

    All the ways that a kernel may go: 3x3 filters of stride 1 and others, few and many channels, groups down to one
    channel, more padding than kernel, a result of one pixel; whole panels of channels and parts of them.
    """
    axes = 2 if d.large else d.choice(1, 2, 2, 2, 3)
    groups = d.choice(1, 1, 2, 5)
    depthwise = groups > 1 and d.choice(True, False)
    inputs, outputs = (1 if depthwise else d.choice(1, 3, 5, 16, 31, 33, 64) for _ in range(2))
    batch = 5 if d.large else d.choice(0, 1, 1, 2, 5)

    def sizes(low: int, high: int) -> tuple[int, ...]:
        return tuple(d.length(low, high) for _ in range(axes))

    kernel = (3,) * axes if d.choice(True, False) else sizes(1, 4)
    one = (1,) * axes
    stride, dilation = (one, one) if d.choice(True, False) else (sizes(1, 3), sizes(1, 2))
    padding = d.choice((0,) * axes, one, sizes(0, 5))
    room = (19, 23) if d.large else sizes(0, 8)
    size = tuple(
        max(1, extra + s * (k - 1) + 1 - 2 * p) for extra, s, k, p in zip(room, dilation, kernel, padding, strict=True)
    )
    output = tuple(
        (n + 2 * p - e * (k - 1) - 1) // s + 1
        for n, p, e, k, s in zip(size, padding, dilation, kernel, stride, strict=True)
    )
    x, weight = (batch, groups * inputs, *size), (groups * outputs, inputs, *kernel)
    return x, weight, (batch, groups * outputs, *output), stride, padding, dilation, groups


def _convolution(d: Draw) -> tuple[Any, ...]:
    x, weight, _, *rest = _convolution_shapes(d)
    bias = d.normal(weight[0]) if d.choice(True, False) else None
    return d.image(*x), d.normal(*weight), bias, *rest


def _convolution_input_gradient(d: Draw) -> tuple[Any, ...]:
    x, weight, y, *rest = _convolution_shapes(d)
    return d.image(*y), d.normal(*weight), x[2:], *rest


def _convolution_weight_gradient(d: Draw) -> tuple[Any, ...]:
    x, weight, y, *rest = _convolution_shapes(d)
    return d.image(*y), d.image(*x), weight[2:], *rest


def _windows(d: Draw) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """(B, C), the sizes of an image, and kernel, stride and padding of windows that fit into it, for each axis."""
    if d.large:
        return (2, 3), (53, 61), (3, 2), (2, 1), (1, 0)
    axes = d.length(1, 3)
    kernel = tuple(d.length(1, 4) for _ in range(axes))
    padding = tuple(d.length(0, k // 2) for k in kernel)
    size = tuple(d.length(max(1, k - 2 * p), 7) for k, p in zip(kernel, padding, strict=True))
    return (d.length(0, 2), d.choice(1, 3, 8)), size, kernel, tuple(d.length(1, 3) for _ in range(axes)), padding


def _max_pool(d: Draw) -> tuple[Any, ...]:
    batch, size, kernel, stride, padding = _windows(d)
    room = (n + 2 * p for n, p in zip(size, padding, strict=True))
    dilation = tuple(d.length(1, max(1, (n - 1) // max(1, k - 1))) for n, k in zip(room, kernel, strict=True))
    return d.image(*batch, *size), kernel, stride, padding, dilation, d.choice(True, False)


def _max_pool_backward(d: Draw) -> tuple[Any, ...]:
    x, *how, ceil_mode = _max_pool(d)
    with reference_ops():
        y, winner = registered_ops()["max_pool"](x, *how, ceil_mode)
    return d.image(*y.shape), lay_out(winner, d.choice("plain", "channels last")), x.shape[2:], *how


def _average_pool(d: Draw) -> tuple[Any, ...]:
    batch, size, *how = _windows(d)
    counted = d.choice((True, None), (False, None), (True, 5))
    return d.image(*batch, *size), *how, d.choice(True, False), *counted


def _average_pool_backward(d: Draw) -> tuple[Any, ...]:
    x, kernel, stride, padding, ceil_mode, *counted = _average_pool(d)
    with reference_ops():
        y = registered_ops()["average_pool"](x, kernel, stride, padding, ceil_mode, *counted)
    return d.image(*y.shape), x.shape[2:], kernel, stride, padding, *counted


def _resized(d: Draw, axes: int, *more: Any, backward: bool = False) -> tuple[Any, ...]:
    """An image, or the gradient of one, and the other size."""
    batch = (2, 3) if d.large else (d.length(0, 2), d.choice(1, 3, 8))
    large = {1: (5000,), 2: (53, 61), 3: (5, 53, 61)}[axes]
    size, output = (tuple(d.length(1, high) for _ in range(axes)) for high in (6, 12))
    if backward:
        return d.image(*batch, *(large if d.large else output)), size, *more
    return d.image(*batch, *(large if d.large else size)), output, *more


def _steps(d: Draw, axes: int) -> tuple[float, ...]:
    return tuple(d.choice(0.5, 1.0, 1 / 1.7, 1.6) for _ in range(axes))


def _upsample(d: Draw, most: int, linear: bool, backward: bool = False) -> tuple[Any, ...]:
    axes = d.length(1, most)
    return _resized(d, axes, _steps(d, axes), *([d.choice(True, False)] if linear else []), backward=backward)


IMAGE_ARGUMENTS: dict[str, Entry] = {
    "max_pool": Entry(_max_pool),
    "max_pool_backward": Entry(_max_pool_backward),
    "average_pool": Entry(_average_pool),
    "average_pool_backward": Entry(_average_pool_backward),
    "adaptive_average_pool": Entry(lambda d: _resized(d, d.length(1, 3))),
    "adaptive_average_pool_backward": Entry(lambda d: _resized(d, d.length(1, 3), backward=True)),
    "upsample_nearest": Entry(lambda d: _upsample(d, 3, False)),
    "upsample_nearest_backward": Entry(lambda d: _upsample(d, 3, False, backward=True)),
    "upsample_linear": Entry(lambda d: _upsample(d, 2, True)),
    "upsample_linear_backward": Entry(lambda d: _upsample(d, 2, True, backward=True)),
    "convolution": Entry(_convolution),
    "convolution_input_gradient": Entry(_convolution_input_gradient),
    "convolution_weight_gradient": Entry(_convolution_weight_gradient),
    "channel_sum": Entry(lambda d: (d.image(*d.image_shape()),)),
    "batchnorm": Entry(_batchnorm, longer=2),
    "batchnorm_backward": Entry(lambda d: _batchnorm_backward(d, 1), longer=2),
    "batchnorm_inference": Entry(_batchnorm_inference),
    "batchnorm_inference_backward": Entry(lambda d: _batchnorm_backward(d, 0)),
    "groupnorm": Entry(_groupnorm, longer=2),
    "groupnorm_backward": Entry(_groupnorm_backward, longer=2),
}
