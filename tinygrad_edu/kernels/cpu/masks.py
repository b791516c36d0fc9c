"""Losses of masks: binary cross-entropy without a temporary, and the sums of Dice in one pass."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from ...backend import kernel
from .common import exp32, expect, flat, inline, parallel
from .layout import axes_of, new, planes, vector

_CHUNK = 4096  # elements a task works on, sliced so that its loop becomes vector code
_ZERO, _ONE, _HALF = np.float32(0), np.float32(1), np.float32(0.5)
_LN2 = np.float32(0.6931471805599453)
_SQRT_2_LESS_1 = np.float32(0.41421356)


@inline
def _log1p32(e):  # type: ignore[no-untyped-def]
    """log(1 + e) for e in [0, 1] to about 1 ulp, without a call: the polynomial of Cephes' logf (Moshier).

    Above sqrt 2 - 1 one half is taken of 1 + e, so that what the polynomial sees stays near zero.
    """
    far = e > _SQRT_2_LESS_1
    x = (e - _ONE) * _HALF if far else e
    z = x * x
    p = np.float32(7.0376836292e-2)
    p = p * x - np.float32(1.1514610310e-1)
    p = p * x + np.float32(1.1676998740e-1)
    p = p * x - np.float32(1.2420140846e-1)
    p = p * x + np.float32(1.4249322787e-1)
    p = p * x - np.float32(1.6668057665e-1)
    p = p * x + np.float32(2.0000714765e-1)
    p = p * x - np.float32(2.4999993993e-1)
    p = p * x + np.float32(3.3333331174e-1)
    y = x * z * p - _HALF * z + x
    return y + _LN2 if far else y


@parallel
def _binary(logits, targets, extra, losses):  # type: ignore[no-untyped-def]
    """`extra` is q - 1, or empty for q = 1."""
    for chunk in prange((logits.size + _CHUNK - 1) // _CHUNK):
        part = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        zs, ts, es, out = logits[part], targets[part], extra[part], losses[part]
        if extra.size:
            for i in range(zs.size):
                softplus = max(-zs[i], _ZERO) + _log1p32(exp32(-abs(zs[i])))
                out[i] = (_ONE - ts[i]) * zs[i] + (_ONE + es[i] * ts[i]) * softplus
        else:
            for i in range(zs.size):
                softplus = max(-zs[i], _ZERO) + _log1p32(exp32(-abs(zs[i])))
                out[i] = (_ONE - ts[i]) * zs[i] + softplus


@parallel
def _binary_backward(dlosses, logits, targets, extra, dlogits):  # type: ignore[no-untyped-def]
    for chunk in prange((logits.size + _CHUNK - 1) // _CHUNK):
        part = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        dls, zs, ts, es, out = dlosses[part], logits[part], targets[part], extra[part], dlogits[part]
        if extra.size:
            for i in range(zs.size):
                absent = _ONE / (_ONE + exp32(zs[i]))
                out[i] = dls[i] * (_ONE - ts[i] - (_ONE + es[i] * ts[i]) * absent)
        else:
            for i in range(zs.size):
                out[i] = dls[i] * (_ONE - ts[i] - _ONE / (_ONE + exp32(zs[i])))


def _more_than_one(pos_weight: Any, logits: Any, axes: Any) -> Any:
    """q - 1 for each of the logits; empty for q = 1."""
    if pos_weight is None:
        return np.empty(0, dtype=logits.dtype)
    return vector(np.broadcast_to(pos_weight - logits.dtype.type(1), logits.shape), axes)


@kernel("binary_cross_entropy_with_logits", device="cpu")
def binary_cross_entropy_with_logits(logits: Any, targets: Any, pos_weight: Any) -> Any:
    expect("binary_cross_entropy_with_logits", logits.shape, targets=targets)
    axes = axes_of(logits)
    losses = new(logits, axes)
    extra = _more_than_one(pos_weight, logits, axes)
    _binary(vector(logits, axes), vector(targets, axes), extra, vector(losses, axes))
    return losses


@kernel("binary_cross_entropy_with_logits_backward", device="cpu")
def binary_cross_entropy_with_logits_backward(dlosses: Any, logits: Any, targets: Any, pos_weight: Any) -> Any:
    expect("binary_cross_entropy_with_logits_backward", logits.shape, dlosses=dlosses, targets=targets)
    axes = axes_of(logits)
    dlogits = new(logits, axes)
    extra = _more_than_one(pos_weight, logits, axes)
    given = (vector(x, axes) for x in (dlosses, logits, targets))
    _binary_backward(*given, extra, vector(dlogits, axes))
    return dlogits


@parallel
def _dice_sums(probabilities, targets, squared, overlaps, sizes):  # type: ignore[no-untyped-def]
    """Rows are masks. Short sums are added up in float64, so that long masks lose no digits."""
    for mask in prange(probabilities.shape[0]):
        overlap, size = 0.0, 0.0
        for start in range(0, probabilities.shape[1], _CHUNK):
            ps, gs = probabilities[mask, start : start + _CHUNK], targets[mask, start : start + _CHUNK]
            shared, both = _ZERO, _ZERO
            if squared:
                for i in range(ps.size):
                    shared += ps[i] * gs[i]
                    both += ps[i] * ps[i] + gs[i] * gs[i]
            else:
                for i in range(ps.size):
                    shared += ps[i] * gs[i]
                    both += ps[i] + gs[i]
            overlap += float(shared)
            size += float(both)
        overlaps[mask], sizes[mask] = overlap, size


@parallel
def _dice_backward(probabilities, targets, inside, shared, squared, dprobabilities):  # type: ignore[no-untyped-def]
    for mask in prange(probabilities.shape[0]):
        ps, gs, out = probabilities[mask], targets[mask], dprobabilities[mask]
        a, b = inside[mask], shared[mask]
        if squared:
            for i in range(ps.size):
                out[i] = a * gs[i] - b * (ps[i] + ps[i])
        else:
            for i in range(ps.size):
                out[i] = a * gs[i] - b


@kernel("dice", device="cpu")
def dice(probabilities: Any, targets: Any, smooth: float, squared: bool) -> Any:
    expect("dice", probabilities.shape, targets=targets)
    overlap, size = np.zeros((2, *probabilities.shape[:2]))
    _dice_sums(planes(probabilities), planes(targets), bool(squared), overlap.reshape(-1), size.reshape(-1))
    size += smooth
    scores = (2 * overlap + smooth) / size
    return scores.astype(probabilities.dtype), size.astype(probabilities.dtype)


@kernel("dice_backward", device="cpu")
def dice_backward(dy: Any, probabilities: Any, targets: Any, y: Any, size: Any, squared: bool) -> Any:
    expect("dice_backward", probabilities.shape, targets=targets)
    expect("dice_backward", probabilities.shape[:2], dy=dy, y=y, size=size)
    dprobabilities = np.empty(probabilities.shape, dtype=probabilities.dtype)
    inside, shared = flat(2 * dy / size), flat(dy * y / size)
    _dice_backward(planes(probabilities), planes(targets), inside, shared, bool(squared), planes(dprobabilities))
    return dprobabilities
