"""Scaled dot-product attention: the ops."""

from __future__ import annotations

import math

from ..backend import Array, namespace, op, random_uniform


def masked_scores(
    q: Array, k: Array, mask: Array | None, causal: bool, scale: float, ahead: int | None = None
) -> Array:
    """q k^T * scale, minus infinity where a query may not look: (B, H, T, S).

    With `causal`, query t sees keys up to t + ahead. If not given, the last query sees the last key: with a cache, the
    queries are the end of the sequence.
    """
    xp = namespace(q, k, mask)
    scores = xp.matmul(q, k.swapaxes(-1, -2)) * scale
    length, keys = scores.shape[-2:]
    if causal:
        seen = xp.arange(keys)[None, :] <= xp.arange(length)[:, None] + (keys - length if ahead is None else ahead)
        scores = xp.where(seen, scores, -math.inf)
    if mask is not None:
        scores = xp.where(mask, scores, -math.inf)
    return scores


def _log_sums(scores: Array) -> Array:
    """The l of :func:`attention`, (B, H, T, 1); +inf for a row that may look nowhere, so that its weights are zero."""
    xp = namespace(scores)
    top = scores.max(axis=-1, keepdims=True)
    nowhere = top == -math.inf
    top = xp.where(nowhere, 0, top)  # -inf minus -inf would be NaN
    total = xp.exp(scores - top).sum(axis=-1, keepdims=True)
    return xp.where(nowhere, math.inf, top + xp.log(xp.where(nowhere, 1, total)))


def attention_weights(q: Array, k: Array, mask: Array | None, causal: bool, scale: float) -> Array:
    """The P of :func:`attention`, (B, H, T, S), to be looked at: it is the largest array, and nothing else needs it.

    Parameters
    ----------
    q, k, mask, causal, scale : as in :func:`attention`

    Returns
    -------
    Rows that sum to one; zeros where a query may look nowhere.
    """
    scores = masked_scores(q, k, mask, causal, scale)
    return namespace(scores).exp(scores - _log_sums(scores))


def _dropout_factor(probs: Array, dropout: float, seed: int) -> Array:
    """0 or 1/(1-p) for each attention weight, recomputed from the seed."""
    return (random_uniform(probs, seed) >= dropout) * (1 / (1 - dropout))


@op
def attention(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None,
    causal: bool,
    scale: float,
    dropout: float = 0.0,
    seed: int = 0,
) -> tuple[Array, Array]:
    r"""Scaled dot-product attention (Vaswani et al., 2017).

    .. math:: S = \text{scale}\; q k^\top, \qquad P_{ts} = e^{S_{ts} - \ell_t}, \quad
              \ell_t = \log \sum_s e^{S_{ts}}, \qquad y = P v

    Kept for the backward pass is only :math:`\ell`, one number a row, from which P is computed again
    (Dao et al., 2022): a fast kernel then never holds P in memory. A row that may look nowhere gives zeros.

    Parameters
    ----------
    q : (B, H, T, hd)
    k, v : (B, H, S, hd)
    mask : bool, broadcastable to (B, H, T, S), True where a query may look; or None
    causal : query t (counted from the end) sees no key after it
    scale : usually 1/sqrt(hd)
    dropout, seed : probability with which a weight in P is dropped, and the seed of that noise

    Returns
    -------
    y : (B, H, T, hd)
    lse : (B, H, T, 1), the l above; +inf for a row that may look nowhere
    """
    xp = namespace(q, k, v)
    scores = masked_scores(q, k, mask, causal, scale)
    lse = _log_sums(scores)
    probs = xp.exp(scores - lse)
    if dropout:
        probs = probs * _dropout_factor(probs, dropout, seed).astype(probs.dtype)
    return xp.matmul(probs, v), lse


@op
def attention_backward(
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
) -> tuple[Array, Array, Array]:
    r"""Gradient of :func:`attention`.

    The product ``y = P v`` gives :math:`dv = P^\top dy` and :math:`dP = dy\,v^\top`. Softmax gives

    .. math:: dS = P \circ (dP - \delta), \qquad \delta_t = \textstyle\sum_s P_{ts}\,dP_{ts} = dy_t \cdot y_t

    (the last step because :math:`\sum_s P_{ts}\,(dy_t \cdot v_s) = dy_t \cdot \sum_s P_{ts} v_s`), and the
    first product gives :math:`dq = \text{scale}\,dS\,k`, :math:`dk = \text{scale}\,dS^\top q`.
    With dropout, v meets the dropped P, and dP passes through the same factors.

    Returns
    -------
    dq : (B, H, T, hd); dk, dv : (B, H, S, hd)
    """
    xp = namespace(dy, q)
    probs = xp.exp(masked_scores(q, k, mask, causal, scale) - lse)  # (B, H, T, S)
    dprobs = xp.matmul(dy, v.swapaxes(-1, -2))
    if dropout:
        factor = _dropout_factor(probs, dropout, seed).astype(probs.dtype)
        dv = xp.matmul((probs * factor).swapaxes(-1, -2), dy)
        dprobs = dprobs * factor
    else:
        dv = xp.matmul(probs.swapaxes(-1, -2), dy)
    dscores = probs * (dprobs - (dy * y).sum(axis=-1, keepdims=True)) * scale
    return xp.matmul(dscores, k), xp.matmul(dscores.swapaxes(-1, -2), q), dv
