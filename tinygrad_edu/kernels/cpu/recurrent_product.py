"""Products of few rows with a matrix that is used many times, as a recurrence has them: one at every step.

BLAS lays its right-hand matrix out anew at each call, which for 16 rows costs as much as the product. Here that is done
once (:func:`pack`), and what runs at each step is the innermost loop alone: a tile of 8 rows and 32 columns of the
result stays in registers while the sum runs. Numba finds no such tile by itself, so its loop is written in LLVM's own
vector types; LLVM splits them where a machine has narrower ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from ...machine import cpu_info
from .common import compiled, parallel_for

# A tile's results, one row of the right-hand matrix, and a number of the left one must fit in the registers:
# 32 of 16 numbers with AVX-512; else 16 of 8 numbers, as AVX2 has them.
_WIDE = cpu_info().has_avx512
ROWS, COLUMNS, LANES = (8, 32, 16) if _WIDE else (4, 16, 8)
_BLOCK = 64  # rows that stay in the cache while the panels pass by
_SUM = 256  # products that are summed in registers before they are added to the result

_FLOAT, _INT = ir.FloatType(), ir.IntType(64)
_VECTOR = ir.VectorType(_FLOAT, LANES)


def _constant(value: int) -> Any:
    return ir.Constant(_INT, value)


def _spread(builder: Any, value: Any) -> Any:
    """A vector with `value` in each lane."""
    nothing = ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(nothing, value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))


def _tile_of(rows: int) -> Any:
    """``tile(a, a_row, a_step, b, b_step, c, c_row, count, add)`` for so many rows, to be called in compiled loops.

    ``c[r, j] (+)= sum_k a[r, k] b[k, j]`` for `rows` rows r and COLUMNS columns j. `a`, `b` and `c` are addresses; the
    others are distances in bytes: from row to row of a and of c, and from one k to the next in a and in b.
    `count`, at least 1, is the number of ks; `add` is 0 to overwrite c, 1 to add to it.
    """
    vectors = COLUMNS // LANES
    places = [(r, v) for r in range(rows) for v in range(vectors)]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, a_row, a_step, b, b_step, c, c_row, count, add = arguments
        multiply_add = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_VECTOR, [_VECTOR] * 3), f"llvm.fmuladd.v{LANES}f32"
        )

        def vector_at(address: Any) -> Any:
            return builder.inttoptr(address, _VECTOR.as_pointer())

        def result_at(r: int, v: int) -> Any:
            offset = builder.add(builder.mul(c_row, _constant(r)), _constant(4 * LANES * v))
            return vector_at(builder.add(c, offset))

        entry = builder.block
        load, loop, done = (builder.append_basic_block(f"tile.{name}") for name in ("load", "loop", "done"))
        builder.cbranch(builder.icmp_signed("!=", add, _constant(0)), load, loop)
        builder.position_at_end(load)
        loaded = {place: builder.load(result_at(*place), align=4) for place in places}
        builder.branch(loop)

        builder.position_at_end(loop)
        k = builder.phi(_INT)
        k.add_incoming(_constant(0), entry)
        k.add_incoming(_constant(0), load)
        sums = {place: builder.phi(_VECTOR) for place in places}
        for place, total in sums.items():
            total.add_incoming(ir.Constant(_VECTOR, [ir.Constant(_FLOAT, 0.0)] * LANES), entry)
            total.add_incoming(loaded[place], load)
        left, right = builder.add(a, builder.mul(k, a_step)), builder.add(b, builder.mul(k, b_step))
        columns = [
            builder.load(vector_at(builder.add(right, _constant(4 * LANES * v))), align=4) for v in range(vectors)
        ]
        new = {}
        for r in range(rows):
            address = builder.add(left, builder.mul(a_row, _constant(r)))
            factor = _spread(builder, builder.load(builder.inttoptr(address, _FLOAT.as_pointer()), align=4))
            for v in range(vectors):
                new[r, v] = builder.call(multiply_add, [factor, columns[v], sums[r, v]])
        following = builder.add(k, _constant(1))
        k.add_incoming(following, loop)
        for place, total in sums.items():
            total.add_incoming(new[place], loop)
        builder.cbranch(builder.icmp_signed("<", following, count), loop, done)

        builder.position_at_end(done)
        for place in places:
            builder.store(new[place], result_at(*place), align=4)
        return context.get_dummy_value()

    @intrinsic
    def tile(typing, a, a_row, a_step, b, b_step, c, c_row, count, add):  # type: ignore[no-untyped-def]
        return types.void(*[types.intp] * 9), generate

    return tile


_tile, _tile_of_4, _tile_of_1 = _tile_of(ROWS), _tile_of(4), _tile_of(1)


@compiled
def _down(rows, a, a_row, a_step, b, b_step, c, c_row, count, add):  # type: ignore[no-untyped-def]
    """One panel of columns for any number of rows."""
    r = 0
    while rows - r >= ROWS:
        _tile(a + r * a_row, a_row, a_step, b, b_step, c + r * c_row, c_row, count, add)
        r += ROWS
    while rows - r >= 4:
        _tile_of_4(a + r * a_row, a_row, a_step, b, b_step, c + r * c_row, c_row, count, add)
        r += 4
    while r < rows:
        _tile_of_1(a + r * a_row, a_row, a_step, b, b_step, c + r * c_row, c_row, count, add)
        r += 1


@compiled
def rows_times(a, a_row, rows, packed, c, c_row, add):  # type: ignore[no-untyped-def]
    """``C (+)= A B`` for `rows` rows at the addresses `a` and `c`, which lie `a_row` and `c_row` bytes apart.

    `packed` is B as :func:`pack` lays it: (panels, K, COLUMNS). C must have room for all columns of all panels.
    """
    for panel in range(packed.shape[0]):
        b = packed.ctypes.data + panel * packed.strides[0]
        _down(rows, a, a_row, 4, b, 4 * COLUMNS, c + 4 * COLUMNS * panel, c_row, packed.shape[1], add)


_MATRIX, _PACKED = types.float32[:, ::1], types.float32[:, :, ::1]
_READ, _WRITE = (types.Array(types.float32, 2, "A", readonly=readonly) for readonly in (True, False))


@parallel_for(types.float32[:, :, ::1], _READ)
def _pack(packed, b):  # type: ignore[no-untyped-def]
    for panel in prange(packed.shape[0]):
        first = panel * COLUMNS
        width = min(COLUMNS, b.shape[1] - first)
        target = packed[panel]
        if width < COLUMNS:
            target[:] = np.float32(0)
        if b.strides[1] == 4:
            for k in range(b.shape[0]):
                for j in range(width):
                    target[k, j] = b[k, first + j]
        else:
            for j in range(width):
                for k in range(b.shape[0]):
                    target[k, j] = b[k, first + j]


def panels(columns: int) -> int:
    """How many panels so many columns take."""
    return -(-columns // COLUMNS)


def padded(columns: int) -> int:
    """Columns of a row that has room for whole panels."""
    return panels(columns) * COLUMNS


def pack(b: Any) -> Any:
    """The right-hand matrix (K, N) as panels of COLUMNS columns each, (panels, K, COLUMNS), zeros after the last."""
    packed = np.empty((panels(b.shape[1]), b.shape[0], COLUMNS), dtype=np.float32)
    _pack(packed, b)
    return packed


@parallel_for(_READ, _PACKED, _WRITE, types.intp)
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
    _READ, _READ, _PACKED,
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
                    _down(rows, left, 4, a.strides[0], right + at, b.strides[0], target + at, c_row, length, add)
                if rest.shape[0]:
                    at = 4 * COLUMNS * whole
                    right = rest.ctypes.data + first * rest.strides[1]
                    _down(rows, left, 4, a.strides[0], right, rest.strides[1], target + at, c_row, length, add)


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
