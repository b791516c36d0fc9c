"""What the kernels of the three recurrent layers share: sizes, rows of memory, and the products outside of the loop."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import get_num_threads, prange, types

from .common import compiled, expect, parallel_for
from .recurrent_product import product, transposed_product
from .tiles import pack, padded
from .vector_code import COLUMNS

# Types of the compiled loops. What comes from outside may be read-only.
READ = types.Array(types.float32, 3, "C", readonly=True)  # (T, B, width), or (B, T, width)
PACKED = types.Array(types.float32, 3, "C", readonly=True)
WRITE = types.float32[:, :, ::1]
MATRIX, VECTOR, LENGTHS = types.float32[:, ::1], types.float32[::1], types.Array(types.int64, 1, "C", readonly=True)

NOTHING = np.empty((0, 1, COLUMNS), dtype=np.float32)  # a packed matrix of no columns


@compiled
def share(batch, part, parts):  # type: ignore[no-untyped-def]
    """The sequences of one part, in fours, because four rows are a tile."""
    fours = (batch + 3) // 4
    return 4 * (fours * part // parts), min(batch, 4 * (fours * (part + 1) // parts))


@parallel_for(WRITE, READ, LENGTHS)
def _turn(turned, x, lengths):  # type: ignore[no-untyped-def]
    for t in prange(turned.shape[0]):
        for b in range(turned.shape[1]):
            if t < lengths[b]:
                turned[t, b] = x[b, t]
            else:
                turned[t, b] = np.float32(0)


def by_time(x: Any, lengths: Any = None) -> Any:
    """`x` (T, B, width) contiguous, without a copy where it is so; with `lengths`, a copy with zeros for padding.

    What comes from a layer lies batch first in memory, and is turned round by all threads.
    """
    time, batch, _ = x.shape
    if x.size and x.swapaxes(0, 1).flags.c_contiguous and not x.flags.c_contiguous:
        turned = np.empty(x.shape, dtype=np.float32)
        _turn(turned, x.swapaxes(0, 1), np.full(batch, time, dtype=np.int64) if lengths is None else lengths)
        return turned
    if lengths is None:
        return np.ascontiguousarray(x)
    real = (np.arange(time)[:, None] < lengths)[:, :, None]
    return np.ascontiguousarray(np.where(real, x, np.float32(0)))  # else it lies in memory as x does


def states(initial: Any, time: int, reverse: bool) -> Any:
    """Room for the states before and after each step, (T + 1, B, H), the first one set."""
    room = np.empty((time + 1, *initial.shape), dtype=np.float32)
    room[time if reverse else 0] = initial
    return room


def around(room: Any, reverse: bool) -> Any:
    """The states before each step, as rows (T B, H)."""
    before = np.ascontiguousarray(room)[slice(1, None) if reverse else slice(None, -1)]
    return before.reshape(-1, room.shape[2])


class Sequences:
    """Sizes of one call, checked; and what is done with all steps at once.

    A single step, as generation makes it, packs nothing: its matrices are used once, and BLAS reads them as they lie.

    Attributes
    ----------
    time, batch, inputs, width : T, B, I, H
    rows : T B
    parts : into how many the batch is cut
    lengths : (B,), int64
    """

    def __init__(self, op: str, x: Any, h0: Any, weight_ih: Any, weight_hh: Any, lengths: Any, gates: int):
        self.op, (self.time, self.batch, self.inputs) = op, x.shape
        self.width = h0.shape[-1]
        self.rows = self.time * self.batch
        expect(op, (self.batch, self.width), **{"h0" if not op.endswith("backward") else "dhn": h0})
        expect(op, (gates * self.width, self.inputs), weight_ih=weight_ih)
        expect(op, (gates * self.width, self.width), weight_hh=weight_hh)
        self.threads = get_num_threads()
        self.parts = max(1, min(self.threads, (self.batch + 3) // 4))
        self.empty = 0 in (self.rows, self.inputs, self.width)
        self.one_step = self.time == 1
        self._full = lengths is None
        if lengths is None:
            self.lengths = np.full(self.batch, self.time, dtype=np.int64)
        else:
            expect(op, (self.batch,), lengths=lengths)
            self.lengths = np.ascontiguousarray(lengths, dtype=np.int64)

    def bias(self, bias: Any, name: str, size: int) -> Any:
        """A bias, or zeros."""
        if bias is None:
            return np.zeros(size, dtype=np.float32)
        expect(self.op, (size,), **{name: bias})
        return np.ascontiguousarray(bias)

    def rows_of(self, x: Any) -> Any:
        """The inputs as rows (T B, I), zeros where they are padding."""
        return by_time(x, None if self._full else self.lengths).reshape(self.rows, self.inputs)

    def inputs_times(self, x: Any, weight_ih: Any, gates: Any) -> None:
        """The inputs' part of all gates, (T, B, at least G H)."""
        rows = gates.reshape(self.rows, gates.shape[2])
        if self.one_step:
            rows[:, : len(weight_ih)] = np.matmul(self.rows_of(x), weight_ih.T)
        else:
            product(self.rows_of(x), pack(weight_ih.T), rows, self.threads)

    def packed(self, matrix: Any) -> Any:
        """The right-hand matrix of every step."""
        return NOTHING if self.one_step else pack(matrix)

    def room(self, columns: int) -> Any:
        """Memory for (T, B, columns)."""
        return np.empty((self.time, self.batch, columns), dtype=np.float32)

    def state_gradient(self, dhn: Any) -> Any:
        """The gradient of the state as it is carried from step to step, (B, H) with room for the last panel."""
        dh = np.zeros((self.batch, padded(self.width)), dtype=np.float32)
        dh[:, : self.width] = dhn
        return dh

    def input_gradients(self, dz: Any, x: Any, weight_ih: Any) -> tuple[Any, Any]:
        """dx (T, B, I) and the gradient of W_ih, from rows dz (T B, G H)."""
        if self.one_step:
            rows = np.matmul(dz, weight_ih)
        else:
            rows = np.empty((self.rows, padded(self.inputs)), dtype=np.float32)
            product(dz, pack(weight_ih), rows, self.threads)
        dx = rows.reshape(self.time, self.batch, -1)[:, :, : self.inputs]
        return dx, self.weight_gradient(dz, self.rows_of(x))

    def weight_gradient(self, dz: Any, rows: Any) -> Any:
        """``dz^T rows``, (columns of dz, columns of the rows)."""
        return np.matmul(dz.T, rows) if self.one_step else transposed_product(dz, rows, self.threads)
