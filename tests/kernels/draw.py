"""Draws arguments for kernels: random shapes, layouts and values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

LAYOUTS = ("plain", "fortran", "every second", "backwards", "broadcast", "offset")


def lay_out(x: np.ndarray, layout: str) -> np.ndarray:
    """The same values (or, broadcast, its first entries repeated) in another order of memory."""
    if layout == "fortran":
        return np.asfortranarray(x)
    if layout == "channels last" and x.ndim > 2:
        return np.moveaxis(np.moveaxis(x, 1, -1).copy(), -1, 1)
    if layout == "every second" and x.ndim:
        return np.repeat(x, 2, axis=-1)[..., ::2]
    if layout == "backwards" and x.ndim:
        return x[::-1].copy()[::-1]
    if layout == "broadcast" and x.ndim and len(x):
        return np.broadcast_to(x[:1], x.shape)  # stride 0, and read-only
    if layout == "offset":
        return np.concatenate([np.zeros(1, x.dtype), x.ravel()])[1:].reshape(x.shape)  # not on a cache line
    return x


LARGE = 16411  # rows: above the size at which loops are shared by threads, and no multiple of anything


class Draw:
    """Draws arguments by Hypothesis: shapes small and odd, zero and one included, values seeded by one number.

    With `large`, as many rows as it takes for the threads to share them.
    """

    def __init__(self, data: st.DataObject, dtype: str, large: bool):
        self._data, self.dtype, self.large = data, dtype, large
        self._rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), label="seed"))

    def length(self, low: int = 0, high: int = 9) -> int:
        return self._data.draw(st.integers(low, high))

    def rows(self) -> int:
        return LARGE if self.large else self.length()

    def shape(self) -> tuple[int, ...]:
        return (LARGE,) if self.large else tuple(self._data.draw(st.lists(st.integers(0, 7), max_size=3)))

    def choice(self, *values: Any) -> Any:
        return self._data.draw(st.sampled_from(values))

    def number(self, low: float, high: float) -> float:
        return self._data.draw(st.floats(low, high))

    def layout(self) -> str:
        return self.choice(*LAYOUTS)

    def normal(self, *shape: int, layout: str | None = None, scale: float = 1.0) -> np.ndarray:
        x = (self._rng.standard_normal(shape) * scale).astype(self.dtype)
        return lay_out(x, layout or self.layout())

    def image_shape(self) -> tuple[int, ...]:
        """(B, C, *size) with no, one, two or three sizes."""
        if self.large:
            return self.choice((2, 3, 53, 61), (LARGE, 3), (3, 300, 5, 7))
        return self.length(0, 3), self.length(1, 9), *self._data.draw(st.lists(st.integers(1, 6), max_size=3))

    def image(self, *shape: int, scale: float = 1.0) -> np.ndarray:
        return self.normal(*shape, layout=self.choice(*LAYOUTS, "channels last"), scale=scale)

    def ids(self, high: int, *shape: int) -> np.ndarray:
        ids = self._rng.integers(0, high, shape) if high else np.zeros(shape, dtype=np.int64)
        return lay_out(ids.astype(self.choice("int64", "int32")), self.choice("plain", "every second"))

    def targets(self, classes: int, rows: int, ignore_index: int) -> np.ndarray:
        ids = self._rng.integers(0, classes, rows)
        return np.where(self._rng.random(rows) < 0.3, ignore_index, ids)

    def fractions(self, *shape: int) -> np.ndarray:
        """Numbers in [0, 1], both ends among them."""
        x = np.clip(self._rng.random(shape) * 1.5 - 0.25, 0, 1)
        return lay_out(x.astype(self.dtype), self.layout())

    def mask(self, *shape: int) -> np.ndarray:
        return self._rng.random(shape) < self.choice(0.0, 0.5, 0.9)


@dataclass(frozen=True)
class Entry:
    """How to draw the arguments of an op.

    Attributes
    ----------
    draw : makes them
    changed : places of the arguments that the op changes or adds into
    sums : length of the longest sum, by whose square root rounding may grow
    longer : factor on the tolerance, where the kernel's documentation allows for more
    """

    draw: Callable[[Draw], tuple[Any, ...]]
    changed: tuple[int, ...] = ()
    longer: float = 1.0
