"""Register tiles: a few rows times a packed matrix, the innermost loop of recurrent layers and of convolutions.

ROWS rows and COLUMNS columns of a result stay in registers while the sum runs. Numba finds no such tile by itself, so
its loop is written in LLVM's own vector types; LLVM splits them where a machine has narrower ones. All tiles work on
addresses, so that rows may lie anywhere: BLAS would want them evenly spaced, and lays its right-hand matrix out anew
at each call.

On two cores of a Zen 4, whose limit is 236 GFLOP/s, the tiles reach 233 with the numbers in the second cache, where
the matrix products of OpenBLAS reach 198.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding
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
PANEL = 4 * COLUMNS  # bytes of a row of a panel
_LINE = 64  # bytes of a line of the cache

_FLOAT, _INT = ir.FloatType(), ir.IntType(64)
_PREFETCH = "llvm.prefetch.p0" if llvmlite.binding.llvm_version_info[0] > 16 else "llvm.prefetch.p0i8"
_VECTOR = ir.VectorType(_FLOAT, LANES)
_VECTORS = COLUMNS // LANES  # of one row

Sums = list[list[Any]]  # sums[row][vector]


def _constant(value: int) -> Any:
    return ir.Constant(_INT, value)


def _address_at(builder: Any, table: Any, place: int) -> Any:
    """The address that stands at this place of a table of int64."""
    return builder.load(builder.inttoptr(builder.add(table, _constant(8 * place)), _INT.as_pointer()))


def _vector_at(builder: Any, address: Any, v: int) -> Any:
    return builder.inttoptr(builder.add(address, _constant(4 * LANES * v)), _VECTOR.as_pointer())


def _row_at(builder: Any, address: Any) -> list[Any]:
    return [builder.load(_vector_at(builder, address, v), align=4) for v in range(_VECTORS)]


def _store_row(builder: Any, address: Any, row: list[Any]) -> None:
    for v, vector in enumerate(row):
        builder.store(vector, _vector_at(builder, address, v), align=4)


def _zeros(rows: int) -> Sums:
    zero = ir.Constant(_VECTOR, [ir.Constant(_FLOAT, 0.0)] * LANES)
    return [[zero] * _VECTORS for _ in range(rows)]


def _spread(builder: Any, address: Any) -> Any:
    """A vector with the number at `address` in each lane."""
    value = builder.load(builder.inttoptr(address, _FLOAT.as_pointer()), align=4)
    nothing = ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(nothing, value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))


def _add_products(builder: Any, factors: list[Any], row: Any, sums: Sums) -> Sums:
    """``sums[r] + factors[r] * row`` for the numbers at the addresses `factors` and the row at the address `row`."""
    multiply_add = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(_VECTOR, [_VECTOR] * 3), f"llvm.fmuladd.v{LANES}f32"
    )
    columns = _row_at(builder, row)
    new = []
    for address, totals in zip(factors, sums, strict=True):
        factor = _spread(builder, address)
        new.append([builder.call(multiply_add, [factor, *pair]) for pair in zip(columns, totals, strict=True)])
    return new


def _repeat(builder: Any, count: Any, sums: Sums, body: Callable[[Any, Sums], Sums]) -> Sums:
    """``for k in range(count): sums = body(k, sums)``, the sums kept in registers; `count` is at least 1."""
    before = builder.block
    loop, after = builder.append_basic_block("loop"), builder.append_basic_block("after")
    builder.branch(loop)
    builder.position_at_end(loop)
    k = builder.phi(_INT)
    k.add_incoming(_constant(0), before)
    inside = [[builder.phi(_VECTOR) for _ in row] for row in sums]
    new = body(k, inside)
    following = builder.add(k, _constant(1))
    k.add_incoming(following, builder.block)
    for phis, first, last in zip(inside, sums, new, strict=True):
        for phi, one, other in zip(phis, first, last, strict=True):
            phi.add_incoming(one, before)
            phi.add_incoming(other, builder.block)
    builder.cbranch(builder.icmp_signed("<", following, count), loop, after)
    builder.position_at_end(after)
    return new


def _start(builder: Any, add: Any, rows: list[Any]) -> Sums:
    """What stands at the addresses `rows` where `add` is not 0, else zeros."""
    before = builder.block
    load, after = builder.append_basic_block("load"), builder.append_basic_block("start")
    builder.cbranch(builder.icmp_signed("!=", add, _constant(0)), load, after)
    builder.position_at_end(load)
    found = [_row_at(builder, row) for row in rows]
    builder.branch(after)
    builder.position_at_end(after)
    sums = [[builder.phi(_VECTOR) for _ in range(_VECTORS)] for _ in rows]
    for phis, loaded, zeros in zip(sums, found, _zeros(len(rows)), strict=True):
        for phi, there, zero in zip(phis, loaded, zeros, strict=True):
            phi.add_incoming(there, load)
            phi.add_incoming(zero, before)
    return sums


def _spaced(builder: Any, first: Any, step: Any, rows: int) -> list[Any]:
    """Addresses `step` bytes apart."""
    found = [first]
    while len(found) < rows:
        found.append(builder.add(found[-1], step))
    return found


def _code(build: Callable[..., None]) -> Callable[..., Any]:
    """What Numba asks of an intrinsic that returns nothing; `build` (builder, *arguments) writes its code."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        build(builder, *arguments)
        return context.get_dummy_value()

    return generate


