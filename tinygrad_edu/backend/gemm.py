"""The one matrix product that every layer uses, and the library that computes it on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .device import Array, namespace
from .dispatch import op


@op
def gemm(a: Array, b: Array, out: Array | None = None, accumulate: bool = False) -> Array:
    """Matrix product ``a @ b`` of two matrices, into `out`, or added to it.

    A transposed operand is given as a view (``a.T``): BLAS reads it as it lies, nothing is copied.

    Parameters
    ----------
    a : (M, K)
    b : (K, N)
    out : (M, N), where the product goes; a new array if None
    accumulate : add to `out` (which must then be given) instead of overwriting it

    Returns
    -------
    (M, N), `out` itself if it was given
    """
    xp = namespace(a, b)
    if not accumulate:
        return xp.matmul(a, b, out=out)
    out += xp.matmul(a, b)
    return out


def numpy_blas() -> dict[str, Any] | None:
    """What threadpoolctl says of the BLAS library that NumPy loaded, or None where it knows none.

    SciPy and scikit-learn bring copies of OpenBLAS of their own. NumPy's lies in its wheel (``numpy.libs``,
    ``numpy/.dylibs``) or, where NumPy was built on the system's, with no package at all.
    """
    from threadpoolctl import threadpool_info

    def distance(info: dict[str, Any]) -> int:
        folders = {folder.lower() for folder in Path(info["filepath"]).parts[-3:-1]}
        if folders & {"numpy", "numpy.libs"}:
            return 0
        return 2 if any(folder.endswith((".libs", ".dylibs")) for folder in folders) else 1

    found = [dict(info) for info in threadpool_info() if info.get("user_api") == "blas"]
    return min(found, key=distance, default=None)
