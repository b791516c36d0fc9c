"""The embedding's gradient: rows of one id summed together, so that no two threads write one row."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from ...backend import kernel
from ...errors import RangeError
from .common import expect, parallel, rows_of


@parallel
def _scatter(dy, order, starts, ids, dweight):  # type: ignore[no-untyped-def]
    for s in prange(starts.size - 1):
        row = ids[order[starts[s]]]
        for place in range(starts[s], starts[s + 1]):
            n = order[place]
            for c in range(dy.shape[1]):
                dweight[row, c] += dy[n, c]


@kernel("embedding_backward", device="cpu")
def embedding_backward(dy: Any, ids: Any, dweight: Any) -> Any:
    expect("embedding_backward", (*ids.shape, dweight.shape[1]), dy=dy)
    ids = np.ascontiguousarray(ids, dtype=np.int64).reshape(-1)
    order = np.argsort(ids, kind="stable")  # equal ids side by side, in reading order: the sum is deterministic
    ordered = ids[order]
    if ids.size and not 0 <= ordered[0] <= ordered[-1] < len(dweight):
        raise RangeError(
            f"embedding_backward: ids must be in [0, {len(dweight)}), they run from {ordered[0]} to {ordered[-1]}"
        )
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1], [True]))) if ids.size else ids[:0]
    if ids.size:
        _scatter(rows_of(dy), order, starts, ids, dweight)
    return dweight
