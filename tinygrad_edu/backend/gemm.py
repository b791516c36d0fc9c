"""The one matrix product that every layer uses."""

from __future__ import annotations

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
