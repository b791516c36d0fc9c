"""Register tiles: a few rows times a packed matrix, the innermost loop of recurrent, convolution and affine kernels.

ROWS rows and COLUMNS columns of a result stay in registers while the sum runs. Numba finds no such tile by itself, so
its loop is written by hand (:mod:`.vector_code`). All tiles work on addresses, so that rows may lie anywhere: BLAS
would want them evenly spaced, and lays its right-hand matrix out anew at each call.

On two cores of a Zen 4, whose limit is 236 GFLOP/s, the tiles reach 233 with the numbers in the second cache, where
the matrix products of OpenBLAS reach 198.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from .common import compiled, parallel_for
from .vector_code import (
    COLUMNS,
    FLOAT,
    PANEL,
    ROWS,
    VECTORS,
    Sums,
    add_products,
    address_at,
    code,
    columns_of,
    constant,
    repeat,
    row_at,
    spaced,
    start_from,
    store_row,
    zeros,
)

_LINE = 64  # bytes of a line of the cache
_PREFETCH = "llvm.prefetch.p0" if llvmlite.binding.llvm_version_info[0] > 16 else "llvm.prefetch.p0i8"


def _tile_of(rows: int) -> Any:
    """``tile(a, a_row, a_step, b, b_step, c, c_row, count, add)``: rows that are evenly spaced.

    ``c[r, j] (+)= sum_k a[r, k] b[k, j]`` for `rows` rows r and COLUMNS columns j. `a`, `b` and `c` are addresses; the
    others are distances in bytes: from row to row of a and of c, and from one k to the next in a and in b.
    `count`, at least 1, is the number of ks; `add` is 0 to overwrite c, 1 to add to it.
    """

    def build(b: Any, left: Any, left_row: Any, left_step: Any, right: Any, right_step: Any, *rest: Any) -> None:
        target, target_row, count, add = rest
        targets, lefts = spaced(b, target, target_row, rows), spaced(b, left, left_row, rows)

        def step(k: Any, sums: Sums) -> Sums:
            along = b.mul(k, left_step)
            return add_products(b, [b.add(row, along) for row in lefts], b.add(right, b.mul(k, right_step)), sums)

        for row, sums in zip(targets, repeat(b, count, start_from(b, add, targets), step), strict=True):
            store_row(b, row, sums)

    @intrinsic
    def tile(typing, a, a_row, a_step, b, b_step, c, c_row, count, add):  # type: ignore[no-untyped-def]
        return types.void(*[types.intp] * 9), code(build)

    return tile


def _turning_tile(rows: int) -> Any:
    """``tile(a, a_row, b, count, start, c, c_row, columns, spare)``: the products are stored as columns of c.

    ``c[j, r] = start[r] + sum_k a[r, k] b[k, j]`` for `rows` rows r and the first `columns` of COLUMNS columns j; where
    `start`, an address of `rows` numbers, is 0, they are added to what is in c. The rest goes to `spare`, the address
    of room for `rows` numbers. Rows of a are `a_row` bytes apart, rows of c `c_row`; b is a panel.
    """
    vector = ir.VectorType(FLOAT, rows).as_pointer()

    def build(b: Any, left: Any, left_row: Any, right: Any, count: Any, start: Any, *rest: Any) -> None:
        target, target_row, columns, spare = rest
        lefts = spaced(b, left, left_row, rows)

        def step(k: Any, sums: Sums) -> Sums:
            along = b.mul(k, constant(4))
            return add_products(b, [b.add(row, along) for row in lefts], b.add(right, b.mul(k, constant(PANEL))), sums)

        sums = repeat(b, count, zeros(rows), step)
        turned = [column for v in range(VECTORS) for column in columns_of(b, [row[v] for row in sums])]
        adds = b.icmp_signed("==", start, constant(0))
        for j, column in enumerate(turned):
            inside = b.icmp_signed("<", constant(j), columns)
            place = b.select(inside, b.add(target, b.mul(target_row, constant(j))), spare)
            before = b.load(b.inttoptr(b.select(adds, place, start), vector), align=4)
            b.store(b.fadd(before, column), b.inttoptr(place, vector), align=4)

    @intrinsic
    def tile(typing, a, a_row, b, count, start, c, c_row, columns, spare):  # type: ignore[no-untyped-def]
        return types.void(*[types.intp] * 9), code(build)

    return tile


def _gathering_tile(rows: int) -> Any:
    """``tile(table, table_step, taps, count, b, start, targets, offset)``: rows of pieces that lie anywhere.

    ``c[r, j] = start[j] + sum_t sum_k a[t, r][k] b[t count + k, j]``, where the table of addresses (taps, rows), whose
    lines are `table_step` bytes apart, says where each piece a[t, r] of `count` numbers begins; row r of c begins
    `offset` bytes after the address that stands in the table `targets` (rows,). `taps` and `count` are at least 1.
    (Dukhan, 2019, convolves so: by tables.)
    """

    def build(b: Any, table: Any, table_step: Any, taps: Any, count: Any, right: Any, *rest: Any) -> None:
        start, targets, offset = rest
        length = b.mul(count, constant(PANEL))

        def tap(t: Any, sums: Sums) -> Sums:
            here = b.add(table, b.mul(t, table_step))
            pieces, block = [address_at(b, here, r) for r in range(rows)], b.add(right, b.mul(t, length))

            def step(k: Any, sums: Sums) -> Sums:
                along = b.mul(k, constant(4))
                return add_products(
                    b, [b.add(piece, along) for piece in pieces], b.add(block, b.mul(k, constant(PANEL))), sums
                )

            return repeat(b, count, sums, step)

        first = row_at(b, start)
        for r, sums in enumerate(repeat(b, taps, [first] * rows, tap)):
            store_row(b, b.add(address_at(b, targets, r), offset), sums)

    @intrinsic
    def tile(typing, table, table_step, taps, count, b, start, targets, offset):  # type: ignore[no-untyped-def]
        return types.void(*[types.intp] * 8), code(build)

    return tile


def _summing_tile(rows: int) -> Any:
    """``tile(table, offset, count, b, c, add)``: products of columns, for the gradient of a weight.

    ``c[r, j] (+)= sum_k a[k][r] b[k, j]``, where `rows` numbers a[k] begin `offset` bytes after the address that stands
    in the table (count,); rows of b and of c are rows of a panel.
    """

    def build(b: Any, table: Any, offset: Any, count: Any, right: Any, target: Any, add: Any) -> None:
        targets = spaced(b, target, constant(PANEL), rows)

        def step(k: Any, sums: Sums) -> Sums:
            left = b.add(address_at(b, b.add(table, b.mul(k, constant(8))), 0), offset)
            return add_products(b, spaced(b, left, constant(4), rows), b.add(right, b.mul(k, constant(PANEL))), sums)

        for row, sums in zip(targets, repeat(b, count, start_from(b, add, targets), step), strict=True):
            store_row(b, row, sums)

    @intrinsic
    def tile(typing, table, offset, count, b, c, add):  # type: ignore[no-untyped-def]
        return types.void(*[types.intp] * 6), code(build)

    return tile


@intrinsic
def copy_row(typing, source, target):  # type: ignore[no-untyped-def]
    """``target[:COLUMNS] = source[:COLUMNS]``, numbers at two addresses."""
    return types.void(types.intp, types.intp), code(lambda b, source, target: store_row(b, target, row_at(b, source)))


@intrinsic
def copy(typing, source, target, count):  # type: ignore[no-untyped-def]
    """``target[:count] = source[:count]``, numbers at two addresses."""

    def build(b: Any, source: Any, target: Any, count: Any) -> None:
        byte = ir.IntType(8).as_pointer()
        cgutils.raw_memcpy(b, b.inttoptr(target, byte), b.inttoptr(source, byte), count, constant(4), align=4)

    return types.void(*[types.intp] * 3), code(build)


def _prefetch(write: int) -> Any:
    """``prefetch(address)``: have this line of the cache brought into the second cache, without waiting for it."""

    def build(b: Any, address: Any) -> None:
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        function = cgutils.get_or_insert_function(
            b.module, ir.FunctionType(ir.VoidType(), [byte, word, word, word]), _PREFETCH
        )
        b.call(function, [b.inttoptr(address, byte), *(ir.Constant(word, value) for value in (write, 2, 1))])

    @intrinsic
    def prefetch(typing, address):  # type: ignore[no-untyped-def]
        return types.void(types.intp), code(build)

    return prefetch


_tile, _tile_of_4, _tile_of_1 = _tile_of(ROWS), _tile_of(4), _tile_of(1)
_sum, _sum_of_4, _sum_of_1 = _summing_tile(ROWS), _summing_tile(4), _summing_tile(1)
_turn, _turn_of_4, _turn_of_1 = _turning_tile(ROWS), _turning_tile(4), _turning_tile(1)
gather = _gathering_tile(ROWS)
_fetch, _claim = _prefetch(0), _prefetch(1)


@compiled
def fetch(address, count):  # type: ignore[no-untyped-def]
    """Have `count` numbers brought near, to be read soon."""
    for line in range(0, 4 * count, _LINE):
        _fetch(address + line)


@compiled
def claim(address, count):  # type: ignore[no-untyped-def]
    """Have the memory of `count` numbers brought near, to be written soon."""
    for line in range(0, 4 * count, _LINE):
        _claim(address + line)


@compiled
def down(rows, a, a_row, a_step, b, b_step, c, c_row, count, add):  # type: ignore[no-untyped-def]
    """One panel of columns for any number of rows, by the tiles of :func:`_tile_of`."""
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
def turn_down(rows, a, a_row, b, count, start, c, c_row, columns, spare):  # type: ignore[no-untyped-def]
    """One panel of columns for any number of rows, by the tiles of :func:`_turning_tile`."""
    r = 0
    while rows - r >= ROWS:
        _turn(a + r * a_row, a_row, b, count, start + 4 * r if start else 0, c + 4 * r, c_row, columns, spare)
        r += ROWS
    while rows - r >= 4:
        _turn_of_4(a + r * a_row, a_row, b, count, start + 4 * r if start else 0, c + 4 * r, c_row, columns, spare)
        r += 4
    while r < rows:
        _turn_of_1(a + r * a_row, a_row, b, count, start + 4 * r if start else 0, c + 4 * r, c_row, columns, spare)
        r += 1


@compiled
def sum_down(first, end, table, count, b, c, add):  # type: ignore[no-untyped-def]
    """One panel of columns, rows `first` to `end` of c, by the tiles of :func:`_summing_tile`."""
    r = first
    while end - r >= ROWS:
        _sum(table, 4 * r, count, b, c + r * PANEL, add)
        r += ROWS
    while end - r >= 4:
        _sum_of_4(table, 4 * r, count, b, c + r * PANEL, add)
        r += 4
    while r < end:
        _sum_of_1(table, 4 * r, count, b, c + r * PANEL, add)
        r += 1


MATRIX = types.Array(types.float32, 2, "A", readonly=True)


@parallel_for(types.float32[:, :, ::1], MATRIX)
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
