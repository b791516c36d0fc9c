"""Counter-based noise, and dropout that draws it on the fly."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from ...backend import kernel
from .common import flat, inline, parallel

_CHUNK = 4096
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S40 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(40)
_UNIT = np.float32(1 / 2**24)


@inline
def uniform(seed, index):  # type: ignore[no-untyped-def]
    """Element `index` of :func:`tinygrad_edu.backend.random_uniform`, SplitMix64 of its counter."""
    z = (np.uint64(index) + np.uint64(1)) * _GAMMA + seed
    z = (z ^ (z >> _S30)) * _MIX1
    z = (z ^ (z >> _S27)) * _MIX2
    z = z ^ (z >> _S31)
    return np.float32(np.int64(z >> _S40)) * _UNIT


@parallel
def _random_uniform(out, seed):  # type: ignore[no-untyped-def]
    for chunk in prange((out.size + _CHUNK - 1) // _CHUNK):
        start = chunk * _CHUNK
        part = out[start : start + _CHUNK]
        for i in range(part.size):
            part[i] = uniform(seed, start + i)


@parallel
def _dropout(x, p, seed, y):  # type: ignore[no-untyped-def]
    scale = np.float32(1) / (np.float32(1) - p)
    for chunk in prange((x.size + _CHUNK - 1) // _CHUNK):
        start = chunk * _CHUNK
        xs, ys = x[start : start + _CHUNK], y[start : start + _CHUNK]
        for i in range(xs.size):
            ys[i] = xs[i] * (scale if uniform(seed, start + i) >= p else np.float32(0))


@kernel("random_uniform", device="cpu")
def random_uniform(like: Any, seed: int, shape: Any = None) -> Any:
    out = np.empty(like.shape if shape is None else shape, dtype=np.float32)
    _random_uniform(out.reshape(-1), np.uint64(seed))
    return out


@kernel("dropout", device="cpu")
def dropout(x: Any, p: float, seed: int) -> Any:
    y = np.empty(x.shape, dtype=x.dtype)
    _dropout(flat(x), np.float32(p), np.uint64(seed), y.reshape(-1))
    return y
