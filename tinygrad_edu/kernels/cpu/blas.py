"""The BLAS that NumPy brought, called directly: with strides, with accumulation, and from inside Numba loops.

NumPy offers no ``C += A B`` and no products inside a parallel loop. Its own OpenBLAS has both; it is found
where NumPy's wheel put it. Where there is none (another BLAS), :data:`sgemm` is None and callers fall back.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import llvmlite.binding
import numba
import numpy as np
from numba import types

from ...backend.gemm import numpy_blas

ROW_MAJOR, NO_TRANSPOSE, TRANSPOSE = 101, 111, 112
SYMBOL = "tinygrad_edu_sgemm"

_PREFIXES = ("scipy_", "")
_SUFFIXES = ("64_", "") if sys.platform != "darwin" else ("64_",)


def _find(name: str, library: ctypes.CDLL) -> Any:
    """The function `name` under the prefix and suffix that this build of OpenBLAS gives its symbols, or None.

    A suffix of 64_ means 64-bit integers. Arguments are always passed as 64 bits: a 32-bit build reads their lower
    half, except on Apple's arm64, where arguments on the stack are packed.
    """
    for prefix in _PREFIXES:
        for suffix in _SUFFIXES:
            function = getattr(library, f"{prefix}{name}{suffix}", None)
            if function is not None:
                return function
    return None


def _load() -> dict[str, Any]:
    pool = numpy_blas()
    if pool is None or pool["internal_api"] != "openblas" or "numpy" not in pool["filepath"]:
        return {}
    library = ctypes.CDLL(pool["filepath"])
    found = {
        name: _find(name, library) for name in ("cblas_sgemm", "openblas_set_num_threads", "openblas_get_num_threads")
    }
    return found if all(found.values()) else {}


_functions = _load()
available = bool(_functions)

if available:
    _sgemm = _functions["cblas_sgemm"]
    _sgemm.restype = None
    _int, _enum, _float, _pointer = ctypes.c_int64, ctypes.c_int, ctypes.c_float, ctypes.c_void_p
    _sgemm.argtypes = [
        *(_enum,) * 3, *(_int,) * 3, _float, _pointer, _int, _pointer, _int, _float, _pointer, _int,
    ]  # fmt: skip
    _set_threads = _functions["openblas_set_num_threads"]
    _get_threads = _functions["openblas_get_num_threads"]
    _set_threads.argtypes, _set_threads.restype = [ctypes.c_int], None
    _get_threads.argtypes, _get_threads.restype = [], ctypes.c_int
    # By a name of our own, so that compiled code kept on disk finds the function again wherever it lies then.
    llvmlite.binding.add_symbol(SYMBOL, ctypes.cast(_sgemm, ctypes.c_void_p).value)

sgemm_in_loop = types.ExternalFunction(
    SYMBOL,
    types.void(
        *(types.int32,) * 3, *(types.int64,) * 3, types.float32, types.uintp, types.int64, types.uintp, types.int64,
        types.float32, types.uintp, types.int64,
    ),
)  # fmt: skip
"""cblas_sgemm for use inside a Numba function; pointers are integers, ``array.ctypes.data``."""


class _OneThread:
    """Counts who asked for products in one thread: BLAS has one number of threads for the whole process.

    Of several Python threads the first notes the number that was, and the last one out sets it again.
    """

    def __init__(self) -> None:
        self._inside, self._before = 0, 1
        self._lock = threading.Lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        self._lock = threading.Lock()  # another thread of the parent may have held the old one
        if self._inside:
            self._inside = 0
            _set_threads(self._before)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if self._inside == 0:
                self._before = _get_threads()
                _set_threads(1)
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    _set_threads(self._before)


one_thread = _OneThread()
"""``with one_thread():`` products run in the calling thread, because a parallel loop outside has the cores."""


def _operand(x: Any) -> tuple[int, int] | None:
    """(transposed?, leading dimension) of a float32 matrix that BLAS can read as it lies, or None."""
    if x.strides[0] % 4 or x.strides[1] % 4:  # a field of packed records
        return None
    rows, cols = (stride // 4 for stride in x.strides)
    if cols == 1 and (rows >= max(1, x.shape[1])):
        return NO_TRANSPOSE, rows
    if rows == 1 and (cols >= max(1, x.shape[0])):
        return TRANSPOSE, cols
    return None


def accumulate_product(a: Any, b: Any, out: Any) -> bool:
    """``out += a @ b`` in one call of BLAS for float32 matrices; False, and nothing done, where BLAS cannot."""
    if not available or out.size == 0:
        return False
    left, right, target = _operand(a), _operand(b), _operand(out)
    if left is None or right is None or target is None or target[0] == TRANSPOSE:
        return False
    if not all(x.dtype == np.float32 for x in (a, b, out)):
        return False
    _sgemm(
        ROW_MAJOR, left[0], right[0], a.shape[0], b.shape[1], a.shape[1],
        1.0, a.ctypes.data, left[1], b.ctypes.data, right[1], 1.0, out.ctypes.data, target[1],
    )  # fmt: skip
    return True


def threads() -> int:
    """How many threads a parallel loop has."""
    return int(numba.get_num_threads())
