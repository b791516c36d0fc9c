"""The transforms of Winograd's convolution, written for whole vectors of channels.

A 3x3 convolution of stride 1 makes 2x2 results out of 4x4 pixels (Winograd, 1980; Lavin & Gray, 2016). With the three
matrices below, g a filter, d the pixels and e the elementwise product,

    y = A^T ((G g G^T) e (B^T d B)) A,

which multiplies 16 times where the sum over taps does 36 times. Both gradients are the same three matrices, transposed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .vector_code import LANES

TILE, SIDE, TAPS = 4, 2, 3  # pixels that are seen, results that are made, taps of the kernel; of each axis

Matrix = Sequence[Sequence[float]]

PIXELS: Matrix = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))  # B^T
FILTER: Matrix = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))  # G
RESULT: Matrix = ((1, 1, 1, 0), (0, 1, -1, -1))  # A^T


def _transposed(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))


class _Numbers:
    """A vector of numbers, one a channel; what is done with it is written as code."""

    def __init__(self, builder: Any, value: Any):
        self.builder, self.value = builder, value

    def __add__(self, other: _Numbers) -> _Numbers:
        return _Numbers(self.builder, self.builder.fadd(self.value, other.value))

    def __sub__(self, other: _Numbers) -> _Numbers:
        return _Numbers(self.builder, self.builder.fsub(self.value, other.value))

    def __rmul__(self, factor: float) -> _Numbers:
        kind = self.value.type
        number = ir.Constant(ir.FloatType(), factor)
        constant = ir.Constant(kind, [number] * LANES) if isinstance(kind, ir.VectorType) else number
        return _Numbers(self.builder, self.builder.fmul(constant, self.value))


def _combined(row: Sequence[float], numbers: Sequence[_Numbers]) -> _Numbers:
    """``sum_i row[i] numbers[i]``; zeros cost nothing, and ones no product."""
    total = None  # those that are added come first: there is a minus, but no negation
    for factor, number in sorted(zip(row, numbers, strict=True), key=lambda pair: pair[0] <= 0):
        if factor == 0:
            continue
        if total is None:
            total = number if factor == 1 else factor * number
        else:
            term = number if abs(factor) == 1 else abs(factor) * number
            total = total + term if factor > 0 else total - term
    assert total is not None
    return total


def _both_sides(matrix: Matrix, square: Sequence[Sequence[_Numbers]]) -> list[list[_Numbers]]:
    """``M S M^T``."""
    half = [[_combined(row, column) for column in zip(*square, strict=True)] for row in matrix]
    return [[_combined(row, line) for row in matrix] for line in half]


def _lanewise(sources: int, targets: int, function: Callable[[list[_Numbers]], list[_Numbers]]) -> Any:
    """``apply(sources, targets, count)``: `function` of the numbers at these tables of addresses, for `count` channels.

    The last vector overlaps the one before it where the channels are no whole number of vectors, so sources and targets
    must not be the same memory; fewer channels than a vector has go one by one.
    """

    def loop(builder: Any, tables: tuple[Any, Any], count: Any, kind: Any, step: int) -> None:
        word = ir.IntType(64)

        def constant(value: int) -> Any:
            return ir.Constant(word, value)

        def address(table: Any, i: int) -> Any:
            return builder.load(builder.inttoptr(builder.add(table, constant(8 * i)), word.as_pointer()))

        places = [
            [address(table, i) for i in range(size)] for table, size in zip(tables, (sources, targets), strict=True)
        ]
        last = builder.sub(count, constant(step))
        before = builder.block
        head, body, after = (builder.append_basic_block(name) for name in ("head", "body", "after"))
        builder.branch(head)
        builder.position_at_end(head)
        k = builder.phi(word)
        k.add_incoming(constant(0), before)
        builder.cbranch(builder.icmp_signed("<", k, count), body, after)
        builder.position_at_end(body)
        here = builder.select(builder.icmp_signed("<", k, last), k, last)

        def pointer(place: Any) -> Any:
            return builder.inttoptr(builder.add(place, builder.mul(here, constant(4))), kind.as_pointer())

        numbers = [_Numbers(builder, builder.load(pointer(place), align=4)) for place in places[0]]
        for place, number in zip(places[1], function(numbers), strict=True):
            builder.store(number.value, pointer(place), align=4)
        k.add_incoming(builder.add(k, constant(step)), builder.block)
        builder.branch(head)
        builder.position_at_end(after)

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        *tables, count = arguments
        number = ir.FloatType()
        with builder.if_else(builder.icmp_signed("<", count, ir.Constant(ir.IntType(64), LANES))) as (few, many):
            with few:
                loop(builder, tables, count, number, 1)
            with many:
                loop(builder, tables, count, ir.VectorType(number, LANES), LANES)
        return context.get_dummy_value()

    @intrinsic
    def apply(typing, sources, targets, count):  # type: ignore[no-untyped-def]
        return types.void(*[types.intp] * 3), generate

    return apply


def _square(numbers: list[_Numbers], side: int) -> list[list[_Numbers]]:
    return [numbers[row * side : (row + 1) * side] for row in range(side)]


def _transform(matrix: Matrix) -> Any:
    """``M S M^T`` of squares whose numbers lie row by row in the tables."""
    side = len(matrix[0])
    return _lanewise(
        side * side,
        len(matrix) ** 2,
        lambda numbers: [number for line in _both_sides(matrix, _square(numbers, side)) for number in line],
    )


def _with_bias(numbers: list[_Numbers]) -> list[_Numbers]:
    *products, bias = numbers
    return [number + bias for line in _both_sides(RESULT, _square(products, TILE)) for number in line]


transform_pixels = _transform(PIXELS)
"""``B^T d B``: 16 pixels to the 16 left factors."""
transform_filter = _transform(FILTER)
"""``G g G^T``: 9 taps to the 16 right factors."""
transform_result = _lanewise(TILE**2 + 1, SIDE**2, _with_bias)
"""``A^T m A + bias``: 16 products and the bias to 4 results."""
transform_result_gradient = _transform(_transposed(RESULT))
"""``A dy A^T``: the gradients of 4 results to those of the 16 products."""
transform_filter_gradient = _transform(_transposed(FILTER))
"""``G^T D G``: the gradients of the 16 right factors to those of the 9 taps."""
