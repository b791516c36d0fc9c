"""The optimizers' updates and averaged weights over the flat buffer in one pass each, and the gradient norm."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import prange

from ...backend import kernel
from .common import expect, flat, parallel

_CHUNK = 16384


@parallel
def _adam(data, grad, m, v, keep, l2, beta1, beta2, step_size, root_scale, eps, scale):  # type: ignore[no-untyped-def]
    one = np.float32(1)
    for chunk in prange((data.size + _CHUNK - 1) // _CHUNK):
        part = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        w, g, first, second = data[part], grad[part], m[part], v[part]
        for i in range(w.size):
            slope = scale * g[i] + l2 * w[i]
            first[i] = beta1 * first[i] + (one - beta1) * slope
            second[i] = beta2 * second[i] + (one - beta2) * slope * slope
            w[i] = keep * w[i] - step_size * first[i] / (np.sqrt(second[i]) * root_scale + eps)


@parallel
def _sgd(data, grad, velocity, lr, momentum, nesterov, l2, scale):  # type: ignore[no-untyped-def]
    """`velocity` is empty without momentum."""
    for chunk in prange((data.size + _CHUNK - 1) // _CHUNK):
        part = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        w, g, v = data[part], grad[part], velocity[part]
        if v.size:
            for i in range(w.size):
                slope = scale * g[i] + l2 * w[i]
                v[i] = momentum * v[i] + slope
                w[i] -= lr * (slope + momentum * v[i] if nesterov else v[i])
        else:
            for i in range(w.size):
                w[i] -= lr * (scale * g[i] + l2 * w[i])


@parallel
def _ema(average, data, share):  # type: ignore[no-untyped-def]
    for chunk in prange((data.size + _CHUNK - 1) // _CHUNK):
        part = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        a, w = average[part], data[part]
        for i in range(w.size):
            a[i] += share * (w[i] - a[i])


@parallel
def _squared_sum(x, sums):  # type: ignore[no-untyped-def]
    for chunk in prange(sums.size):
        total = np.float32(0)
        part = x[chunk * _CHUNK : (chunk + 1) * _CHUNK]
        for i in range(part.size):
            total += part[i] * part[i]
        sums[chunk] = total


@kernel("adam_update", device="cpu")
def adam_update(
    data: Any,
    grad: Any,
    exp_avg: Any,
    exp_avg_sq: Any,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    grad_scale: float,
) -> None:
    expect("adam_update", data.shape, grad=grad, exp_avg=exp_avg, exp_avg_sq=exp_avg_sq)
    f = np.float32
    _adam(
        data,
        grad,
        exp_avg,
        exp_avg_sq,
        f(1 - lr * weight_decay if decoupled else 1),
        f(0 if decoupled else weight_decay),
        f(beta1),
        f(beta2),
        f(lr / (1 - beta1**step)),
        f(1 / math.sqrt(1 - beta2**step)),
        f(eps),
        f(grad_scale),
    )


@kernel("sgd_update", device="cpu")
def sgd_update(
    data: Any,
    grad: Any,
    velocity: Any,
    lr: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    grad_scale: float,
) -> None:
    expect("sgd_update", data.shape, grad=grad, **({} if velocity is None else {"velocity": velocity}))
    f = np.float32
    none = np.empty(0, dtype=data.dtype)
    _sgd(
        data, grad, none if velocity is None else velocity, f(lr), f(momentum), bool(nesterov),
        f(weight_decay), f(grad_scale),
    )  # fmt: skip


@kernel("ema_update", device="cpu")
def ema_update(average: Any, data: Any, decay: float) -> None:
    expect("ema_update", data.shape, average=average)
    _ema(average, data, np.float32(1 - decay))


@kernel("squared_sum", device="cpu")
def squared_sum(x: Any) -> Any:
    """Sums of 16,384 squares in float32, and these in float64: a sum over 60 million elements keeps its digits."""
    x = flat(x)
    sums = np.empty(-(-x.size // _CHUNK), dtype=np.float64)
    _squared_sum(x, sums)
    return sums.sum()
