"""Keys and values that attention keeps from one generated position to the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..backend import Array, device_of, namespace, to_device, to_host
from ..errors import DtypeError, ShapeError, format_shape


@dataclass
class KeyValueCache:
    """Keys and values of the positions that one attention layer has seen, so that generation need not redo them.

    Attributes
    ----------
    max_len : positions there is room for
    length : positions kept so far
    """

    max_len: int
    length: int = 0
    _keys: Array | None = None
    _values: Array | None = None

    def extend(self, k: Array, v: Array) -> tuple[Array, Array]:
        """Append (B, H, T, hd) and return all kept so far, (B, H, length, hd), as views.

        Raises
        ------
        ShapeError, DtypeError
            If there is no room left, or these heads are not like those it holds.
        """
        batch, heads, new, dim = k.shape
        if self._keys is None or self._values is None:
            xp = namespace(k, v)
            self._keys = xp.empty((batch, heads, self.max_len, dim), dtype=k.dtype)
            self._values = xp.empty_like(self._keys)
        held, held_heads, _, held_dim = self._keys.shape
        if held != batch:
            raise ShapeError(f"KeyValueCache: it holds a batch of {held}, got one of {batch}")
        if (held_heads, held_dim) != (heads, dim):
            raise ShapeError(
                f"KeyValueCache: it holds {held_heads} heads of width {held_dim}, got {heads} of width {dim}: "
                "each attention layer needs a cache of its own"
            )
        if self._keys.dtype != k.dtype:
            raise DtypeError(f"KeyValueCache: it holds {self._keys.dtype}, got {k.dtype}")
        end = self.length + new
        if end > self.max_len:
            raise ShapeError(f"KeyValueCache: sequence of length {end} is longer than max_len {self.max_len}")
        self._keys[:, :, self.length : end] = k
        self._values[:, :, self.length : end] = v
        self.length = end
        return self._keys[:, :, :end], self._values[:, :, :end]

    def reorder(self, rows: Any) -> None:
        """Let sequence i of the batch go on from what sequence ``rows[i]`` has seen, as beam search does.

        Parameters
        ----------
        rows : (new batch,) integers in [0, batch); a sequence may come several times, or not at all
        """
        if self._keys is None or self._values is None:
            return
        rows = _check_rows("KeyValueCache", rows, self._keys)
        shape = (len(rows), *self._keys.shape[1:])
        for name in ("_keys", "_values"):
            old = getattr(self, name)
            new = namespace(old).empty(shape, dtype=old.dtype)
            new[:, :, : self.length] = old[rows, :, : self.length]
            setattr(self, name, new)


@dataclass
class MemoryCache:
    """Keys and values of an encoder's output, projected by one attention layer when it first meets that.

    In generation the encoder's output is the same for every position, so one projection serves them all.
    """

    _keys: Array | None = None
    _values: Array | None = None

    def get(self, memory: Array, project: Callable[[Array], tuple[Array, Array]]) -> tuple[Array, Array]:
        """Keys and values of `memory`, (B, H, S, hd) each: those it holds, or else those that `project` makes.

        Raises
        ------
        ShapeError
            If it holds those of a memory of another batch or length.
        """
        if self._keys is None or self._values is None:
            self._keys, self._values = project(memory)
        held = (self._keys.shape[0], self._keys.shape[2])
        if held != tuple(memory.shape[:2]):
            raise ShapeError(
                f"MemoryCache: it holds a memory of (batch, time) {format_shape(held)}, "
                f"got {format_shape(tuple(memory.shape[:2]))}: another memory needs a new cache"
            )
        return self._keys, self._values

    def reorder(self, rows: Any) -> None:
        """As :meth:`KeyValueCache.reorder`; the memory that comes with it from then on must be in the new order too."""
        if self._keys is None or self._values is None:
            return
        rows = _check_rows("MemoryCache", rows, self._keys)
        self._keys, self._values = self._keys[rows], self._values[rows]


def _check_rows(name: str, rows: Any, held: Array) -> Array:
    """`rows` as an array on the device of `held`; raise unless they are integers, and rows of `held`."""
    rows = to_host(rows)
    if rows.dtype.kind not in "iu":
        raise DtypeError(f"{name}.reorder: rows must be integers, got {rows.dtype}")
    if rows.ndim != 1 or rows.size == 0:
        raise ShapeError(f"{name}.reorder: rows must be (batch,), got {format_shape(tuple(rows.shape))}")
    if rows.min() < 0 or rows.max() >= len(held):
        raise ShapeError(f"{name}.reorder: rows must be in [0, {len(held)}), they go from {rows.min()} to {rows.max()}")
    return to_device(rows, device_of(held))
