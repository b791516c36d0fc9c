"""What the CPU kernels share: how they are compiled, and an exponential that the compiler can vectorise."""

from __future__ import annotations

import functools
import os
import threading
import types
import warnings
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from ...errors import ShapeError, format_shape

# Sums may be reordered and contracted, which is what makes them vectorise; NaN and infinity keep their meaning
# (no "nnan", "ninf"), because masks and the detection of broken training depend on them.
_FASTMATH = {"reassoc", "contract", "arcp", "nsz"}

_SMALL = 16384  # elements below which waking a second thread costs more than it brings


def _nothing() -> None:
    """What :func:`_can_keep` asks Numba to keep."""


def _can_keep() -> bool:
    """Whether compiled code can be kept on disk; Numba refuses where neither library nor home is writable."""
    try:
        numba.njit(cache=True)(_nothing)
    except RuntimeError as error:
        warnings.warn(
            f"the kernels are compiled anew in each process, because there is no place to keep them ({error}); "
            "set NUMBA_CACHE_DIR to a folder that can be written",
            stacklevel=2,
        )
        return False
    return True


_KEEP = _can_keep()


class _Team:
    """The threads of the parallel loops, of which a process has one team: one loop at a time has them.

    Two Python threads that start loops together would put twice as many threads on the cores; and Numba's
    ``workqueue`` layer, the one it takes where neither OpenMP nor TBB is installed, then ends the process. A
    forked child has no team, and starting one ends it too: its loops stay in one thread.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.started = self.lost = False
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        self.lock = threading.RLock()  # another thread of the parent may have held the old one
        self.lost = self.lost or self.started


_team = _Team()


class parallel:  # noqa: N801 - a decorator
    """Compile a loop over ``prange``, to run in all threads where its first array is large, in one where it is small.

    One generated token is some thirty loops over a few hundred numbers each.

    Parameters
    ----------
    signature : the only types to compile for; without, Numba compiles anew for each memory layout that comes
    times : how many times as many elements as usual it takes until sharing them pays, of a loop that does little
        with each. A thread that has nothing to do sleeps, and waking it took 30 to 60 us; in that time one thread
        puts 2^18 to 2^19 numbers through a rectifier, or 2^17 through a GELU
    """

    def __init__(self, function: Any, signature: tuple[Any, ...] | None = None, times: int = 1):
        self.signature, self.times = signature, times
        functools.update_wrapper(self, function)
        options = {"fastmath": _FASTMATH, "cache": _KEEP, "nogil": True, "error_model": "numpy"}
        self.many = numba.njit(parallel=True, **options)(function)
        # Numba files what it compiled under the function's name, so the second form needs a name of its own.
        alone = types.FunctionType(function.__code__, function.__globals__, f"{function.__name__}_alone")
        alone.__qualname__ = f"{function.__qualname__}_alone"
        self.one = numba.njit(**options)(alone)
        self._to_compile = [] if signature is None else [self.one, self.many]

    def __call__(self, first: Any, *rest: Any) -> None:
        if first.size < _SMALL * self.times or _team.lost:
            self._prepare(self.one)
            self.one(first, *rest)
            return
        with _team.lock:
            _team.started = True
            self._prepare(self.many)
            self.many(first, *rest)

    def _prepare(self, loop: Any) -> None:
        """Compile `loop` for the signature, once; asking Numba whether it is would cost more than a small loop."""
        if self._to_compile and loop in self._to_compile:
            with _team.lock:  # two threads may come for the first call
                if loop in self._to_compile:
                    loop.compile(self.signature)
                    loop.disable_compile()
                    self._to_compile.remove(loop)


def parallel_for(*signature: Any, times: int = 1) -> Callable[[Any], parallel]:
    """:class:`parallel`, compiled for these types alone; arrays of another layout are cast to them for nothing."""
    return lambda function: parallel(function, signature, times)


inline = numba.njit(fastmath=_FASTMATH, cache=_KEEP, error_model="numpy", inline="always")
compiled = numba.njit(fastmath=_FASTMATH, cache=_KEEP, error_model="numpy", nogil=True)  # once, not into each caller


@compiled
def add_to(target, x):  # type: ignore[no-untyped-def]
    """``target += x``; a loop of its own, in which the compiler sees that only two arrays meet."""
    for i in range(x.size):
        target[i] += x[i]


_LOG2E = np.float32(1.4426950408889634)
_LN2_HIGH = np.float32(0.693359375)  # few bits, so that n * _LN2_HIGH is exact
_LN2_LOW = np.float32(-2.12194440e-4)
_ONE, _TWO, _ZERO = np.float32(1), np.float32(2), np.float32(0)
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


@inline
def sigmoid32(x):  # type: ignore[no-untyped-def]
    """1/(1 + e^-x); e^-x may be infinite, and the quotient is then 0 as it should be."""
    return _ONE / (_ONE + exp32(-x))


@inline
def tanh32(x):  # type: ignore[no-untyped-def]
    """Hyperbolic tangent in float32 to about 2 ulp, without a call.

    Near zero, where a quotient of exponentials would lose its digits, the polynomial of Cephes' tanhf (Moshier).
    """
    z = x * x
    p = np.float32(-5.70498872745e-3)
    p = p * z + np.float32(2.06390887954e-2)
    p = p * z - np.float32(5.37397155531e-2)
    p = p * z + np.float32(1.33314422036e-1)
    p = p * z - np.float32(3.33332819422e-1)
    near = p * z * x + x
    size = abs(x)
    far = _ONE - _TWO / (exp32(size + size) + _ONE)
    far = far if x > 0 else -far
    return near if size < np.float32(0.625) else far


@inline
def _rank(bits):  # type: ignore[no-untyped-def]
    """Bits of a float32 to an integer that is ordered as the numbers are, and back."""
    return bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))


_LEAST = np.int32(-0x7F800001)  # the rank of -inf; NaNs rank below it or above +inf, by their sign


@numba.njit(fastmath=_FASTMATH, cache=_KEEP, error_model="numpy")
def largest(row):  # type: ignore[no-untyped-def]
    """The largest element; -inf of none.

    A maximum of integers becomes vector code, one of floats does not, because of NaN. Where a row has one, what is
    returned does not matter: the sum of exponentials that follows is NaN by the element itself.
    """
    top = _LEAST
    for i in range(row.size):
        top = max(top, _rank(np.float32(row[i]).view(np.int32)))
    return np.int32(_rank(top)).view(np.float32)


@numba.njit(fastmath=_FASTMATH, cache=_KEEP, error_model="numpy")
def has_nan(row):  # type: ignore[no-untyped-def]
    """Whether any element is NaN, for the rare row whose largest element says nothing."""
    found = False
    for i in range(row.size):
        found |= np.isnan(row[i])
    return found


def expect(op: str, shape: tuple[int, ...], **arrays: Any) -> None:
    """Raise ShapeError unless each array has that shape: compiled loops would read past the end of a smaller one."""
    for name, x in arrays.items():
        if x.shape != shape:
            raise ShapeError(f"{op}: {name} must be {format_shape(shape)}, got {format_shape(x.shape)}")


def rows_of(x: Any) -> Any:
    """`x` as a contiguous matrix of its last axis, a view where it can be."""
    return np.ascontiguousarray(x).reshape(-1, x.shape[-1])


def flat(x: Any) -> Any:
    """`x` as a contiguous vector, a view where it can be."""
    return np.ascontiguousarray(x).reshape(-1)