def _tile_of(rows: int) -> Any:
    """``tile(a, a_row, a_step, b, b_step, c, c_row, count, add)``: rows that are evenly spaced.

    ``c[r, j] (+)= sum_k a[r, k] b[k, j]`` for `rows` rows r and COLUMNS columns j. `a`, `b` and `c` are addresses; the
    others are distances in bytes: from row to row of a and of c, and from one k to the next in a and in b.
    `count`, at least 1, is the number of ks; `add` is 0 to overwrite c, 1 to add to it.
    """

    def build(b: Any, left: Any, left_row: Any, left_step: Any, right: Any, right_step: Any, *rest: Any) -> None:
        target, target_row, count, add = rest
        targets, lefts = _spaced(b, target, target_row, rows), _spaced(b, left, left_row, rows)

        def step(k: Any, sums: Sums) -> Sums:
            along = b.mul(k, left_step)
            return _add_products(b, [b.add(row, along) for row in lefts], b.add(right, b.mul(k, right_step)), sums)

        for row, sums in zip(targets, _repeat(b, count, _start(b, add, targets), step), strict=True):
            _store_row(b, row, sums)

    @intrinsic
    def tile(typing, a, a_row, a_step, b, b_step, c, c_row, count, add):  # type: ignore[no-untyped-def]
        return types.void(*[types.intp] * 9), _code(build)

    return tile


def _interleaved(builder: Any, one: Any, other: Any, chunk: int, second: bool) -> Any:
    """Half of the chunks of two vectors, in turn: the first `chunk` lanes of one, the first of the other, ..."""
    begin = LANES // 2 if second else 0
    lanes = []
    for lane in range(LANES):
        pair, within = divmod(lane, 2 * chunk)
        lanes.append(begin + pair * chunk + within % chunk + (LANES if within >= chunk else 0))
    return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(ir.IntType(32), LANES), lanes))


def _columns(builder: Any, rows: list[Any]) -> list[Any]:
    """The columns of some vectors, LANES vectors of len(rows) lanes. (The number of rows is a power of two.)"""
    groups, chunk = [[row] for row in rows], 1  # a group has `chunk` rows, side by side, in as many vectors
    while len(groups) > 1:
        groups = [
            [_interleaved(builder, a, b, chunk, second) for a, b in zip(*pair, strict=True) for second in (False, True)]
            for pair in zip(groups[::2], groups[1::2], strict=True)
        ]
        chunk *= 2
    found = []
    for vector in groups[0]:
        for first in range(0, LANES, chunk):
            lanes = ir.Constant(ir.VectorType(ir.IntType(32), chunk), list(range(first, first + chunk)))
            found.append(builder.shuffle_vector(vector, vector, lanes))
    return found


