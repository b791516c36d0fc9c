"""Cross-entropy of few classes and many rows, such as the pixels of maps.

A row of ten logits fills no vector register, and the loops of :mod:`.losses` over it would run number by number. Here
a block of rows is turned on its side in the cache: the loops then go over rows, one class after the other.
"""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from .common import exp32, inline, parallel

WIDEST = 12  # classes; from 16 on a row fills a vector register, and is faster by itself
_ROWS = 256  # a block, whose turned logits stay in the first cache


@inline
def _turn(rows, turned):  # type: ignore[no-untyped-def]
    for i in range(rows.shape[0]):
        for c in range(rows.shape[1]):
            turned[c, i] = rows[i, c]


@inline
def _log_sum_exp(turned, out):  # type: ignore[no-untyped-def]
    top = turned[0].copy()
    for c in range(1, turned.shape[0]):
        z = turned[c]
        for i in range(z.size):
            top[i] = max(top[i], z[i])
    total = np.zeros(top.size, dtype=np.float32)
    for c in range(turned.shape[0]):
        z = turned[c]
        for i in range(z.size):
            total[i] += exp32(z[i] - top[i])
    for i in range(top.size):
        out[i] = top[i] + np.float32(math.log(total[i]))


@parallel
def narrow_cross_entropy(logits, targets, weight, ignore_index, smoothing, losses, lse):  # type: ignore[no-untyped-def]
    """As the loops of :mod:`.losses`; `weight` is empty where every class counts alike."""
    classes = logits.shape[1]
    for block in prange((logits.shape[0] + _ROWS - 1) // _ROWS):
        part = slice(block * _ROWS, (block + 1) * _ROWS)
        rows, wanted, out, ends = logits[part], targets[part], losses[part], lse[part]
        turned = np.empty((classes, rows.shape[0]), dtype=np.float32)
        _turn(rows, turned)
        _log_sum_exp(turned, ends)
        spread = np.zeros(rows.shape[0], dtype=np.float32)
        if smoothing > 0:
            share = smoothing / np.float32(classes)
            for c in range(classes):
                z, factor = turned[c], share * (weight[c] if weight.size else np.float32(1))
                for i in range(z.size):
                    spread[i] += factor * (ends[i] - z[i])
        for i in range(rows.shape[0]):
            out[i] = np.float32(0)
            if wanted[i] != ignore_index:
                factor = (np.float32(1) - smoothing) * (weight[wanted[i]] if weight.size else np.float32(1))
                out[i] = factor * (ends[i] - rows[i, wanted[i]]) + spread[i]


@parallel
def narrow_cross_entropy_backward(  # type: ignore[no-untyped-def]
    dlosses, logits, targets, lse, weight, ignore_index, smoothing, dlogits
):
    classes = logits.shape[1]
    share = smoothing / np.float32(classes)
    shared = smoothing
    if weight.size:
        shared = np.float32(0)
        for c in range(classes):
            shared += share * weight[c]
    for block in prange((logits.shape[0] + _ROWS - 1) // _ROWS):
        part = slice(block * _ROWS, (block + 1) * _ROWS)
        rows, wanted, dz, slopes, ends = logits[part], targets[part], dlogits[part], dlosses[part], lse[part]
        turned = np.empty((classes, rows.shape[0]), dtype=np.float32)
        _turn(rows, turned)
        own = np.empty(rows.shape[0], dtype=np.float32)  # a, of the right class
        for i in range(rows.shape[0]):
            target = wanted[i] if wanted[i] != ignore_index else 0
            own[i] = (np.float32(1) - smoothing) * (weight[target] if weight.size else np.float32(1))
        for c in range(classes):
            z, b = turned[c], share * (weight[c] if weight.size else np.float32(1))
            for i in range(z.size):
                z[i] = slopes[i] * ((own[i] + shared) * exp32(z[i] - ends[i]) - b)
        for i in range(rows.shape[0]):
            if wanted[i] == ignore_index:
                dz[i] = np.float32(0)  # whatever the row holds
            else:
                for c in range(classes):
                    dz[i, c] = turned[c, i]
                dz[i, wanted[i]] -= slopes[i] * own[i]
