"""Cross-entropy: a row of logits is read from memory once, its softmax and gradient stay in the cache."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import prange

from ...backend import kernel
from ...errors import RangeError
from .blas import accumulate_product
from .common import exp32, expect, inline, largest, parallel, rows_of
from .linear_product import product
from .narrow_cross_entropy import WIDEST, narrow_cross_entropy, narrow_cross_entropy_backward

_CHUNK_BYTES = 64 * 2**20


@inline
def _log_sum_exp(z):  # type: ignore[no-untyped-def]
    top = largest(z)
    total = np.float32(0)
    for c in range(z.size):
        total += exp32(z[c] - top)
    return top + np.float32(math.log(total))


@inline
def _row_loss(z, target, lse, weight, smoothing):  # type: ignore[no-untyped-def]
    """The loss of one row; `weight` is empty where every class counts alike."""
    loss = (np.float32(1) - smoothing) * (lse - z[target])
    if weight.size:
        loss *= weight[target]
    if smoothing > 0:
        spread = np.float32(0)
        if weight.size:
            for c in range(z.size):
                spread += weight[c] * (lse - z[c])
        else:
            for c in range(z.size):
                spread += lse - z[c]
        loss += smoothing / np.float32(z.size) * spread
    return loss


@inline
def _row_gradient(z, target, lse, dloss, weight, smoothing, dz):  # type: ignore[no-untyped-def]
    a = np.float32(1) - smoothing
    b = smoothing / np.float32(z.size)
    if weight.size:
        a *= weight[target]
        total = np.float32(0)
        for c in range(z.size):
            total += weight[c]
        factor = dloss * (a + b * total)
        for c in range(z.size):
            dz[c] = factor * exp32(z[c] - lse) - dloss * b * weight[c]
    else:
        factor, shift = dloss * (a + smoothing), dloss * b
        for c in range(z.size):
            dz[c] = factor * exp32(z[c] - lse) - shift
    dz[target] -= dloss * a


@parallel
def _cross_entropy(logits, targets, weight, ignore_index, smoothing, losses, lse):  # type: ignore[no-untyped-def]
    for n in prange(logits.shape[0]):
        lse[n] = _log_sum_exp(logits[n])
        losses[n] = np.float32(0)
        if targets[n] != ignore_index:
            losses[n] = _row_loss(logits[n], targets[n], lse[n], weight, smoothing)


@parallel
def _cross_entropy_backward(  # type: ignore[no-untyped-def]
    dlosses, logits, targets, lse, weight, ignore_index, smoothing, dlogits
):
    for n in prange(logits.shape[0]):
        if targets[n] == ignore_index:
            dlogits[n] = np.float32(0)
        else:
            _row_gradient(logits[n], targets[n], lse[n], dlosses[n], weight, smoothing, dlogits[n])


@parallel
def _both_in_place(logits, bias, targets, dlosses, ignore_index, smoothing, losses):  # type: ignore[no-untyped-def]
    """Logits become their gradients."""
    no_weight = np.empty(0, dtype=np.float32)
    for n in prange(logits.shape[0]):
        z = logits[n]
        losses[n] = np.float32(0)
        if targets[n] == ignore_index:
            z[:] = np.float32(0)
        else:
            if bias.size:
                for c in range(z.size):
                    z[c] += bias[c]
            lse = _log_sum_exp(z)
            losses[n] = _row_loss(z, targets[n], lse, no_weight, smoothing)
            factor, shift = dlosses[n], dlosses[n] * smoothing / np.float32(z.size)
            for c in range(z.size):
                z[c] = factor * exp32(z[c] - lse) - shift
            z[targets[n]] -= dlosses[n] * (np.float32(1) - smoothing)


@parallel
def _score(logits, bias, targets, ignore_index, smoothing, losses, predicted):  # type: ignore[no-untyped-def]
    no_weight = np.empty(0, dtype=np.float32)
    for n in prange(logits.shape[0]):
        z = logits[n]
        if bias.size:
            for c in range(z.size):
                z[c] += bias[c]
        losses[n] = np.float32(0)
        if targets[n] != ignore_index:
            losses[n] = _row_loss(z, targets[n], _log_sum_exp(z), no_weight, smoothing)
        top = largest(z)
        best = 0
        while best < z.size - 1 and z[best] != top:  # the first of equals, as argmax has it
            best += 1
        predicted[n] = best


def _optional(x: Any) -> Any:
    return np.empty(0, dtype=np.float32) if x is None else x


def _check(op: str, rows: int, classes: int, targets: Any, ignore_index: int, **of_classes: Any) -> None:
    """Raise unless there is a target for each row and a number for each class, and all targets are classes."""
    expect(op, (rows,), targets=targets)
    expect(op, (classes,), **{name: x for name, x in of_classes.items() if x is not None})
    wrong = ((targets < 0) | (targets >= classes)) & (targets != ignore_index)
    if wrong.any():
        raise RangeError(f"{op}: targets must be in [0, {classes}) or {ignore_index}, got {targets[wrong][0]}")


@kernel("cross_entropy", device="cpu")
def cross_entropy(logits: Any, targets: Any, weight: Any, ignore_index: int, label_smoothing: float) -> Any:
    _check("cross_entropy", len(logits), logits.shape[1], targets, ignore_index, weight=weight)
    losses, lse = np.empty(len(logits), dtype=logits.dtype), np.empty(len(logits), dtype=logits.dtype)
    run = narrow_cross_entropy if logits.shape[1] <= WIDEST else _cross_entropy
    run(rows_of(logits), targets, _optional(weight), ignore_index, np.float32(label_smoothing), losses, lse)
    return losses, lse[:, None]


@kernel("cross_entropy_backward", device="cpu")
def cross_entropy_backward(
    dlosses: Any, logits: Any, targets: Any, lse: Any, weight: Any, ignore_index: int, label_smoothing: float
) -> Any:
    _check("cross_entropy_backward", len(logits), logits.shape[1], targets, ignore_index, weight=weight)
    expect("cross_entropy_backward", targets.shape, dlosses=dlosses)
    expect("cross_entropy_backward", (len(logits), 1), lse=lse)
    dlogits = np.empty(logits.shape, dtype=logits.dtype)
    run = narrow_cross_entropy_backward if logits.shape[1] <= WIDEST else _cross_entropy_backward
    run(
        np.ascontiguousarray(dlosses), rows_of(logits), targets, lse.reshape(-1), _optional(weight), ignore_index,
        np.float32(label_smoothing), dlogits,
    )  # fmt: skip
    return dlogits


def _chunk(rows: int, classes: int) -> int:
    """Rows at a time: whole blocks for BLAS, and a buffer that does not dwarf the rest of the step."""
    return max(1, min(rows, max(64, _CHUNK_BYTES // (4 * classes) // 64 * 64)))


@kernel("linear_cross_entropy", device="cpu")
def linear_cross_entropy(
    x: Any, weight: Any, bias: Any, targets: Any, ignore_index: int, label_smoothing: float
) -> Any:
    _check("linear_cross_entropy", len(x), len(weight), targets, ignore_index, bias=bias)
    losses, predicted = np.empty(len(x), dtype=x.dtype), np.empty(len(x), dtype=np.int64)
    step = _chunk(len(x), len(weight))
    buffer = np.empty((step, len(weight)), dtype=x.dtype)
    for start in range(0, len(x), step):
        rows = slice(start, min(start + step, len(x)))
        logits = product(x[rows], weight, out=buffer[: rows.stop - start])
        _score(
            logits, _optional(bias), targets[rows], ignore_index, np.float32(label_smoothing), losses[rows],
            predicted[rows],
        )  # fmt: skip
    return losses, predicted


@kernel("linear_cross_entropy_grad", device="cpu")
def linear_cross_entropy_grad(
    x: Any,
    weight: Any,
    bias: Any,
    targets: Any,
    dlosses: Any,
    dweight: Any,
    dbias: Any,
    ignore_index: int,
    label_smoothing: float,
) -> Any:
    _check("linear_cross_entropy_grad", len(x), len(weight), targets, ignore_index, bias=bias)
    expect("linear_cross_entropy_grad", targets.shape, dlosses=dlosses)
    losses, dx = np.empty(len(x), dtype=x.dtype), np.empty(x.shape, dtype=x.dtype)
    dlosses = np.ascontiguousarray(dlosses)
    step = _chunk(len(x), len(weight))
    buffer = np.empty((step, len(weight)), dtype=x.dtype)
    for start in range(0, len(x), step):
        rows = slice(start, min(start + step, len(x)))
        logits = product(x[rows], weight, out=buffer[: rows.stop - start])
        _both_in_place(
            logits, _optional(bias), targets[rows], dlosses[rows], ignore_index, np.float32(label_smoothing),
            losses[rows],
        )  # fmt: skip
        np.matmul(logits, weight, out=dx[rows])
        if not accumulate_product(logits.T, x[rows], dweight):
            dweight += np.matmul(logits.T, x[rows])
        if dbias is not None:
            dbias += np.matmul(np.ones(len(logits), dtype=x.dtype), logits)
    return losses, dx
