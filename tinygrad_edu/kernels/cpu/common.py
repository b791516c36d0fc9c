"""What the CPU kernels share: how they are compiled, and an exponential that the compiler can vectorise."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

# Sums may be reordered and contracted, which is what makes them vectorise; NaN and infinity keep their meaning
# (no "nnan", "ninf"), because masks and the detection of broken training depend on them.
_FASTMATH = {"reassoc", "contract", "arcp", "nsz"}

_SMALL = 16384  # elements below which waking a second thread costs more than it brings


class parallel:  # noqa: N801 - a decorator
    """Compile a loop over ``prange``, to run in all threads where its first array is large, in one where it is small.

    One generated token is some thirty loops over a few hundred numbers each.

    Parameters
    ----------
    signature : the only types to compile for; without, Numba compiles anew for each memory layout that comes
    """

    def __init__(self, function: Any, signature: tuple[Any, ...] | None = None):
        self.signature = signature
        functools.update_wrapper(self, function)
        options = {"fastmath": _FASTMATH, "cache": True, "nogil": True, "error_model": "numpy"}
        self.many = numba.njit(parallel=True, **options)(function)
        # Numba files what it compiled under the function's name, so the second form needs a name of its own.
        alone = types.FunctionType(function.__code__, function.__globals__, f"{function.__name__}_alone")
        alone.__qualname__ = f"{function.__qualname__}_alone"
        self.one = numba.njit(**options)(alone)

    def __call__(self, first: Any, *rest: Any) -> None:
        loop = self.one if first.size < _SMALL else self.many
        if self.signature is not None and not loop.signatures:
            loop.compile(self.signature)
            loop.disable_compile()
        loop(first, *rest)


def parallel_for(*signature: Any) -> Callable[[Any], parallel]:
    """:class:`parallel`, compiled for these types alone; arrays of another layout are cast to them for nothing."""
    return lambda function: parallel(function, signature)


inline = numba.njit(fastmath=_FASTMATH, cache=True, error_model="numpy", inline="always")

_LOG2E = np.float32(1.4426950408889634)
_LN2_HIGH = np.float32(0.693359375)  # few bits, so that n * _LN2_HIGH is exact
_LN2_LOW = np.float32(-2.12194440e-4)
_ONE, _ZERO = np.float32(1), np.float32(0)
_LOWEST, _HIGHEST, _INF = np.float32(-87.3), np.float32(88.7), np.float32(np.inf)


@inline
def exp32(x):  # type: ignore[no-untyped-def]
    """e^x in float32 to about 1 ulp, without a call, so that a loop over it becomes vector code.

    x = n ln 2 + r with abs(r) <= ln 2 / 2; e^r by the polynomial of Cephes' expf (Moshier), 2^n by its exponent bits.
    """
    n = np.rint(min(max(x, _LOWEST), _HIGHEST) * _LOG2E)
    r = x - n * _LN2_HIGH - n * _LN2_LOW
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    y = p * r * r + r + _ONE
    y = y * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
    y = y if not x < _LOWEST else _ZERO  # also e^-inf = 0; a NaN stays NaN
    return y if not x > _HIGHEST else _INF


@numba.njit(fastmath=_FASTMATH | {"nnan"}, cache=True, error_model="numpy")
def largest(row):  # type: ignore[no-untyped-def]
    """The largest element; -inf of none.

    Only a maximum that may ignore NaN becomes vector code. Where a row has one, what is returned does not matter:
    the sum of exponentials that follows is NaN by the element itself.
    """
    top = -_INF
    for i in range(row.size):
        top = max(top, row[i])
    return top


@numba.njit(fastmath=_FASTMATH, cache=True, error_model="numpy")
def has_nan(row):  # type: ignore[no-untyped-def]
    """Whether any element is NaN, for the rare row whose largest element says nothing."""
    found = False
    for i in range(row.size):
        found |= np.isnan(row[i])
    return found


def rows_of(x: Any) -> Any:
    """`x` as a contiguous matrix of its last axis, a view where it can be."""
    return np.ascontiguousarray(x).reshape(-1, x.shape[-1])


def flat(x: Any) -> Any:
    """`x` as a contiguous vector, a view where it can be."""
    return np.ascontiguousarray(x).reshape(-1)
