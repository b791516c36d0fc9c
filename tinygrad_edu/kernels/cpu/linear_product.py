"""The product of an affine map, ``y = x W^T + b``, for many rows.

BLAS lays its right-hand matrix out anew at each call. Here that is the weights, the large one: with the 256 rows of a
step of GPT-2 it costs a sixth of the product. So ``W x^T`` is computed instead: the rows of W are read as they lie, x
is what is laid out, and the tiles turn their results round as they store them (:func:`.tiles.turn_down`).

Two cores of a Zen 4, with the bias, GFLOP/s: 256 rows and a W of (2304, 768) 168 by BLAS, 198 here; (3072, 768) 161
and 196; (768, 3072) 175 and 191; 64 rows and (256, 256) 58 and 115; (768, 768) 119 and 176. The two products of the
backward pass are left to BLAS: laid out piece by piece, with the next piece fetched ahead, tiles came to 184 where BLAS
has 182 for dx, and to 183 where it has 190 for dW. ``benchmarks/run.py ops linear --batch 4 --time 64 --d-model 768``
holds the first shape against the readable op.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import get_num_threads, prange, types

from .common import parallel, parallel_for
from .tiles import MATRIX, pack, turn_down
from .vector_code import COLUMNS, PANEL, ROWS, WIDE

_BLOCK = 64  # rows of W that stay in the cache while the panels pass by
_DEPTH = 1024  # numbers of each that are multiplied before the next block of rows comes

# Where it pays, as measured; elsewhere BLAS may be the better one, so it is left to it.
_FAST = WIDE
_FEWEST_ROWS, _FEWEST_INPUTS, _FEWEST_WEIGHTS = 9, 64, 1 << 16

_PACKED = types.Array(types.float32, 3, "C", readonly=True)
_WRITE, _VECTOR = types.float32[:, ::1], types.Array(types.float32, 1, "C", readonly=True)


@parallel
def _add_bias(y, bias):  # type: ignore[no-untyped-def]
    for n in prange(y.shape[0]):
        for o in range(y.shape[1]):
            y[n, o] += bias[o]


@parallel_for(MATRIX, _PACKED, _VECTOR, _WRITE, types.intp, times=4)
def _product(weight, packed, bias, y, parts):  # type: ignore[no-untyped-def]
    outputs, inputs = weight.shape
    rows, groups = y.shape[0], (outputs + ROWS - 1) // ROWS
    for part in prange(parts):
        spare = np.zeros(ROWS, dtype=np.float32)
        end = min(outputs, ROWS * (groups * (part + 1) // parts))
        for first in range(ROWS * (groups * part // parts), end, _BLOCK):
            for k in range(0, inputs, _DEPTH):
                for panel in range(packed.shape[0]):
                    turn_down(
                        min(_BLOCK, end - first), weight.ctypes.data + first * weight.strides[0] + 4 * k,
                        weight.strides[0], packed.ctypes.data + panel * packed.strides[0] + k * PANEL,
                        min(_DEPTH, inputs - k), 0 if k else bias.ctypes.data + 4 * first,
                        y.ctypes.data + panel * COLUMNS * y.strides[0] + 4 * first, y.strides[0],
                        rows - panel * COLUMNS, spare.ctypes.data,
                    )  # fmt: skip


def _suit(x: Any, weight: Any) -> bool:
    if not (_FAST and isinstance(x, np.ndarray) and isinstance(weight, np.ndarray)):
        return False
    large = len(x) >= _FEWEST_ROWS and x.shape[1] >= _FEWEST_INPUTS and weight.size >= _FEWEST_WEIGHTS
    rows = x.dtype == weight.dtype == np.float32 and x.strides[1] == weight.strides[1] == 4
    return large and rows and x.shape[1] == weight.shape[1]


def product(x: Any, weight: Any, bias: Any = None, out: Any = None) -> Any:
    """``x W^T + b`` for rows x (N, I), W (O, I) and b (O,) or None; into `out` (N, O), contiguous, or a new array."""
    if not _suit(x, weight):
        y = np.matmul(x, weight.T, out=out)
        if bias is not None:
            _add_bias(y, bias)
        return y
    y = np.empty((len(x), len(weight)), dtype=np.float32) if out is None else out
    bias = np.zeros(len(weight), dtype=np.float32) if bias is None else np.ascontiguousarray(bias)
    _product(weight, pack(x.T), bias, y, get_num_threads())
    return y
