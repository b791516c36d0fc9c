"""Products of few rows with a matrix that is used many times, as a recurrence has them: one at every step.

BLAS lays its right-hand matrix out anew at each call, which for 16 rows costs as much as the product. Here that is done
once (:func:`pack`), and what runs at each step is the innermost loop alone, the tiles of :mod:`.tiles`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange, types

from .common import compiled, parallel_for
from .tiles import MATRIX, down, pack, padded
from .vector_code import COLUMNS, ROWS

_BLOCK = 64  # rows that stay in the cache while the panels pass by
_SUM = 256  # products that are summed in registers before they are added to the result


@compiled
def rows_times(a, a_row, rows, packed, c, c_row, add):  # type: ignore[no-untyped-def]
    """``C (+)= A B`` for `rows` rows at the addresses `a` and `c`, which lie `a_row` and `c_row` bytes apart.

    `packed` is B as :func:`pack` lays it: (panels, K, COLUMNS). C must have room for all columns of all panels.
    """
    for panel in range(packed.shape[0]):
        b = packed.ctypes.data + panel * packed.strides[0]
        down(rows, a, a_row, 4, b, 4 * COLUMNS, c + 4 * COLUMNS * panel, c_row, packed.shape[1], add)


_MATRIX, _PACKED = types.float32[:, ::1], types.float32[:, :, ::1]
_WRITE = types.float32[:, :]


@parallel_for(MATRIX, _PACKED, _WRITE, types.intp)
def _product(a, packed, c, parts):  # type: ignore[no-untyped-def]
    blocks = (a.shape[0] + _BLOCK - 1) // _BLOCK
    for part in prange(parts):
        for block in range(blocks * part // parts, blocks * (part + 1) // parts):
            first = block * _BLOCK
            rows_times(
                a.ctypes.data + first * a.strides[0], a.strides[0], min(_BLOCK, a.shape[0] - first), packed,
                c.ctypes.data + first * c.strides[0], c.strides[0], 0,
            )  # fmt: skip


def product(a: Any, packed: Any, c: Any, parts: int) -> None:
    """``C = A B`` for many rows; rows of A and C are contiguous, those of C have room for whole panels."""
    _product(a, packed, c, parts)


@parallel_for(
    MATRIX, MATRIX, _PACKED,
    types.intp, _MATRIX, types.intp,
)  # fmt: skip
def _transposed_product(a, b, rest, whole, c, parts):  # type: ignore[no-untyped-def]
    count, groups = a.shape[0], (c.shape[0] + ROWS - 1) // ROWS
    c_row = c.strides[0]
    for part in prange(parts):
        begin = ROWS * (groups * part // parts)
        end = min(c.shape[0], ROWS * (groups * (part + 1) // parts))
        for first in range(0, count, _SUM):
            length, add = min(_SUM, count - first), 1 if first else 0
            for row in range(begin, end, ROWS):
                rows = min(ROWS, end - row)
                left = a.ctypes.data + first * a.strides[0] + 4 * row
                target = c.ctypes.data + row * c_row
                right = b.ctypes.data + first * b.strides[0]
                for panel in range(whole):
                    at = 4 * COLUMNS * panel
                    down(rows, left, 4, a.strides[0], right + at, b.strides[0], target + at, c_row, length, add)
                if rest.shape[0]:
                    at = 4 * COLUMNS * whole
                    right = rest.ctypes.data + first * rest.strides[1]
                    down(rows, left, 4, a.strides[0], right, rest.strides[1], target + at, c_row, length, add)


def transposed_product(a: Any, b: Any, parts: int) -> Any:
    """``A^T B``, the gradient of a weight, for rows (K, M) and (K, N) that are contiguous, K >= 1.

    B is read as it lies; only its last columns, where they are no whole panel, are copied.
    """
    columns = b.shape[1]
    whole = columns // COLUMNS
    rest = pack(b[:, whole * COLUMNS :]) if columns % COLUMNS else np.empty((0, 1, COLUMNS), dtype=np.float32)
    c = np.empty((a.shape[1], padded(columns)), dtype=np.float32)
    _transposed_product(a, b, rest, whole, c, parts)
    return c[:, :columns]
