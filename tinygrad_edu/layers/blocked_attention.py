"""Attention by blocks of queries and keys, which never holds the T x S weights."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ..backend import Array, Op, device_of, kernels_enabled, namespace, op, uniform_at
from ..errors import ConfigError
from .attention_ops import attention, attention_backward, masked_scores

BLOCK = 256
_LONG = 512 * 512


def attention_ops(q: Array, k: Array, v: Array) -> tuple[Op, Op]:
    """Forward and backward for these arrays: :func:`attention`, or :func:`blocked_attention` where that pays.

    A kernel that stands in for attention works by blocks itself, and is faster. Where none does (another element type,
    a GPU, no Numba, ``tg.reference_ops()``), blocks pay once T S reaches 512 x 512: on two cores, forward and backward
    in float64 (B 1, H 4, hd 64) took 1.1 times less at T 512, 1.4 times less at 2,048, and causal 1.6 and 2.5 times
    less, for there half the blocks are left out; at T 256 the two were alike. Memory is less from there on, too.

    Either may go back through the other's forward.
    """
    if q.shape[-2] * k.shape[-2] < _LONG:
        return attention, attention_backward
    alike = q.dtype == k.dtype == v.dtype
    if alike and kernels_enabled() and attention.kernel_for(device_of(q), q.dtype.name) is not None:
        return attention, attention_backward
    return blocked_attention, blocked_attention_backward


def _parts(length: int, block: int) -> Iterator[slice]:
    """0 to length in slices of `block`."""
    return (slice(start, min(start + block, length)) for start in range(0, length, block))


def _visible(rows: slice, length: int, keys: int, causal: bool, block: int) -> Iterator[slice]:
    """The blocks of keys that any of the queries in `rows` may see."""
    return _parts(max(0, min(keys, rows.stop + keys - length)) if causal else keys, block)


def _part_of_mask(mask: Array | None, rows: slice, cols: slice) -> Array | None:
    """The part of a mask, broadcastable to (B, H, T, S), for one block."""
    if mask is None:
        return None
    if mask.ndim > 1 and mask.shape[-2] > 1:
        mask = mask[..., rows, :]
    return mask[..., cols] if mask.ndim and mask.shape[-1] > 1 else mask


def _block_scores(
    q: Array, k: Array, mask: Array | None, causal: bool, scale: float, rows: slice, cols: slice
) -> Array:
    """Scores of one block, minus infinity where a query may not look."""
    ahead = rows.start - cols.start + k.shape[-2] - q.shape[-2]
    hides = causal and cols.stop - cols.start > ahead + 1  # the first query does not see the last key
    part = _part_of_mask(mask, rows, cols)
    return masked_scores(q[..., rows, :], k[..., cols, :], part, hides, scale, ahead)


def _block_factor(scores: Array, shape: tuple[int, ...], rows: slice, cols: slice, dropout: float, seed: int) -> Array:
    """The dropout factors of one block, the same numbers as for the whole of `shape`, (B, H, T, S)."""
    xp = namespace(scores)
    batch, heads, length, keys = shape
    first = xp.arange(batch * heads, dtype=xp.uint64).reshape(batch, heads, 1, 1) * xp.uint64(length * keys)
    row = xp.arange(rows.start, rows.stop, dtype=xp.uint64)[:, None] * xp.uint64(keys)
    noise = uniform_at(first + row + xp.arange(cols.start, cols.stop, dtype=xp.uint64), seed)
    return ((noise >= dropout) * (1 / (1 - dropout))).astype(scores.dtype)


def _check_block(block: int) -> None:
    if isinstance(block, bool) or not isinstance(block, int) or block < 1:
        raise ConfigError(f"blocked_attention: block must be an integer >= 1, got {block!r}")


@op
def blocked_attention(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None,
    causal: bool,
    scale: float,
    dropout: float = 0.0,
    seed: int = 0,
    block: int = BLOCK,
) -> tuple[Array, Array]:
    r""":func:`attention` with memory that grows with T and S, not with T S.

    Softmax needs its row's sum before it can weigh a value. Block by block of keys, the largest score m, the sum
    :math:`\sigma = \sum_s e^{S_{ts} - m}` and the weighted values :math:`a = \sum_s e^{S_{ts} - m} v_s` so far are
    carried along; when a block brings a larger score :math:`m'`, both are scaled to it (Milakov & Gimelshein, 2018):

    .. math:: \sigma' = e^{m - m'} \sigma + \sum_{s \in \text{block}} e^{S_{ts} - m'}, \qquad
              a' = e^{m - m'} a + \sum_{s \in \text{block}} e^{S_{ts} - m'} v_s

    In the end :math:`y = a / \sigma` and :math:`\ell = m + \log \sigma` (Rabe & Staats, 2021; Dao et al., 2022).
    Blocks of keys that are later than all queries of a block are never computed.

    Parameters
    ----------
    q, k, v, mask, causal, scale, dropout, seed : as in :func:`attention`; the same seed drops the same weights
    block : queries and keys of a block

    Returns
    -------
    y : (B, H, T, hd)
    lse : (B, H, T, 1), as :func:`attention` gives it

    Raises
    ------
    ConfigError
        If `block` is no integer >= 1.
    """
    _check_block(block)
    xp = namespace(q, k, v, mask)
    (batch, heads, length, _), keys = q.shape, k.shape[-2]
    y = xp.empty((batch, heads, length, v.shape[-1]), dtype=xp.result_type(q, k, v))
    lse = xp.empty((batch, heads, length, 1), dtype=xp.result_type(q, k))
    for rows in _parts(length, block):
        top = xp.full((batch, heads, rows.stop - rows.start, 1), -math.inf, dtype=lse.dtype)
        total, summed = xp.zeros_like(top), xp.zeros_like(y[:, :, rows])
        for cols in _visible(rows, length, keys, causal, block):
            scores = _block_scores(q, k, mask, causal, scale, rows, cols)
            new_top = xp.maximum(top, scores.max(axis=-1, keepdims=True))
            finite = xp.where(new_top == -math.inf, 0, new_top)  # -inf minus -inf would be NaN
            weights = xp.exp(scores - finite)
            shrink = xp.exp(top - finite)
            total = total * shrink + weights.sum(axis=-1, keepdims=True)
            if dropout:
                weights *= _block_factor(scores, (batch, heads, length, keys), rows, cols, dropout, seed)
            summed = summed * shrink + xp.matmul(weights, v[:, :, cols])
            top = new_top
        nowhere = top == -math.inf
        total = xp.where(nowhere, 1, total)
        y[:, :, rows] = summed / total
        lse[:, :, rows] = xp.where(nowhere, math.inf, top + xp.log(total))
    return y, lse


@op
def blocked_attention_backward(
    dy: Array,
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None,
    y: Array,
    lse: Array,
    causal: bool,
    scale: float,
    dropout: float = 0.0,
    seed: int = 0,
    block: int = BLOCK,
) -> tuple[Array, Array, Array]:
    r"""Gradient of :func:`blocked_attention`, that of :func:`attention` block by block.

    With :math:`\ell` known, a block of P needs nothing of the rest of its rows, and with
    :math:`\delta_t = dy_t \cdot y_t` neither does its gradient:

    .. math:: P_{ts} = e^{S_{ts} - \ell_t}, \qquad dS_{ts} = P_{ts} (dy_t \cdot v_s - \delta_t)

    So each block adds its part to dq, dk and dv, and is forgotten.

    Returns
    -------
    dq : (B, H, T, hd); dk, dv : (B, H, S, hd)
    """
    _check_block(block)
    xp = namespace(dy, q)
    (batch, heads, length, _), keys = q.shape, k.shape[-2]
    kind = xp.result_type(dy, q, k, v)
    dq, dk, dv = (xp.zeros(x.shape, dtype=kind) for x in (q, k, v))
    for rows in _parts(length, block):
        dy_rows = dy[:, :, rows]
        delta = (dy_rows * y[:, :, rows]).sum(axis=-1, keepdims=True)
        for cols in _visible(rows, length, keys, causal, block):
            probs = xp.exp(_block_scores(q, k, mask, causal, scale, rows, cols) - lse[:, :, rows])
            dprobs = xp.matmul(dy_rows, v[:, :, cols].swapaxes(-1, -2))
            dropped = probs
            if dropout:
                factor = _block_factor(probs, (batch, heads, length, keys), rows, cols, dropout, seed)
                dropped, dprobs = probs * factor, dprobs * factor
            dv[:, :, cols] += xp.matmul(dropped.swapaxes(-1, -2), dy_rows)
            dscores = probs * (dprobs - delta) * scale
            dq[:, :, rows] += xp.matmul(dscores, k[:, :, cols])
            dk[:, :, cols] += xp.matmul(dscores.swapaxes(-1, -2), q[:, :, rows])
    return dq, dk, dv
