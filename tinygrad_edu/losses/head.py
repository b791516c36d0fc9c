"""The head of a language model and its cross-entropy together, a chunk of rows at a time."""

from __future__ import annotations

from ..backend import Array, gemm, namespace, op
from .cross_entropy import cross_entropy, cross_entropy_backward

_CHUNK_BYTES = 64 * 2**20  # logits held at a time


def _chunks(rows: int, classes: int, itemsize: int) -> range:
    step = max(1, min(rows, _CHUNK_BYTES // (classes * itemsize)))
    if step < rows:
        step = max(64, step // 64 * 64)  # whole blocks for the matrix product
    return range(0, rows, step) if rows else range(0)


@op
def linear_cross_entropy(
    x: Array, weight: Array, bias: Array | None, targets: Array, ignore_index: int, label_smoothing: float
) -> tuple[Array, Array]:
    """Language-model head and :func:`cross_entropy` together, a chunk of rows at a time, for evaluation.

    The (N, V) logits are never held: at V = 50,257 they are the largest array of a training step.

    Parameters
    ----------
    x : (N, C)
    weight : (V, C); bias : (V,) or None
    targets : (N,)

    Returns
    -------
    losses : (N,)
    predicted : (N,) int64, the class of the largest logit
    """
    xp = namespace(x, weight, targets)
    losses = xp.empty(len(x), dtype=x.dtype)
    predicted = xp.empty(len(x), dtype=xp.int64)
    chunks = _chunks(len(x), len(weight), x.dtype.itemsize)
    for start in chunks:
        rows = slice(start, start + chunks.step)
        logits = gemm(x[rows], weight.T)
        if bias is not None:
            logits += bias
        losses[rows], _ = cross_entropy(logits, targets[rows], None, ignore_index, label_smoothing)
        predicted[rows] = logits.argmax(axis=1)
    return losses, predicted


@op
def linear_cross_entropy_grad(
    x: Array,
    weight: Array,
    bias: Array | None,
    targets: Array,
    dlosses: Array,
    dweight: Array,
    dbias: Array | None,
    ignore_index: int,
    label_smoothing: float,
) -> tuple[Array, Array]:
    r"""Losses and gradients of head and :func:`cross_entropy` together, a chunk of rows at a time.

    Forward and backward can share one pass because the gradient of the mean is known beforehand: it is
    `dlosses`, 1/count for every row, whatever the losses come to. With :math:`z = x W^\top + b`

    .. math:: dz = \text{cross\_entropy\_backward}, \qquad dx = dz\,W, \qquad dW \mathrel{+}= dz^\top x, \qquad
              db \mathrel{+}= \textstyle\sum_n dz_n

    Parameters
    ----------
    x : (N, C)
    weight : (V, C); bias : (V,) or None
    targets : (N,)
    dlosses : (N,), the gradient with which each row's loss is wanted
    dweight : (V, C); dbias : (V,) or None; both added to

    Returns
    -------
    losses : (N,)
    dx : (N, C)
    """
    xp = namespace(x, weight, targets, dlosses, dweight)
    losses = xp.empty(len(x), dtype=x.dtype)
    dx = xp.empty_like(x)
    chunks = _chunks(len(x), len(weight), x.dtype.itemsize)
    for start in chunks:
        rows = slice(start, start + chunks.step)
        logits = gemm(x[rows], weight.T)
        if bias is not None:
            logits += bias
        losses[rows], lse = cross_entropy(logits, targets[rows], None, ignore_index, label_smoothing)
        dlogits = cross_entropy_backward(dlosses[rows], logits, targets[rows], lse, None, ignore_index, label_smoothing)
        gemm(dlogits, weight, out=dx[rows])
        gemm(dlogits.T, x[rows], out=dweight, accumulate=True)
        if dbias is not None:
            dbias += dlogits.sum(axis=0)
    return losses, dx
