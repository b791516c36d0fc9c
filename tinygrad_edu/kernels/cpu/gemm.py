"""The matrix product, with accumulation inside BLAS."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...backend import kernel
from ...errors import DeviceError
from .blas import accumulate_product


@kernel("gemm", device="cpu", dtypes=("float32",))
def gemm(a: Any, b: Any, out: Any = None, accumulate: bool = False) -> Any:
    """NumPy's matmul, which hands transposed views to BLAS as they lie; ``beta = 1`` where it accumulates."""
    if not isinstance(b, np.ndarray):
        raise DeviceError(f"gemm: a is on the CPU, b is a {type(b).__module__}.{type(b).__qualname__}")
    if not accumulate:
        return np.matmul(a, b, out=out)
    if a.shape[1] != b.shape[0] or out.shape != (a.shape[0], b.shape[1]) or not accumulate_product(a, b, out):
        out += np.matmul(a, b)
    return out
