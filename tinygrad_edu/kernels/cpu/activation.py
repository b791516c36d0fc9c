"""Functions of one number: one pass over an array as it lies, with exponentials that vectorise."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange, types

from ...backend import kernel
from . import layout
from .common import exp32, expect, inline, parallel_for, sigmoid32, tanh32

# Elements a task works on: enough to be worth a task, few enough to share evenly. Each task slices its part, because
# a loop from 0 to a slice's end provably never wraps a negative index, and only then becomes vector code.
_CHUNK = 4096
_SQRT_HALF = np.float32(0.7071067811865476)
_INV_SQRT_2PI = np.float32(0.3989422804014327)
_TWICE_SQRT_2_OVER_PI = np.float32(2 * 0.7978845608028654)
_CUBIC = np.float32(0.044715)
_ONE, _HALF, _ZERO = np.float32(1), np.float32(0.5), np.float32(0)

_LIGHT, _HEAVY = 32, 8  # a few operations a number, or an exponential; see `parallel`
_READ, _WRITE = types.Array(types.float32, 1, "C", readonly=True), types.float32[::1]


@inline
def _normal(x):  # type: ignore[no-untyped-def]
    """Phi(x) and e^(-x^2/2), from one exponential.

    The tail Q(|x|) = erfc(|x|/sqrt 2)/2 by Abramowitz & Stegun 7.1.26, absolute error below 1e-7.
    """
    z = abs(x) * _SQRT_HALF
    bell = exp32(-z * z)
    t = _ONE / (_ONE + np.float32(0.3275911) * z)
    p = np.float32(1.061405429)
    p = p * t - np.float32(1.453152027)
    p = p * t + np.float32(1.421413741)
    p = p * t - np.float32(0.284496736)
    p = p * t + np.float32(0.254829592)
    tail = _HALF * p * t * bell
    return (tail if x < 0 else _ONE - tail), bell


@parallel_for(_READ, _WRITE, times=_HEAVY)
def _gelu(x, y):  # type: ignore[no-untyped-def]
    for chunk in prange((x.size + _CHUNK - 1) // _CHUNK):
        part = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        xs, ys = x[part], y[part]
        for i in range(xs.size):
            cdf, _ = _normal(xs[i])
            ys[i] = xs[i] * cdf


@parallel_for(_READ, _READ, _WRITE, times=_HEAVY)
def _gelu_backward(dy, x, dx):  # type: ignore[no-untyped-def]
    for chunk in prange((x.size + _CHUNK - 1) // _CHUNK):
        part = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        dys, xs, dxs = dy[part], x[part], dx[part]
        for i in range(xs.size):
            cdf, bell = _normal(xs[i])
            dxs[i] = dys[i] * (cdf + xs[i] * bell * _INV_SQRT_2PI)


@parallel_for(_READ, _WRITE, times=_HEAVY)
def _gelu_tanh(x, y):  # type: ignore[no-untyped-def]
    for chunk in prange((x.size + _CHUNK - 1) // _CHUNK):
        part = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        xs, ys = x[part], y[part]
        for i in range(xs.size):
            # (1 + tanh u)/2 = sigmoid(2u)
            ys[i] = xs[i] * sigmoid32(_TWICE_SQRT_2_OVER_PI * (xs[i] + _CUBIC * xs[i] * xs[i] * xs[i]))


@parallel_for(_READ, _READ, _WRITE, times=_HEAVY)
def _gelu_tanh_backward(dy, x, dx):  # type: ignore[no-untyped-def]
    for chunk in prange((x.size + _CHUNK - 1) // _CHUNK):
        part = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        dys, xs, dxs = dy[part], x[part], dx[part]
        for i in range(xs.size):
            s = sigmoid32(_TWICE_SQRT_2_OVER_PI * (xs[i] + _CUBIC * xs[i] * xs[i] * xs[i]))
            slope = _TWICE_SQRT_2_OVER_PI * (_ONE + np.float32(3) * _CUBIC * xs[i] * xs[i])
            dxs[i] = dys[i] * (s + xs[i] * s * (_ONE - s) * slope)


@parallel_for(_READ, _WRITE, times=_HEAVY)
def _silu(x, y):  # type: ignore[no-untyped-def]
    for chunk in prange((x.size + _CHUNK - 1) // _CHUNK):
        part = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        xs, ys = x[part], y[part]
        for i in range(xs.size):
            ys[i] = xs[i] * sigmoid32(xs[i])


@parallel_for(_READ, _READ, _WRITE, times=_HEAVY)
def _silu_backward(dy, x, dx):  # type: ignore[no-untyped-def]
    for chunk in prange((x.size + _CHUNK - 1) // _CHUNK):
        part = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        dys, xs, dxs = dy[part], x[part], dx[part]
        for i in range(xs.size):
            s = sigmoid32(xs[i])
            dxs[i] = dys[i] * s * (_ONE + xs[i] * (_ONE - s))


@parallel_for(_READ, _WRITE, times=_LIGHT)
def _relu(x, y):  # type: ignore[no-untyped-def]
    for chunk in prange((x.size + _CHUNK - 1) // _CHUNK):
        part = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        xs, ys = x[part], y[part]
        for i in range(xs.size):
            ys[i] = _ZERO if xs[i] < _ZERO else xs[i]  # noqa: FURB136 - max() may lose a NaN


@parallel_for(_READ, _READ, _WRITE, times=_LIGHT)
def _relu_backward(dy, y, dx):  # type: ignore[no-untyped-def]
    for chunk in prange((y.size + _CHUNK - 1) // _CHUNK):
        part = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        dys, ys, dxs = dy[part], y[part], dx[part]
        for i in range(ys.size):
            dxs[i] = dys[i] * (_ONE if ys[i] > _ZERO else _ZERO)


@parallel_for(_READ, _WRITE, times=_HEAVY)
def _sigmoid(x, y):  # type: ignore[no-untyped-def]
    for chunk in prange((x.size + _CHUNK - 1) // _CHUNK):
        part = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        xs, ys = x[part], y[part]
        for i in range(xs.size):
            ys[i] = sigmoid32(xs[i])


@parallel_for(_READ, _READ, _WRITE, times=_LIGHT)
def _sigmoid_backward(dy, y, dx):  # type: ignore[no-untyped-def]
    for chunk in prange((y.size + _CHUNK - 1) // _CHUNK):
        part = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        dys, ys, dxs = dy[part], y[part], dx[part]
        for i in range(ys.size):
            dxs[i] = dys[i] * ys[i] * (_ONE - ys[i])


@parallel_for(_READ, _WRITE, times=_HEAVY)
def _tanh(x, y):  # type: ignore[no-untyped-def]
    for chunk in prange((x.size + _CHUNK - 1) // _CHUNK):
        part = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        xs, ys = x[part], y[part]
        for i in range(xs.size):
            ys[i] = tanh32(xs[i])


@parallel_for(_READ, _READ, _WRITE, times=_LIGHT)
def _tanh_backward(dy, y, dx):  # type: ignore[no-untyped-def]
    for chunk in prange((y.size + _CHUNK - 1) // _CHUNK):
        part = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        dys, ys, dxs = dy[part], y[part], dx[part]
        for i in range(ys.size):
            dxs[i] = dys[i] * (_ONE - ys[i] * ys[i])


def _forward(name: str, loop: Any) -> None:
    @kernel(name, device="cpu")
    def run(x: Any) -> Any:
        axes = layout.axes_of(x)
        y = layout.new(x, axes)
        loop(layout.vector(x, axes), layout.vector(y, axes))
        return y


def _gradient(name: str, loop: Any, dy: Any, kept: Any) -> Any:
    """dx, which lies as `kept` does: x or y of the forward op."""
    expect(name, kept.shape, dy=dy)
    axes = layout.axes_of(kept)
    dx = layout.new(kept, axes)
    loop(layout.vector(dy, axes), layout.vector(kept, axes), layout.vector(dx, axes))
    return dx


def _backward_from_x(name: str, loop: Any) -> None:
    @kernel(name, device="cpu")
    def run(dy: Any, x: Any) -> Any:
        return _gradient(name, loop, dy, x)


def _backward_from_y(name: str, loop: Any) -> None:
    @kernel(name, device="cpu")
    def run(dy: Any, y: Any) -> Any:
        return _gradient(name, loop, dy, y)


for _name, _loop in (
    ("relu", _relu),
    ("gelu", _gelu),
    ("gelu_tanh", _gelu_tanh),
    ("sigmoid", _sigmoid),
    ("silu", _silu),
    ("tanh", _tanh),
):
    _forward(_name, _loop)
for _name, _loop in (("gelu", _gelu_backward), ("gelu_tanh", _gelu_tanh_backward), ("silu", _silu_backward)):
    _backward_from_x(f"{_name}_backward", _loop)
for _name, _loop in (("relu", _relu_backward), ("sigmoid", _sigmoid_backward), ("tanh", _tanh_backward)):
    _backward_from_y(f"{_name}_backward", _loop)