def _turning_tile(rows: int) -> Any:
    """``tile(a, a_row, b, count, start, c, c_row, columns, spare)``: the products are stored as columns of c.

    ``c[j, r] = start[r] + sum_k a[r, k] b[k, j]`` for `rows` rows r and the first `columns` of COLUMNS columns j; where
    `start`, an address of `rows` numbers, is 0, they are added to what is in c. The rest goes to `spare`, the address
    of room for `rows` numbers. Rows of a are `a_row` bytes apart, rows of c `c_row`; b is a panel.
    """
    vector = ir.VectorType(_FLOAT, rows).as_pointer()

    def build(b: Any, left: Any, left_row: Any, right: Any, count: Any, start: Any, *rest: Any) -> None:
        target, target_row, columns, spare = rest
        lefts = _spaced(b, left, left_row, rows)

        def step(k: Any, sums: Sums) -> Sums:
            along = b.mul(k, _constant(4))
            return _add_products(
                b, [b.add(row, along) for row in lefts], b.add(right, b.mul(k, _constant(PANEL))), sums
            )

        sums = _repeat(b, count, _zeros(rows), step)
        turned = [column for v in range(_VECTORS) for column in _columns(b, [row[v] for row in sums])]
        adds = b.icmp_signed("==", start, _constant(0))
        for j, column in enumerate(turned):
            inside = b.icmp_signed("<", _constant(j), columns)
            place = b.select(inside, b.add(target, b.mul(target_row, _constant(j))), spare)
            before = b.load(b.inttoptr(b.select(adds, place, start), vector), align=4)
            b.store(b.fadd(before, column), b.inttoptr(place, vector), align=4)

    @intrinsic
    def tile(typing, a, a_row, b, count, start, c, c_row, columns, spare):  # type: ignore[no-untyped-def]
        return types.void(*[types.intp] * 9), _code(build)

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
        length = b.mul(count, _constant(PANEL))

        def tap(t: Any, sums: Sums) -> Sums:
            here = b.add(table, b.mul(t, table_step))
            pieces, block = [_address_at(b, here, r) for r in range(rows)], b.add(right, b.mul(t, length))

            def step(k: Any, sums: Sums) -> Sums:
                along = b.mul(k, _constant(4))
                return _add_products(
                    b, [b.add(piece, along) for piece in pieces], b.add(block, b.mul(k, _constant(PANEL))), sums
                )

            return _repeat(b, count, sums, step)

        first = _row_at(b, start)
        for r, sums in enumerate(_repeat(b, taps, [first] * rows, tap)):
            _store_row(b, b.add(_address_at(b, targets, r), offset), sums)

    @intrinsic
    def tile(typing, table, table_step, taps, count, b, start, targets, offset):  # type: ignore[no-untyped-def]
        return types.void(*[types.intp] * 8), _code(build)

    return tile


def _summing_tile(rows: int) -> Any:
    """``tile(table, offset, count, b, c, add)``: products of columns, for the gradient of a weight.

    ``c[r, j] (+)= sum_k a[k][r] b[k, j]``, where `rows` numbers a[k] begin `offset` bytes after the address that stands
    in the table (count,); rows of b and of c are rows of a panel.
    """

    def build(b: Any, table: Any, offset: Any, count: Any, right: Any, target: Any, add: Any) -> None:
        targets = _spaced(b, target, _constant(PANEL), rows)

        def step(k: Any, sums: Sums) -> Sums:
            left = b.add(_address_at(b, b.add(table, b.mul(k, _constant(8))), 0), offset)
            return _add_products(
                b, _spaced(b, left, _constant(4), rows), b.add(right, b.mul(k, _constant(PANEL))), sums
            )

        for row, sums in zip(targets, _repeat(b, count, _start(b, add, targets), step), strict=True):
            _store_row(b, row, sums)

    @intrinsic
    def tile(typing, table, offset, count, b, c, add):  # type: ignore[no-untyped-def]
        return types.void(*[types.intp] * 6), _code(build)

    return tile


@intrinsic
def copy_row(typing, source, target):  # type: ignore[no-untyped-def]
    """``target[:COLUMNS] = source[:COLUMNS]``, numbers at two addresses."""
    return types.void(types.intp, types.intp), _code(
        lambda b, source, target: _store_row(b, target, _row_at(b, source))
    )


@intrinsic
def copy(typing, source, target, count):  # type: ignore[no-untyped-def]
    """``target[:count] = source[:count]``, numbers at two addresses."""

    def build(b: Any, source: Any, target: Any, count: Any) -> None:
        byte = ir.IntType(8).as_pointer()
        cgutils.raw_memcpy(b, b.inttoptr(target, byte), b.inttoptr(source, byte), count, _constant(4), align=4)

    return types.void(*[types.intp] * 3), _code(build)


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
        return types.void(types.intp), _code(build)

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
