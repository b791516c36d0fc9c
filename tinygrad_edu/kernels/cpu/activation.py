"""GELU and SiLU: one pass, with exponentials that vectorise."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from ...backend import kernel
from .common import exp32, expect, flat, inline, parallel, sigmoid32

# Elements a task works on: enough to be worth a task, few enough to share evenly. Each task slices its part, because
# a loop from 0 to a slice's end provably never wraps a negative index, and only then becomes vector code.
_CHUNK = 4096
_SQRT_HALF = np.float32(0.7071067811865476)
_INV_SQRT_2PI = np.float32(0.3989422804014327)
_TWICE_SQRT_2_OVER_PI = np.float32(2 * 0.7978845608028654)
_CUBIC = np.float32(0.044715)
_ONE, _HALF = np.float32(1), np.float32(0.5)


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


@parallel
def _gelu(x, y):  # type: ignore[no-untyped-def]
    for chunk in prange((x.size + _CHUNK - 1) // _CHUNK):
        part = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        xs, ys = x[part], y[part]
        for i in range(xs.size):
            cdf, _ = _normal(xs[i])
            ys[i] = xs[i] * cdf


@parallel
def _gelu_backward(dy, x, dx):  # type: ignore[no-untyped-def]
    for chunk in prange((x.size + _CHUNK - 1) // _CHUNK):
        part = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        dys, xs, dxs = dy[part], x[part], dx[part]
        for i in range(xs.size):
            cdf, bell = _normal(xs[i])
            dxs[i] = dys[i] * (cdf + xs[i] * bell * _INV_SQRT_2PI)


@parallel
def _gelu_tanh(x, y):  # type: ignore[no-untyped-def]
    for chunk in prange((x.size + _CHUNK - 1) // _CHUNK):
        part = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        xs, ys = x[part], y[part]
        for i in range(xs.size):
            # (1 + tanh u)/2 = sigmoid(2u)
            ys[i] = xs[i] * sigmoid32(_TWICE_SQRT_2_OVER_PI * (xs[i] + _CUBIC * xs[i] * xs[i] * xs[i]))


@parallel
def _gelu_tanh_backward(dy, x, dx):  # type: ignore[no-untyped-def]
    for chunk in prange((x.size + _CHUNK - 1) // _CHUNK):
        part = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        dys, xs, dxs = dy[part], x[part], dx[part]
        for i in range(xs.size):
            s = sigmoid32(_TWICE_SQRT_2_OVER_PI * (xs[i] + _CUBIC * xs[i] * xs[i] * xs[i]))
            slope = _TWICE_SQRT_2_OVER_PI * (_ONE + np.float32(3) * _CUBIC * xs[i] * xs[i])
            dxs[i] = dys[i] * (s + xs[i] * s * (_ONE - s) * slope)


@parallel
def _silu(x, y):  # type: ignore[no-untyped-def]
    for chunk in prange((x.size + _CHUNK - 1) // _CHUNK):
        part = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        xs, ys = x[part], y[part]
        for i in range(xs.size):
            ys[i] = xs[i] * sigmoid32(xs[i])


@parallel
def _silu_backward(dy, x, dx):  # type: ignore[no-untyped-def]
    for chunk in prange((x.size + _CHUNK - 1) // _CHUNK):
        part = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        dys, xs, dxs = dy[part], x[part], dx[part]
        for i in range(xs.size):
            s = sigmoid32(xs[i])
            dxs[i] = dys[i] * s * (_ONE + xs[i] * (_ONE - s))


def _forward(name: str, loop: Any) -> None:
    @kernel(name, device="cpu")
    def run(x: Any) -> Any:
        y = np.empty(x.shape, dtype=x.dtype)
        loop(flat(x), y.reshape(-1))
        return y


def _backward(name: str, loop: Any) -> None:
    @kernel(name, device="cpu")
    def run(dy: Any, x: Any) -> Any:
        expect(name, x.shape, dy=dy)
        dx = np.empty(x.shape, dtype=x.dtype)
        loop(flat(dy), flat(x), dx.reshape(-1))
        return dx


for _name, _loop, _loop_backward in (
    ("gelu", _gelu, _gelu_backward),
    ("gelu_tanh", _gelu_tanh, _gelu_tanh_backward),
    ("silu", _silu, _silu_backward),
):
    _forward(_name, _loop)
    _backward(f"{_name}_backward", _loop_backward)
