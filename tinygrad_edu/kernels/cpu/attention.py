"""Attention by blocks of queries: the T x T weights of a head never leave the cache.

Each task takes one head of one sequence. Its products are single-threaded BLAS calls on blocks of queries, with
causal blocks cut off where no query looks any more; the softmax between them is a vector loop.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import get_num_threads, prange, types

from ...backend import kernel
from .blas import NO_TRANSPOSE, ROW_MAJOR, TRANSPOSE, available, one_thread, sgemm_in_loop
from .common import exp32, expect, has_nan, inline, largest, parallel_for
from .dropout import uniform

_BLOCK = 128  # queries at a time
_ZERO, _ONE, _INF = np.float32(0), np.float32(1), np.float32(np.inf)


@inline
def _product(trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):  # type: ignore[no-untyped-def]
    sgemm_in_loop(
        np.int32(ROW_MAJOR),
        np.int32(trans_a),
        np.int32(trans_b),
        m,
        n,
        k,
        alpha,
        a,
        lda,
        b,
        ldb,
        beta,
        c,
        ldc,
    )


@inline
def _address(x, b, h, t):  # type: ignore[no-untyped-def]
    """Where row t of head h of sequence b begins."""
    return x.ctypes.data + b * x.strides[0] + h * x.strides[1] + t * x.strides[2]


# Heads come as views of many layouts: one form that takes any stride, instead of seconds of compiling for each.
_READ, _WRITE = (types.Array(types.float32, 4, "A", readonly=readonly) for readonly in (True, False))
_MASK = types.Array(types.boolean, 4, "A", readonly=True)
_ROWS = types.Array(types.float32, 3, "A")
_HOW = (types.boolean, types.float32, types.float32, types.uint64)  # causal, scale, dropout, seed


@parallel_for(_READ, _READ, _READ, _MASK, types.boolean, *_HOW, _WRITE, _ROWS, types.float32[:, :, ::1])
def _forward(q, k, v, mask, masked, causal, scale, dropout, seed, y, lse, scratch):  # type: ignore[no-untyped-def]
    batch, heads, length, dim = q.shape
    keys = k.shape[2]
    parts = scratch.shape[0]
    keep = _ONE / (_ONE - dropout)
    tasks = batch * heads
    for part in prange(parts):
        scores = scratch[part]
        for task in range(tasks * part // parts, tasks * (part + 1) // parts):
            b, h = task // heads, task % heads
            for first in range(0, length, _BLOCK):
                rows = min(_BLOCK, length - first)
                seen = min(keys, max(0, first + rows + keys - length)) if causal else keys
                if seen > 0:
                    _product(
                        NO_TRANSPOSE, TRANSPOSE, rows, seen, dim, scale, _address(q, b, h, first), q.strides[2] // 4,
                        _address(k, b, h, 0), k.strides[2] // 4, _ZERO, scores.ctypes.data, keys,
                    )  # fmt: skip
                for t in range(rows):
                    row = scores[t]
                    limit = min(seen, max(0, first + t + 1 + keys - length)) if causal else keys
                    if masked:
                        for s in range(limit):
                            row[s] = row[s] if mask[b, h, first + t, s] else -_INF
                    top = largest(row[:limit])
                    if top == -_INF and not has_nan(row[:limit]):
                        lse[b, h, first + t] = _INF
                        row[:seen] = _ZERO
                        continue
                    total = _ZERO
                    for s in range(limit):
                        e = exp32(row[s] - top)
                        row[s] = e
                        total += e
                    row[limit:seen] = _ZERO
                    lse[b, h, first + t] = top + np.float32(math.log(total))
                    total = _ONE / total
                    for s in range(limit):
                        row[s] *= total
                    if dropout > 0:
                        base = ((b * heads + h) * length + first + t) * keys
                        for s in range(limit):
                            row[s] *= keep if uniform(seed, base + s) >= dropout else _ZERO
                if seen > 0:
                    _product(
                        NO_TRANSPOSE, NO_TRANSPOSE, rows, dim, seen, _ONE, scores.ctypes.data, keys,
                        _address(v, b, h, 0), v.strides[2] // 4, _ZERO, _address(y, b, h, first), y.strides[2] // 4,
                    )  # fmt: skip
                else:
                    y[b, h, first : first + rows] = _ZERO


@inline
def _row_gradient(p, dp, log_total, delta, scale, dropout, keep, seed, base):  # type: ignore[no-untyped-def]
    """Scores become P and dP becomes dS, for one query."""
    if dropout > 0:
        for s in range(p.size):
            e = exp32(p[s] - log_total)
            factor = keep if uniform(seed, base + s) >= dropout else _ZERO
            dp[s] = e * (dp[s] * factor - delta) * scale
            p[s] = e * factor
    else:
        for s in range(p.size):
            e = exp32(p[s] - log_total)
            dp[s] = e * (dp[s] - delta) * scale
            p[s] = e


@parallel_for(*(_READ,) * 4, _MASK, types.boolean, _READ, _ROWS, *_HOW, *(_WRITE,) * 3, types.float32[:, :, :, ::1])
def _backward(  # type: ignore[no-untyped-def]
    dy, q, k, v, mask, masked, y, lse, causal, scale, dropout, seed, dq, dk, dv, scratch
):
    batch, heads, length, dim = q.shape
    keys = k.shape[2]
    parts = scratch.shape[0]
    keep = _ONE / (_ONE - dropout)
    tasks = batch * heads
    for part in prange(parts):
        probs, dprobs = scratch[part, 0], scratch[part, 1]
        for task in range(tasks * part // parts, tasks * (part + 1) // parts):
            b, h = task // heads, task % heads
            dk[b, h] = _ZERO
            dv[b, h] = _ZERO
            for first in range(0, length, _BLOCK):
                rows = min(_BLOCK, length - first)
                seen = min(keys, max(0, first + rows + keys - length)) if causal else keys
                if seen == 0:
                    dq[b, h, first : first + rows] = _ZERO
                    continue
                q_rows, dy_rows = _address(q, b, h, first), _address(dy, b, h, first)
                _product(
                    NO_TRANSPOSE, TRANSPOSE, rows, seen, dim, scale, q_rows, q.strides[2] // 4,
                    _address(k, b, h, 0), k.strides[2] // 4, _ZERO, probs.ctypes.data, keys,
                )  # fmt: skip
                _product(
                    NO_TRANSPOSE, TRANSPOSE, rows, seen, dim, _ONE, dy_rows, dy.strides[2] // 4,
                    _address(v, b, h, 0), v.strides[2] // 4, _ZERO, dprobs.ctypes.data, keys,
                )  # fmt: skip
                for t in range(rows):
                    p, dp = probs[t], dprobs[t]
                    limit = min(seen, max(0, first + t + 1 + keys - length)) if causal else keys
                    log_total = lse[b, h, first + t]
                    delta = _ZERO
                    for d in range(dim):
                        delta += dy[b, h, first + t, d] * y[b, h, first + t, d]
                    if masked:
                        for s in range(limit):
                            p[s] = p[s] if mask[b, h, first + t, s] else -_INF
                    base = ((b * heads + h) * length + first + t) * keys
                    _row_gradient(p[:limit], dp[:limit], log_total, delta, scale, dropout, keep, seed, base)
                    p[limit:seen] = _ZERO
                    dp[limit:seen] = _ZERO
                _product(
                    TRANSPOSE, NO_TRANSPOSE, seen, dim, rows, _ONE, probs.ctypes.data, keys,
                    dy_rows, dy.strides[2] // 4, _ONE, _address(dv, b, h, 0), dv.strides[2] // 4,
                )  # fmt: skip
                _product(
                    NO_TRANSPOSE, NO_TRANSPOSE, rows, dim, seen, _ONE, dprobs.ctypes.data, keys,
                    _address(k, b, h, 0), k.strides[2] // 4, _ZERO, _address(dq, b, h, first), dq.strides[2] // 4,
                )  # fmt: skip
                _product(
                    TRANSPOSE, NO_TRANSPOSE, seen, dim, rows, _ONE, dprobs.ctypes.data, keys,
                    q_rows, q.strides[2] // 4, _ONE, _address(dk, b, h, 0), dk.strides[2] // 4,
                )  # fmt: skip


def _readable(x: Any) -> Any:
    """`x` itself if BLAS can read its rows as they lie, else a contiguous copy."""
    ok = x.strides[3] == 4 and x.strides[2] % 4 == 0 and x.strides[2] >= 4 * x.shape[3]
    return x if ok else np.ascontiguousarray(x)


def _by_time(batch: int, time: int, heads: int, dim: int) -> Any:
    """A (B, H, T, hd) view of a (B, T, H, hd) array, so that merging the heads again copies nothing."""
    return np.empty((batch, time, heads, dim), dtype=np.float32).transpose(0, 2, 1, 3)


def _mask(mask: Any, shape: tuple[int, ...]) -> Any:
    return np.ones((1, 1, 1, 1), dtype=bool) if mask is None else np.broadcast_to(mask, shape)


def attention(
    q: Any,
    k: Any,
    v: Any,
    mask: Any,
    causal: bool,
    scale: float,
    dropout: float = 0.0,
    seed: int = 0,
) -> Any:
    batch, heads, length, dim = q.shape
    keys = k.shape[2]
    expect("attention", (batch, heads, keys, dim), k=k, v=v)
    y, lse = _by_time(batch, length, heads, dim), np.empty((batch, heads, length), dtype=np.float32)
    scratch = np.empty((get_num_threads(), min(_BLOCK, length), keys), dtype=np.float32)
    if y.size and keys:
        with one_thread():
            _forward(
                _readable(q), _readable(k), _readable(v), _mask(mask, (batch, heads, length, keys)), mask is not None,
                causal, np.float32(scale), np.float32(dropout), np.uint64(seed), y, lse, scratch,
            )  # fmt: skip
    else:
        y.fill(0)
        lse.fill(np.inf)
    return y, lse[..., None]


def attention_backward(
    dy: Any,
    q: Any,
    k: Any,
    v: Any,
    mask: Any,
    y: Any,
    lse: Any,
    causal: bool,
    scale: float,
    dropout: float = 0.0,
    seed: int = 0,
) -> Any:
    batch, heads, length, dim = q.shape
    keys = k.shape[2]
    expect("attention_backward", q.shape, dy=dy, y=y)
    expect("attention_backward", (batch, heads, keys, dim), k=k, v=v)
    if length == keys:  # self-attention: the three side by side, as the packed projection wants them
        packed = np.empty((batch, length, 3, heads, dim), dtype=np.float32)
        dq, dk, dv = packed.transpose(2, 0, 3, 1, 4)
    else:
        dq, dk, dv = (_by_time(batch, time, heads, dim) for time in (length, keys, keys))
    scratch = np.empty((get_num_threads(), 2, min(_BLOCK, length), keys), dtype=np.float32)
    if dq.size and keys:
        with one_thread():
            _backward(
                _readable(dy), _readable(q), _readable(k), _readable(v), _mask(mask, (batch, heads, length, keys)),
                mask is not None, y, lse.reshape(batch, heads, length), causal, np.float32(scale),
                np.float32(dropout), np.uint64(seed), dq, dk, dv, scratch,
            )  # fmt: skip
    else:
        for gradient in (dq, dk, dv):
            gradient.fill(0)
    return dq, dk, dv


if available:
    kernel("attention", device="cpu")(attention)
    kernel("attention_backward", device="cpu")(attention_backward)
