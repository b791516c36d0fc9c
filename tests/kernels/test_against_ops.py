"""Every kernel against the op that it stands in for, on random shapes, layouts and values.

`ARGUMENTS` says for each op how to draw arguments; a kernel without an entry fails the first test.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_edu.losses
import tinygrad_edu.optim  # noqa: F401  (its ops must be registered too)
from tinygrad_edu import reference_ops
from tinygrad_edu.backend import dispatch, registered_ops, to_device, to_host

# torch.testing.assert_close: rtol, atol by element type.
TOLERANCE = {"float64": (1e-7, 1e-7), "float32": (1.3e-6, 1e-5), "float16": (1e-3, 1e-5), "bfloat16": (1.6e-2, 1e-5)}

LAYOUTS = ("plain", "fortran", "every second", "backwards", "broadcast", "offset")


def lay_out(x: np.ndarray, layout: str) -> np.ndarray:
    """The same values (or, broadcast, its first entries repeated) in another order of memory."""
    if layout == "fortran":
        return np.asfortranarray(x)
    if layout == "channels last" and x.ndim > 2:
        return np.moveaxis(np.moveaxis(x, 1, -1).copy(), -1, 1)
    if layout == "every second" and x.ndim:
        return np.repeat(x, 2, axis=-1)[..., ::2]
    if layout == "backwards" and x.ndim:
        return x[::-1].copy()[::-1]
    if layout == "broadcast" and x.ndim and len(x):
        return np.broadcast_to(x[:1], x.shape)  # stride 0, and read-only
    if layout == "offset":
        return np.concatenate([np.zeros(1, x.dtype), x.ravel()])[1:].reshape(x.shape)  # not on a cache line
    return x


LARGE = 16411  # rows: above the size at which loops are shared by threads, and no multiple of anything


class Draw:
    """Draws arguments by Hypothesis: shapes small and odd, zero and one included, values seeded by one number.

    With `large`, as many rows as it takes for the threads to share them.
    """

    def __init__(self, data: st.DataObject, dtype: str, large: bool):
        self._data, self.dtype, self.large = data, dtype, large
        self._rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), label="seed"))

    def length(self, low: int = 0, high: int = 9) -> int:
        return self._data.draw(st.integers(low, high))

    def rows(self) -> int:
        return LARGE if self.large else self.length()

    def shape(self) -> tuple[int, ...]:
        return (LARGE,) if self.large else tuple(self._data.draw(st.lists(st.integers(0, 7), max_size=3)))

    def choice(self, *values: Any) -> Any:
        return self._data.draw(st.sampled_from(values))

    def number(self, low: float, high: float) -> float:
        return self._data.draw(st.floats(low, high))

    def layout(self) -> str:
        return self.choice(*LAYOUTS)

    def normal(self, *shape: int, layout: str | None = None, scale: float = 1.0) -> np.ndarray:
        x = (self._rng.standard_normal(shape) * scale).astype(self.dtype)
        return lay_out(x, layout or self.layout())

    def image_shape(self) -> tuple[int, ...]:
        """(B, C, *size) with no, one, two or three sizes."""
        if self.large:
            return self.choice((2, 3, 53, 61), (LARGE, 3), (3, 300, 5, 7))
        return self.length(0, 3), self.length(1, 9), *self._data.draw(st.lists(st.integers(1, 6), max_size=3))

    def image(self, *shape: int, scale: float = 1.0) -> np.ndarray:
        return self.normal(*shape, layout=self.choice(*LAYOUTS, "channels last"), scale=scale)

    def ids(self, high: int, *shape: int) -> np.ndarray:
        ids = self._rng.integers(0, high, shape) if high else np.zeros(shape, dtype=np.int64)
        return lay_out(ids.astype(self.choice("int64", "int32")), self.choice("plain", "every second"))

    def targets(self, classes: int, rows: int, ignore_index: int) -> np.ndarray:
        ids = self._rng.integers(0, classes, rows)
        return np.where(self._rng.random(rows) < 0.3, ignore_index, ids)

    def fractions(self, *shape: int) -> np.ndarray:
        """Numbers in [0, 1], both ends among them."""
        x = np.clip(self._rng.random(shape) * 1.5 - 0.25, 0, 1)
        return lay_out(x.astype(self.dtype), self.layout())

    def mask(self, *shape: int) -> np.ndarray:
        return self._rng.random(shape) < self.choice(0.0, 0.5, 0.9)


@dataclass(frozen=True)
class Entry:
    """How to draw the arguments of an op.

    Attributes
    ----------
    draw : makes them
    changed : places of the arguments that the op changes or adds into
    sums : length of the longest sum, by whose square root rounding may grow
    longer : factor on the tolerance, where the kernel's documentation allows for more
    """

    draw: Callable[[Draw], tuple[Any, ...]]
    changed: tuple[int, ...] = ()
    longer: float = 1.0


def _one(d: Draw) -> tuple[Any, ...]:
    return (d.normal(*d.shape(), d.length(d.large), scale=d.choice(1.0, 4.0)),)


def _two(d: Draw) -> tuple[Any, ...]:
    shape = (*d.shape(), d.length(d.large))
    return d.normal(*shape), d.normal(*shape, scale=d.choice(1.0, 4.0))


def _gemm(d: Draw) -> tuple[Any, ...]:
    m, k, n = d.rows(), d.length(), d.length()
    a = d.normal(k, m).T if d.choice(True, False) else d.normal(m, k)
    b = d.normal(n, k).T if d.choice(True, False) else d.normal(k, n)
    how = d.choice("new", "out", "accumulate", "accumulate into columns", "accumulate into a transposed view")
    if how == "new":
        return a, b
    if how == "accumulate into columns":
        return a, b, d.normal(m, n + 3, layout="plain")[:, 1 : n + 1], True
    if how == "accumulate into a transposed view":
        return a, b, d.normal(n, m, layout="plain").T, True
    return a, b, d.normal(m, n, layout="plain"), how == "accumulate"


def _linear(d: Draw) -> tuple[Any, ...]:
    head, i, o = d.shape(), d.length(1), d.length(1)
    return d.normal(*head, i), d.normal(o, i), d.normal(o) if d.choice(True, False) else None


def _linear_backward(d: Draw) -> tuple[Any, ...]:
    head, i, o = d.shape(), d.length(1), d.length(1)
    there = d.choice(True, False)  # gradients of earlier uses, which are added to
    before = (d.normal(o, i, layout="plain"), d.normal(o, layout="plain")) if there else (None, None)
    return d.normal(*head, o), d.normal(*head, i), d.normal(o, i), d.choice(True, False), *before


def _embedding(d: Draw) -> tuple[Any, ...]:
    classes = d.length(1)
    return d.normal(classes, d.length(1), layout="plain"), d.ids(classes, *d.shape())


def _embedding_backward(d: Draw) -> tuple[Any, ...]:
    classes, width, shape = d.length(1), d.length(1), d.shape()
    return d.normal(*shape, width), d.ids(classes, *shape), d.normal(classes, width, layout="plain")


def _norm(d: Draw, parameters: int) -> tuple[Any, ...]:
    channels = d.length(1, 20)
    return d.normal(*d.shape(), channels), *(d.normal(channels, layout="plain") for _ in range(parameters)), 1e-5


def _norm_backward(d: Draw, mean: bool) -> tuple[Any, ...]:
    channels, head = d.length(1, 20), d.shape()
    x = d.normal(*head, channels)
    statistics = [abs(d.normal(*head, 1, layout="plain")) + 0.5]
    if mean:
        statistics.insert(0, d.normal(*head, 1, layout="plain"))
    return d.normal(*head, channels), x, d.normal(channels, layout="plain"), *statistics


def _heads(d: Draw) -> tuple[Any, ...]:
    """q, k, v, mask, causal, scale, dropout, seed; longer than one block of queries, or of keys, now and then.

    Few combinations of layouts, for each is compiled: contiguous, and as the layer cuts them out of its projection.
    """
    by_time = d.large or d.choice(True, False)
    batch, heads, dim = d.length(1 + by_time, 3), d.length(1 + by_time, 3), 33 if d.large else d.length(1, 9)
    queries = 131 if d.large else d.choice(2, 5, 128, 131) if by_time else d.choice(1, 2, 5, 131)
    keys = d.choice(queries, queries + 3, 2, 7, 530)

    def array(time: int) -> np.ndarray:
        if by_time:
            return d.normal(batch, time, heads, dim, layout="plain").transpose(0, 2, 1, 3)
        return d.normal(batch, heads, time, dim, layout="plain")

    mask = None
    if d.choice(True, False):
        mask = d.mask(batch, 1, 1, keys) if by_time else d.mask(batch, heads, queries, keys)
    dropout, seed = d.choice((0.0, 0), (0.3, 5), (0.5, 2**62 + 1))
    return array(queries), array(keys), array(keys), mask, d.choice(True, False), d.number(0.1, 1.0), dropout, seed


def _heads_backward(d: Draw) -> tuple[Any, ...]:
    q, k, v, mask, causal, scale, dropout, seed = _heads(d)
    with reference_ops():
        y, lse = registered_ops()["attention"](q, k, v, mask, causal, scale, dropout, seed)
    return d.normal(*y.shape, layout="plain"), q, k, v, mask, y, lse, causal, scale, dropout, seed


def _cross_entropy(d: Draw) -> tuple[Any, ...]:
    rows, classes, ignore_index = d.rows(), d.length(1, 40), d.choice(-100, 0)
    weight = abs(d.normal(classes, layout="plain")) if d.choice(True, False) else None
    logits = d.normal(rows, classes, scale=d.choice(1.0, 10.0))
    return logits, d.targets(classes, rows, ignore_index), weight, ignore_index, d.choice(0.0, 0.1, 1.0)


def _cross_entropy_backward(d: Draw) -> tuple[Any, ...]:
    logits, targets, weight, ignore_index, smoothing = _cross_entropy(d)
    with reference_ops():
        lse = registered_ops()["cross_entropy"](logits, targets, weight, ignore_index, smoothing)[1]
    return d.normal(len(targets)), logits, targets, lse, weight, ignore_index, smoothing


def _binary(d: Draw) -> tuple[Any, ...]:
    *head, last = shape = (*d.shape(), d.length(d.large))
    factors = d.choice((last,), shape, (*(1 for _ in head), last))
    weight = abs(d.normal(*factors)) + 0.1 if d.choice(True, False) else None
    return d.normal(*shape, scale=d.choice(1.0, 10.0)), d.fractions(*shape), weight


def _binary_backward(d: Draw) -> tuple[Any, ...]:
    logits, *rest = _binary(d)
    return d.normal(*logits.shape), logits, *rest


def _masks(d: Draw) -> tuple[Any, ...]:
    shape = (d.length(), d.length(), d.rows(), *d.choice((), (3,)))
    return d.fractions(*shape), d.fractions(*shape), d.number(0.1, 2.0), d.choice(True, False)


def _masks_backward(d: Draw) -> tuple[Any, ...]:
    probabilities, targets, smooth, squared = _masks(d)
    with reference_ops():
        scores, size = registered_ops()["dice"](probabilities, targets, smooth, squared)
    return d.normal(*scores.shape), probabilities, targets, scores, size, squared


def _head(d: Draw) -> tuple[Any, ...]:
    rows, width, classes = d.rows(), d.length(1), d.length(1, 40)
    bias = d.normal(classes, layout="plain") if d.choice(True, False) else None
    return (
        d.normal(rows, width),
        d.normal(classes, width),
        bias,
        d.targets(classes, rows, -100),
        -100,
        d.choice(0.0, 0.1),
    )


def _head_grad(d: Draw) -> tuple[Any, ...]:
    x, weight, bias, targets, ignore_index, smoothing = _head(d)
    dbias = None if bias is None else d.normal(*bias.shape, layout="plain")
    return (
        x,
        weight,
        bias,
        targets,
        d.normal(len(x)),
        d.normal(*weight.shape, layout="plain"),
        dbias,
        ignore_index,
        smoothing,
    )


def _adam(d: Draw) -> tuple[Any, ...]:
    n = d.rows()
    data, grad, first = (d.normal(n, layout="plain") for _ in range(3))
    second = abs(d.normal(n, layout="plain"))
    return (
        data,
        grad,
        first,
        second,
        d.length(1, 1000),
        1e-2,
        0.9,
        d.choice(0.95, 0.999),
        1e-8,
        d.choice(0.0, 0.1),
        d.choice(True, False),
        d.choice(1.0, 0.3),
    )


def _sgd(d: Draw) -> tuple[Any, ...]:
    n = d.rows()
    data, grad, velocity = (d.normal(n, layout="plain") for _ in range(3))
    decay, scale = d.choice(0.0, 0.1), d.choice(1.0, 0.3)
    if d.choice(True, False):
        return data, grad, None, 1e-2, 0.0, False, decay, scale
    return data, grad, velocity, 1e-2, 0.9, d.choice(True, False), decay, scale


def _average(d: Draw) -> tuple[Any, ...]:
    n = d.rows()
    return d.normal(n, layout="plain"), d.normal(n, layout="plain"), d.choice(0.1, 0.9, 0.9999)


def _dropout(d: Draw) -> tuple[Any, ...]:
    return d.normal(*d.shape(), d.length(d.large)), d.choice(0.0, 0.1, 0.5, 0.99), d.choice(0, 7, 2**63 - 1)


def _rotary(d: Draw) -> tuple[Any, ...]:
    length, half = d.length(d.large), d.length(8)
    return d.normal(*d.shape(), length, 2 * half), d.normal(length, half), d.normal(length, half)


GATES = {"rnn": 1, "lstm": 4, "gru": 3}


def _recurrent(d: Draw, name: str) -> tuple[Any, ...]:
    """Widths that are whole tiles and that are not, one step and several, lengths of 1 and of all."""
    time, batch, inputs = d.choice(1, 2, 5), d.choice(0, 1, 3, 4, 9, 17), d.choice(1, 5, 32, 37)
    width = d.choice(1, 3, 8, 16, 33)
    if d.large:
        time, batch, width = 40, 9, 47
    rows = GATES[name] * width
    states = [d.normal(batch, width) for _ in range(2 if name == "lstm" else 1)]
    weights = [d.normal(rows, inputs, scale=0.3), d.normal(rows, width, scale=0.3)]
    biases = [d.normal(rows), d.normal(rows)] if d.choice(True, False) else [None, None]
    lengths = 1 + d.ids(time, batch) if d.choice(True, False) else None
    x = d.normal(batch, time, inputs).swapaxes(0, 1) if d.choice(True, False) else d.normal(time, batch, inputs)
    how = (d.choice("tanh", "relu"),) if name == "rnn" else ()
    return x, *states, *weights, *biases, lengths, d.choice(True, False), *how


def _recurrent_backward(d: Draw, name: str) -> tuple[Any, ...]:
    x, *rest = _recurrent(d, name)
    count = 2 if name == "lstm" else 1
    with reference_ops():
        y, *results = registered_ops()[name](x, *rest)
    dstates = [d.normal(*state.shape) for state in results[:count]]
    weights, how = rest[count : count + 2], rest[count + 4 :]
    return d.normal(*y.shape), *dstates, x, *weights, *how, *results[count:], d.choice(True, False)


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


ARGUMENTS: dict[str, Entry] = {
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
    **{name: Entry(lambda d, name=name: _recurrent(d, name), longer=2) for name in GATES},
    **{f"{name}_backward": Entry(lambda d, name=name: _recurrent_backward(d, name), longer=2) for name in GATES},
    "rotary": Entry(_rotary),
    **{name: Entry(_one) for name in ("gelu", "gelu_tanh", "silu", "relu", "sigmoid", "tanh", "erf")},
    **{f"{name}_backward": Entry(_two) for name in ("gelu", "gelu_tanh", "silu", "relu", "sigmoid", "tanh")},
    "gemm": Entry(_gemm, changed=(2,)),
    "linear": Entry(_linear),
    "linear_backward": Entry(_linear_backward, changed=(4, 5)),
    "embedding": Entry(_embedding),
    "embedding_backward": Entry(_embedding_backward, changed=(2,)),
    "layernorm": Entry(lambda d: _norm(d, 2), longer=4),
    "layernorm_backward": Entry(lambda d: _norm_backward(d, True)),
    "rmsnorm": Entry(lambda d: _norm(d, 1), longer=4),
    "rmsnorm_backward": Entry(lambda d: _norm_backward(d, False)),
    "attention": Entry(_heads),
    "attention_backward": Entry(_heads_backward),
    "cross_entropy": Entry(_cross_entropy),
    "cross_entropy_backward": Entry(_cross_entropy_backward),
    "binary_cross_entropy_with_logits": Entry(_binary),
    "binary_cross_entropy_with_logits_backward": Entry(_binary_backward),
    "dice": Entry(_masks),
    "dice_backward": Entry(_masks_backward),
    "linear_cross_entropy": Entry(_head),
    "linear_cross_entropy_grad": Entry(_head_grad, changed=(5, 6)),
    "dropout": Entry(_dropout),
    "random_uniform": Entry(lambda d: (d.normal(*d.shape()), d.choice(0, 7, 2**63 - 1), d.choice(None, (3, 5), ()))),
    "adam_update": Entry(_adam, changed=(0, 2, 3)),
    "sgd_update": Entry(_sgd, changed=(0, 2)),
    "ema_update": Entry(_average, changed=(0,)),
    "squared_sum": Entry(_one),
}  # fmt: skip

CPU = sorted(dispatch.registered_kernels("cpu"), key=lambda kernel: kernel[:3])
each_kernel = pytest.mark.parametrize(
    "name, device, dtype, kernel", CPU, ids=[f"{name} {dtype}" for name, _, dtype, _ in CPU]
)


def to_list(result: Any) -> list[Any]:
    return list(result) if isinstance(result, tuple) else [result]


def compare(
    name: str, device: str, dtype: str, kernel: Callable[..., Any], data: st.DataObject, large: bool = False
) -> None:
    """Call both on the same arguments: they return the same, change the same, and change nothing else."""
    entry, reference = ARGUMENTS[name], registered_ops()[name].reference
    drawn = entry.draw(Draw(data, dtype, large))

    def place(value: Any, at: int, where: str) -> Any:
        if not isinstance(value, np.ndarray):
            return value
        # An array that is changed is given to each as an array of its own, in its own layout.
        return to_device(_copy(value) if at in entry.changed else value, where)

    here = [place(value, at, "cpu") for at, value in enumerate(drawn)]
    there = [place(value, at, device) for at, value in enumerate(drawn)]
    before = [np.array(value) if isinstance(value, np.ndarray) else value for value in drawn]
    with reference_ops():
        wanted = to_list(reference(*here))
    found = to_list(kernel(*there))
    assert len(found) == len(wanted)
    size = max((value.size for value in drawn if isinstance(value, np.ndarray)), default=1)
    for result, right in zip(found, wanted, strict=True):
        check_equal(result, right, dtype, size, entry.longer, exact=name in ("random_uniform", "embedding"))
    for at, value in enumerate(before):
        if not isinstance(value, np.ndarray):
            continue
        if at in entry.changed:
            check_equal(there[at], here[at], dtype, size, entry.longer)
        else:
            np.testing.assert_array_equal(to_host(there[at]), value, err_msg=f"{name} changed argument {at}")


def _copy(value: np.ndarray) -> np.ndarray:
    """A copy with the same strides, so that a view stays a view of that kind."""
    if value.flags.c_contiguous:
        return value.copy()
    if value.flags.f_contiguous:
        return value.T.copy().T
    wide = np.zeros((len(value), value.shape[1] + 3), dtype=value.dtype)
    wide[:, 1 : value.shape[1] + 1] = value
    return wide[:, 1 : value.shape[1] + 1]


def check_equal(found: Any, wanted: Any, dtype: str, size: int, longer: float, exact: bool = False) -> None:
    if wanted is None:
        assert found is None
        return
    found, wanted = np.asarray(to_host(found)), np.asarray(wanted)
    assert found.shape == wanted.shape
    if wanted.dtype.kind != "f" or exact:
        np.testing.assert_array_equal(found, wanted)
        return
    rtol, atol = TOLERANCE[dtype]
    finite = np.isfinite(wanted)
    np.testing.assert_array_equal(found[~finite], wanted[~finite])
    largest = float(np.max(np.abs(wanted[finite]), initial=1.0))
    grown = longer * math.sqrt(max(size, 1))
    np.testing.assert_allclose(
        found[finite], wanted[finite], rtol=rtol * grown, atol=max(atol, rtol * grown * largest) * longer
    )


@each_kernel
def test_a_kernel_names_an_op_and_has_its_signature(
    name: str, device: str, dtype: str, kernel: Callable[..., Any]
) -> None:
    assert name in registered_ops()
    assert dispatch.same_signature(kernel, registered_ops()[name].reference)


def test_every_kernel_has_an_entry_here() -> None:
    assert {name for name, *_ in dispatch.registered_kernels()} <= set(ARGUMENTS)


def test_the_kernels_of_the_cpu_are_there() -> None:
    """Without Numba they are off, and then this file tests nothing."""
    assert {"attention", "gemm", "layernorm", "cross_entropy"} <= {name for name, *_ in CPU}


# Of the profile, so that HYPOTHESIS_PROFILE=explore really looks further; large inputs cost more.
EXAMPLES = settings().max_examples
LARGE_EXAMPLES = max(5, EXAMPLES // 10)


@each_kernel
@settings(max_examples=EXAMPLES)
@given(data=st.data())
def test_against_its_op(name: str, device: str, dtype: str, kernel: Callable[..., Any], data: st.DataObject) -> None:
    compare(name, device, dtype, kernel, data)


@each_kernel
@settings(max_examples=LARGE_EXAMPLES)
@given(data=st.data())
def test_against_its_op_in_many_threads(
    name: str, device: str, dtype: str, kernel: Callable[..., Any], data: st.DataObject
) -> None:
    compare(name, device, dtype, kernel, data, large=True)


@pytest.mark.gpu
@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
def test_kernels_of_cuda(large: bool) -> None:
    for name, device, dtype, kernel in dispatch.registered_kernels("cuda"):

        @settings(max_examples=LARGE_EXAMPLES if large else EXAMPLES)
        @given(data=st.data())
        def check(data: st.DataObject, kernel: tuple[Any, ...] = (name, device, dtype, kernel)) -> None:
            compare(*kernel, data, large)

        check()


@each_kernel
def test_the_op_runs_it(name: str, device: str, dtype: str, kernel: Callable[..., Any]) -> None:
    assert registered_ops()[name].kernel_for(device, dtype) is kernel


@pytest.mark.parametrize("scale", [1e-30, 1.0, 30.0, 80.0, 1e4, 1e12])  # x^3 in float32 ends at 7e12
@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "silu"])
def test_extreme_values(name: str, scale: float) -> None:
    """The kernels bring an exponential of their own: it must neither overflow nor lose the tails."""
    x = np.array([-2, -1, -0.5, 0, 0.5, 1, 2], dtype="float32") * np.float32(scale)
    dy = np.ones_like(x)
    op, back = registered_ops()[name], registered_ops()[f"{name}_backward"]
    with reference_ops():
        wanted = op(x.astype("float64")), back(dy.astype("float64"), x.astype("float64"))
    for found, right in zip((op(x), back(dy, x)), wanted, strict=True):
        np.testing.assert_allclose(found, right, rtol=2e-6, atol=5e-7 * max(1.0, scale if scale < 100 else 1.0))


def test_nan_and_infinity_are_not_hidden() -> None:
    """A kernel that optimises them away would hide that training has broken."""
    x = np.array([[0.5, np.nan, 1.0], [np.inf, 1.0, 2.0]], dtype="float32")
    for name in ("gelu", "gelu_tanh", "silu"):
        y = registered_ops()[name](x)
        assert np.isnan(y[0, 1]) and np.isinf(y[1, 0])
    ops = registered_ops()
    assert np.isnan(ops["layernorm"](x, np.ones(3, "float32"), np.ones(3, "float32"), 1e-5)[0][0]).all()
    assert np.isnan(ops["rmsnorm"](x, np.ones(3, "float32"), 1e-5)[0][0]).all()
    assert np.isnan(ops["cross_entropy"](x[:1], np.array([0]), None, -100, 0.0)[0][0])
    assert np.isnan(ops["squared_sum"](x)) or np.isinf(ops["squared_sum"](x))
    heads = np.ones((1, 1, 3, 4), dtype="float32")
    broken = heads.copy()
    broken[0, 0, 1, 2] = np.nan
    assert np.isnan(ops["attention"](broken, heads, heads, None, False, 1.0)[0][0, 0, 1]).all()
    assert np.isnan(ops["attention"](heads, broken, heads, None, False, 1.0)[0]).all()


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    """What sums over rows in parallel may round otherwise; what gives a row each must not."""
    import numba

    rng = np.random.default_rng(0)
    x, dy = (rng.normal(size=(1000, 33)).astype("float32") for _ in range(2))
    before = numba.get_num_threads()
    results = []
    try:
        for threads in {1, before}:
            numba.set_num_threads(threads)
            results.append((registered_ops()["gelu"](x), registered_ops()["dropout"](dy, 0.3, 9)))
    finally:
        numba.set_num_threads(before)
    for left, right in zip(results[0], results[-1], strict=True):
        np.testing.assert_array_equal(left, right)


def test_repeated_ids_are_added_in_order() -> None:
    """Bit for bit the same however often it is run: the sum for an id is taken by one thread."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 3, 500)
    dy = rng.normal(size=(500, 17)).astype("float32")
    op = registered_ops()["embedding_backward"]
    first = op(dy, ids, np.zeros((5, 17), "float32"))
    for _ in range(5):
        np.testing.assert_array_equal(op(dy, ids, np.zeros((5, 17), "float32")), first)
    assert not first[3:].any()
