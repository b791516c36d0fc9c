"""Layer and root-mean-square normalisation: one pass a row, rows in parallel."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import get_num_threads, prange

from ...backend import kernel
from .common import expect, parallel, rows_of


@parallel
def _layernorm(x, weight, bias, eps, y, mean, rstd):  # type: ignore[no-untyped-def]
    rows, channels = x.shape
    for n in prange(rows):
        total = np.float32(0)
        for c in range(channels):
            total += x[n, c]
        mu = total / np.float32(channels)
        total = np.float32(0)
        for c in range(channels):
            total += (x[n, c] - mu) * (x[n, c] - mu)
        r = np.float32(1) / np.sqrt(total / np.float32(channels) + eps)
        for c in range(channels):
            y[n, c] = (x[n, c] - mu) * r * weight[c] + bias[c]
        mean[n], rstd[n] = mu, r


@parallel
def _layernorm_backward(dy, x, weight, mean, rstd, dx, dweight, dbias):  # type: ignore[no-untyped-def]
    rows, channels = x.shape
    parts = dweight.shape[0]  # each part of the rows has sums of its own
    for part in prange(parts):
        for n in range(rows * part // parts, rows * (part + 1) // parts):
            mu, r = mean[n], rstd[n]
            total, product = np.float32(0), np.float32(0)
            for c in range(channels):
                dxhat = dy[n, c] * weight[c]
                total += dxhat
                product += dxhat * ((x[n, c] - mu) * r)
            total /= np.float32(channels)
            product /= np.float32(channels)
            for c in range(channels):
                xhat = (x[n, c] - mu) * r
                dx[n, c] = r * (dy[n, c] * weight[c] - total - xhat * product)
                dweight[part, c] += dy[n, c] * xhat
                dbias[part, c] += dy[n, c]


@parallel
def _rmsnorm(x, weight, eps, y, rrms):  # type: ignore[no-untyped-def]
    rows, channels = x.shape
    for n in prange(rows):
        total = np.float32(0)
        for c in range(channels):
            total += x[n, c] * x[n, c]
        r = np.float32(1) / np.sqrt(total / np.float32(channels) + eps)
        for c in range(channels):
            y[n, c] = x[n, c] * r * weight[c]
        rrms[n] = r


@parallel
def _rmsnorm_backward(dy, x, weight, rrms, dx, dweight):  # type: ignore[no-untyped-def]
    rows, channels = x.shape
    parts = dweight.shape[0]
    for part in prange(parts):
        for n in range(rows * part // parts, rows * (part + 1) // parts):
            r = rrms[n]
            product = np.float32(0)
            for c in range(channels):
                product += dy[n, c] * weight[c] * x[n, c] * r
            product /= np.float32(channels)
            for c in range(channels):
                xhat = x[n, c] * r
                dx[n, c] = r * (dy[n, c] * weight[c] - xhat * product)
                dweight[part, c] += dy[n, c] * xhat


def _parts(rows: int) -> int:
    """In how many parts the rows are summed: enough for all threads, and short enough to keep float32's digits."""
    return max(get_num_threads(), -(-rows // 128))


@kernel("layernorm", device="cpu")
def layernorm(x: Any, weight: Any, bias: Any, eps: float) -> Any:
    expect("layernorm", x.shape[-1:], weight=weight, bias=bias)
    rows = rows_of(x)
    y = np.empty_like(rows)
    mean, rstd = np.empty(len(rows), dtype=x.dtype), np.empty(len(rows), dtype=x.dtype)
    _layernorm(rows, weight, bias, np.float32(eps), y, mean, rstd)
    one = (*x.shape[:-1], 1)
    return y.reshape(x.shape), mean.reshape(one), rstd.reshape(one)


@kernel("layernorm_backward", device="cpu")
def layernorm_backward(dy: Any, x: Any, weight: Any, mean: Any, rstd: Any) -> Any:
    expect("layernorm_backward", x.shape, dy=dy)
    expect("layernorm_backward", x.shape[-1:], weight=weight)
    expect("layernorm_backward", (*x.shape[:-1], 1), mean=mean, rstd=rstd)
    rows = rows_of(x)
    dx = np.empty_like(rows)
    sums = np.zeros((2, _parts(len(rows)), x.shape[-1]), dtype=x.dtype)
    _layernorm_backward(rows_of(dy), rows, weight, mean.reshape(-1), rstd.reshape(-1), dx, sums[0], sums[1])
    dweight, dbias = sums.sum(axis=1)
    return dx.reshape(x.shape), dweight, dbias


@kernel("rmsnorm", device="cpu")
def rmsnorm(x: Any, weight: Any, eps: float) -> Any:
    expect("rmsnorm", x.shape[-1:], weight=weight)
    rows = rows_of(x)
    y, rrms = np.empty_like(rows), np.empty(len(rows), dtype=x.dtype)
    _rmsnorm(rows, weight, np.float32(eps), y, rrms)
    return y.reshape(x.shape), rrms.reshape(*x.shape[:-1], 1)


@kernel("rmsnorm_backward", device="cpu")
def rmsnorm_backward(dy: Any, x: Any, weight: Any, rrms: Any) -> Any:
    expect("rmsnorm_backward", x.shape, dy=dy)
    expect("rmsnorm_backward", x.shape[-1:], weight=weight)
    expect("rmsnorm_backward", (*x.shape[:-1], 1), rrms=rrms)
    rows = rows_of(x)
    dx = np.empty_like(rows)
    dweight = np.zeros((_parts(len(rows)), x.shape[-1]), dtype=x.dtype)
    _rmsnorm_backward(rows_of(dy), rows, weight, rrms.reshape(-1), dx, dweight)
    return dx.reshape(x.shape), dweight.sum(axis=0)
