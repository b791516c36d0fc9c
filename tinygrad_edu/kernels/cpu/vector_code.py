"""Vector code by hand: what LLVM is told where Numba finds no good loop by itself.

Numba lets a function write its own LLVM code (an *intrinsic*). These are the words that :mod:`.tiles` writes it in:
numbers at addresses, rows of COLUMNS numbers as vectors of LANES, and loops that keep such rows in registers. LLVM
splits the vectors where a machine has narrower ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from ...machine import cpu_info

# A tile's results, one row of the right-hand matrix, and a number of the left one must fit in the registers:
# 32 of 16 numbers with AVX-512; else 16 of 8 numbers, as AVX2 has them.
WIDE = cpu_info().has_avx512
ROWS, COLUMNS, LANES = (8, 32, 16) if WIDE else (4, 16, 8)
PANEL = 4 * COLUMNS  # bytes of a row of a panel

FLOAT, INT = ir.FloatType(), ir.IntType(64)
VECTOR = ir.VectorType(FLOAT, LANES)
VECTORS = COLUMNS // LANES  # of one row

Sums = list[list[Any]]  # sums[row][vector]


def constant(value: int) -> Any:
    return ir.Constant(INT, value)


def address_at(builder: Any, table: Any, place: int) -> Any:
    """The address that stands at this place of a table of int64."""
    return builder.load(builder.inttoptr(builder.add(table, constant(8 * place)), INT.as_pointer()))


def _vector_at(builder: Any, address: Any, v: int) -> Any:
    return builder.inttoptr(builder.add(address, constant(4 * LANES * v)), VECTOR.as_pointer())


def row_at(builder: Any, address: Any) -> list[Any]:
    return [builder.load(_vector_at(builder, address, v), align=4) for v in range(VECTORS)]


def store_row(builder: Any, address: Any, row: list[Any]) -> None:
    for v, vector in enumerate(row):
        builder.store(vector, _vector_at(builder, address, v), align=4)


def zeros(rows: int) -> Sums:
    zero = ir.Constant(VECTOR, [ir.Constant(FLOAT, 0.0)] * LANES)
    return [[zero] * VECTORS for _ in range(rows)]


def _spread(builder: Any, address: Any) -> Any:
    """A vector with the number at `address` in each lane."""
    value = builder.load(builder.inttoptr(address, FLOAT.as_pointer()), align=4)
    nothing = ir.Constant(VECTOR, ir.Undefined)
    first = builder.insert_element(nothing, value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))


def add_products(builder: Any, factors: list[Any], row: Any, sums: Sums) -> Sums:
    """``sums[r] + factors[r] * row`` for the numbers at the addresses `factors` and the row at the address `row`."""
    multiply_add = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(VECTOR, [VECTOR] * 3), f"llvm.fmuladd.v{LANES}f32"
    )
    columns = row_at(builder, row)
    new = []
    for address, totals in zip(factors, sums, strict=True):
        factor = _spread(builder, address)
        new.append([builder.call(multiply_add, [factor, *pair]) for pair in zip(columns, totals, strict=True)])
    return new


def repeat(builder: Any, count: Any, sums: Sums, body: Callable[[Any, Sums], Sums]) -> Sums:
    """``for k in range(count): sums = body(k, sums)``, the sums kept in registers; `count` is at least 1."""
    before = builder.block
    loop, after = builder.append_basic_block("loop"), builder.append_basic_block("after")
    builder.branch(loop)
    builder.position_at_end(loop)
    k = builder.phi(INT)
    k.add_incoming(constant(0), before)
    inside = [[builder.phi(VECTOR) for _ in row] for row in sums]
    new = body(k, inside)
    following = builder.add(k, constant(1))
    k.add_incoming(following, builder.block)
    for phis, first, last in zip(inside, sums, new, strict=True):
        for phi, one, other in zip(phis, first, last, strict=True):
            phi.add_incoming(one, before)
            phi.add_incoming(other, builder.block)
    builder.cbranch(builder.icmp_signed("<", following, count), loop, after)
    builder.position_at_end(after)
    return new


def start_from(builder: Any, add: Any, rows: list[Any]) -> Sums:
    """What stands at the addresses `rows` where `add` is not 0, else zeros."""
    before = builder.block
    load, after = builder.append_basic_block("load"), builder.append_basic_block("start")
    builder.cbranch(builder.icmp_signed("!=", add, constant(0)), load, after)
    builder.position_at_end(load)
    found = [row_at(builder, row) for row in rows]
    builder.branch(after)
    builder.position_at_end(after)
    sums = [[builder.phi(VECTOR) for _ in range(VECTORS)] for _ in rows]
    for phis, loaded, nothing in zip(sums, found, zeros(len(rows)), strict=True):
        for phi, there, zero in zip(phis, loaded, nothing, strict=True):
            phi.add_incoming(there, load)
            phi.add_incoming(zero, before)
    return sums


def spaced(builder: Any, first: Any, step: Any, rows: int) -> list[Any]:
    """Addresses `step` bytes apart."""
    found = [first]
    while len(found) < rows:
        found.append(builder.add(found[-1], step))
    return found


def code(build: Callable[..., None]) -> Callable[..., Any]:
    """What Numba asks of an intrinsic that returns nothing; `build` (builder, *arguments) writes its code."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        build(builder, *arguments)
        return context.get_dummy_value()

    return generate


def _interleaved(builder: Any, one: Any, other: Any, chunk: int, second: bool) -> Any:
    """Half of the chunks of two vectors, in turn: the first `chunk` lanes of one, the first of the other, ..."""
    begin = LANES // 2 if second else 0
    lanes = []
    for lane in range(LANES):
        pair, within = divmod(lane, 2 * chunk)
        lanes.append(begin + pair * chunk + within % chunk + (LANES if within >= chunk else 0))
    return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(ir.IntType(32), LANES), lanes))


def columns_of(builder: Any, rows: list[Any]) -> list[Any]:
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
