"""Attention by blocks of queries and keys: the T x S weights of a head never leave the cache.

Softmax needs a row's largest score and its sum of exponentials before it can weigh a value; taken block by block, both
are carried along, and what was summed so far is scaled whenever a larger score turns up (Milakov & Gimelshein, 2018;
Dao et al., 2022). The products of a block are single-threaded calls of BLAS, the softmax between them vector loops. A
block of keys stays in the cache while all queries pass it. Blocks that no query may look at are left out.
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

_ZERO, _ONE, _INF = np.float32(0), np.float32(1), np.float32(np.inf)

# Up to a million multiplications OpenBLAS takes kernels for small matrices, which copy nothing: 64 x 240 x 64 ran at
# 225 GFLOP/s on two cores of a Zen 4, 128 x 512 x 64 at 190, and at 165 with the second matrix transposed, for which
# small ones are slow too (120). So blocks of keys are transposed here, once for all queries. Few queries and many keys
# in a block read and write less between the products: a backward pass took 264 ms with 64 x 240, 230 with 32 x 448.
_QUERIES, _SMALL_PRODUCT, _MOST_KEYS = 32, 1_000_000, 512
_FEW_QUERIES = 32  # below, as in generation, transposing the keys costs more than it brings


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


@inline
def _copy_transposed(x, b, h, first, count, out):  # type: ignore[no-untyped-def]
    """out[d, s] = x[b, h, first + s, d], in tiles of 16 rows, which stay in the cache."""
    for tile in range(0, count, 16):
        rows = min(16, count - tile)
        for d in range(x.shape[3]):
            for s in range(rows):
                out[d, tile + s] = x[b, h, first + tile + s, d]


@inline
def _times_transposed(rows, seen, dim, alpha, a, lda, x, b, h, first, turned, direct, out):  # type: ignore[no-untyped-def]
    """out = alpha a x^T for keys or values x: from their transposed copy, or `direct` from where they lie."""
    if direct:
        _product(
            NO_TRANSPOSE, TRANSPOSE, rows, seen, dim, alpha, a, lda, _address(x, b, h, first), x.strides[2] // 4,
            _ZERO, out.ctypes.data, out.shape[1],
        )  # fmt: skip
    else:
        _product(
            NO_TRANSPOSE, NO_TRANSPOSE, rows, seen, dim, alpha, a, lda, turned.ctypes.data, turned.shape[1],
            _ZERO, out.ctypes.data, out.shape[1],
        )  # fmt: skip


@inline
def _look(mask, b, h, t, first, count, out):  # type: ignore[no-untyped-def]
    """Copy part of a row of the mask; whether any of it is True."""
    found = False
    for s in range(count):
        out[s] = mask[b, h, t, first + s]
        found |= out[s]
    return found


# Heads come as views of many layouts: one form that takes any stride, instead of seconds of compiling for each.
_READ, _WRITE = (types.Array(types.float32, 4, "A", readonly=readonly) for readonly in (True, False))
_MASK = types.Array(types.boolean, 4, "A", readonly=True)
_ROWS = types.Array(types.float32, 3, "A")
_HOW = (types.boolean, types.float32, types.float32, types.uint64)  # causal, scale, dropout, seed
_BLOCK = types.float32[:, :, ::1]
_PLAN = (types.int64, types.int64, types.boolean)  # parts, split, direct


@parallel_for(
    _READ,
    _READ,
    _READ,
    _MASK,
    types.boolean,
    *_HOW,
    _WRITE,
    _ROWS,
    _ROWS,
    *_PLAN,
    _BLOCK,
    _BLOCK,
    types.boolean[:, ::1],
)
def _forward(  # type: ignore[no-untyped-def]
    q, k, v, mask, masked, causal, scale, dropout, seed, y, lse, totals, parts, split, direct, scratch, turned, looks
):
    batch, heads, length, dim = q.shape
    keys, width = k.shape[2], scratch.shape[2]
    keep = _ONE / (_ONE - dropout)
    alike = mask.strides[2] == 0  # the same for all queries, as padding is
    units = batch * heads * split
    for part in prange(parts):
        scores, k_turned, look = scratch[part], turned[part], looks[part]
        for unit in range(units * part // parts, units * (part + 1) // parts):
            b, h, share = unit // split // heads, unit // split % heads, unit % split
            for first in range(share * _QUERIES, length, split * _QUERIES):
                rows = min(_QUERIES, length - first)
                y[b, h, first : first + rows] = _ZERO
                totals[b, h, first : first + rows] = _ZERO
                lse[b, h, first : first + rows] = -_INF
            for begin in range(0, keys, width):
                count = min(width, keys - begin)
                if masked and alike and not _look(mask, b, h, 0, begin, count, look):
                    continue
                if not direct:
                    _copy_transposed(k, b, h, begin, count, k_turned)
                for first in range(share * _QUERIES, length, split * _QUERIES):
                    rows = min(_QUERIES, length - first)
                    seen = min(count, first + rows + keys - length - begin) if causal else count
                    if seen <= 0:
                        continue
                    _times_transposed(
                        rows, seen, dim, scale, _address(q, b, h, first), q.strides[2] // 4, k, b, h, begin,
                        k_turned, direct, scores,
                    )  # fmt: skip
                    for t in range(rows):
                        at = first + t
                        limit = min(seen, max(0, at + 1 + keys - length - begin)) if causal else seen
                        row = scores[t, :limit]
                        if masked:
                            if not alike:
                                _look(mask, b, h, at, begin, limit, look)
                            for s in range(limit):
                                row[s] = row[s] if look[s] else -_INF
                        before = lse[b, h, at]  # the largest so far
                        top = max(before, largest(row))
                        scores[t, limit:seen] = _ZERO
                        if top == -_INF and not has_nan(row):
                            row[:] = _ZERO
                            continue
                        total = _ZERO
                        for s in range(limit):
                            e = exp32(row[s] - top)
                            row[s] = e
                            total += e
                        if dropout > 0:
                            base = ((b * heads + h) * length + at) * keys + begin
                            for s in range(limit):
                                row[s] *= keep if uniform(seed, base + s) >= dropout else _ZERO
                        if top > before and before > -_INF:
                            factor = exp32(before - top)
                            totals[b, h, at] *= factor
                            for d in range(dim):
                                y[b, h, at, d] *= factor
                        totals[b, h, at] += total
                        lse[b, h, at] = top
                    _product(
                        NO_TRANSPOSE, NO_TRANSPOSE, rows, dim, seen, _ONE, scores.ctypes.data, width,
                        _address(v, b, h, begin), v.strides[2] // 4, _ONE, _address(y, b, h, first), y.strides[2] // 4,
                    )  # fmt: skip
            for first in range(share * _QUERIES, length, split * _QUERIES):
                for at in range(first, min(first + _QUERIES, length)):
                    total = totals[b, h, at]
                    if total == _ZERO:
                        lse[b, h, at] = _INF
                        continue
                    lse[b, h, at] += np.float32(math.log(total))
                    total = _ONE / total
                    for d in range(dim):
                        y[b, h, at, d] *= total


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


@parallel_for(
    *(_READ,) * 4, _MASK, types.boolean, _READ, _ROWS, *_HOW, *(_WRITE,) * 3,
    types.Array(types.float32, 5, "A"), types.float32[:, ::1],
    *_PLAN, types.float32[:, :, :, ::1], types.float32[:, :, :, ::1], types.boolean[:, ::1],
)  # fmt: skip
def _backward(  # type: ignore[no-untyped-def]
    dy, q, k, v, mask, masked, y, lse, causal, scale, dropout, seed, dq, dk, dv, more_dq, deltas,
    parts, split, direct, scratch, turned, looks,
):  # fmt: skip
    batch, heads, length, dim = q.shape
    keys, width = k.shape[2], scratch.shape[3]
    keep = _ONE / (_ONE - dropout)
    alike = mask.strides[2] == 0
    units = batch * heads * split
    for part in prange(parts):
        probs, dprobs, look = scratch[part, 0], scratch[part, 1], looks[part]
        k_turned, v_turned = turned[part, 0], turned[part, 1]
        for unit in range(units * part // parts, units * (part + 1) // parts):
            b, h, share = unit // split // heads, unit // split % heads, unit % split
            # Shares of one head meet in the gradients of all queries, so each has its own sum of them.
            own_dq = dq if share == 0 else more_dq[share - 1]
            delta = deltas[part]
            for t in range(length):
                own_dq[b, h, t] = _ZERO
                total = _ZERO
                for d in range(dim):
                    total += dy[b, h, t, d] * y[b, h, t, d]
                delta[t] = total
            for begin in range(share * width, keys, split * width):
                count = min(width, keys - begin)
                dk[b, h, begin : begin + count] = _ZERO
                dv[b, h, begin : begin + count] = _ZERO
                if masked and alike and not _look(mask, b, h, 0, begin, count, look):
                    continue
                if not direct:
                    _copy_transposed(k, b, h, begin, count, k_turned)
                    _copy_transposed(v, b, h, begin, count, v_turned)
                for first in range(0, length, _QUERIES):
                    rows = min(_QUERIES, length - first)
                    seen = min(count, first + rows + keys - length - begin) if causal else count
                    if seen <= 0:
                        continue
                    q_rows, dy_rows = _address(q, b, h, first), _address(dy, b, h, first)
                    _times_transposed(
                        rows, seen, dim, scale, q_rows, q.strides[2] // 4, k, b, h, begin, k_turned, direct, probs
                    )
                    _times_transposed(
                        rows, seen, dim, _ONE, dy_rows, dy.strides[2] // 4, v, b, h, begin, v_turned, direct, dprobs
                    )
                    for t in range(rows):
                        at = first + t
                        limit = min(seen, max(0, at + 1 + keys - length - begin)) if causal else seen
                        p, dp = probs[t, :limit], dprobs[t, :limit]
                        if masked:
                            if not alike:
                                _look(mask, b, h, at, begin, limit, look)
                            for s in range(limit):
                                p[s] = p[s] if look[s] else -_INF
                        base = ((b * heads + h) * length + at) * keys + begin
                        _row_gradient(p, dp, lse[b, h, at], delta[at], scale, dropout, keep, seed, base)
                        probs[t, limit:seen] = _ZERO
                        dprobs[t, limit:seen] = _ZERO
                    _product(
                        TRANSPOSE, NO_TRANSPOSE, seen, dim, rows, _ONE, probs.ctypes.data, width,
                        dy_rows, dy.strides[2] // 4, _ONE, _address(dv, b, h, begin), dv.strides[2] // 4,
                    )  # fmt: skip
                    _product(
                        NO_TRANSPOSE, NO_TRANSPOSE, rows, dim, seen, _ONE, dprobs.ctypes.data, width,
                        _address(k, b, h, begin), k.strides[2] // 4,
                        _ONE, _address(own_dq, b, h, first), own_dq.strides[2] // 4,
                    )  # fmt: skip
                    _product(
                        TRANSPOSE, NO_TRANSPOSE, seen, dim, rows, _ONE, dprobs.ctypes.data, width,
                        q_rows, q.strides[2] // 4, _ONE, _address(dk, b, h, begin), dk.strides[2] // 4,
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


def _width(queries: int, keys: int, dim: int) -> int:
    """Keys of a block: blocks alike in size, of products that OpenBLAS takes for small ones."""
    rows = min(_QUERIES, queries)
    most = max(64, _SMALL_PRODUCT // (rows * dim) // 64 * 64)
    if queries >= _FEW_QUERIES:
        most = min(most, _MOST_KEYS)
    blocks = -(-keys // most)
    return -(-keys // blocks // 64) * 64  # of which a vector loop leaves no rest


def _shares(heads: int, parts: int, blocks: int) -> int:
    """Into how many shares the work of one head is cut, so that all threads have about the same to do."""
    return 1 if heads >= 4 * parts else min(blocks, parts // math.gcd(heads, parts))


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
    if not (y.size and keys):
        y.fill(0)
        lse.fill(np.inf)
        return y, lse[..., None]
    parts, width, direct = get_num_threads(), _width(length, keys, dim), length < _FEW_QUERIES
    split = _shares(batch * heads, parts, -(-length // _QUERIES))
    with one_thread():
        _forward(
            _readable(q), _readable(k), _readable(v), _mask(mask, (batch, heads, length, keys)), mask is not None,
            causal, np.float32(scale), np.float32(dropout), np.uint64(seed), y, lse, np.empty_like(lse),
            parts, split, direct, np.empty((parts, min(_QUERIES, length), width), dtype=np.float32),
            np.empty((parts, 0 if direct else dim, width), dtype=np.float32), np.empty((parts, width), dtype=bool),
        )  # fmt: skip
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
    if not (dq.size and keys):
        for gradient in (dq, dk, dv):
            gradient.fill(0)
        return dq, dk, dv
    parts, width, direct = get_num_threads(), _width(length, keys, dim), length < _FEW_QUERIES
    split = _shares(batch * heads, parts, -(-keys // width))
    more_dq = np.empty((split - 1, batch, heads, length, dim), dtype=np.float32)
    with one_thread():
        _backward(
            _readable(dy), _readable(q), _readable(k), _readable(v), _mask(mask, (batch, heads, length, keys)),
            mask is not None, y, lse.reshape(batch, heads, length), causal, np.float32(scale), np.float32(dropout),
            np.uint64(seed), dq, dk, dv, more_dq, np.empty((parts, length), dtype=np.float32),
            parts, split, direct, np.empty((parts, 2, min(_QUERIES, length), width), dtype=np.float32),
            np.empty((parts, 2, 0 if direct else dim, width), dtype=np.float32),
            np.empty((parts, width), dtype=bool),
        )  # fmt: skip
    for share in more_dq:
        dq += share
    return dq, dk, dv


if available:
    kernel("attention", device="cpu")(attention)
    kernel("attention_backward", device="cpu")(attention_backward)
