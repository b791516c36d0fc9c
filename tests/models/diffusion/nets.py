"""Small networks for the tests of diffusion."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_edu.backend import Generator, namespace
from tinygrad_edu.layers import GELU, Layer, Linear, Sequential

SHAPE = (3, 2, 2)


class SmallNet(Layer):
    """Pictures, time and a condition of `width` numbers side by side, through two linear maps."""

    def __init__(self, shape: tuple[int, ...] = SHAPE, width: int = 0, hidden: int = 16, steps: int = 1000):
        super().__init__()
        size, generator = int(np.prod(shape)), Generator(0)
        self.width, self.steps = width, steps
        self.body = Sequential(
            Linear(size + 2 + width, hidden, generator=generator),
            GELU(),
            Linear(hidden, hidden, generator=generator),
            GELU(),
            Linear(hidden, size, generator=generator),
        )

    def forward(self, x: Any, t: Any, condition: Any = None, drop: Any = None) -> Any:
        xp = namespace(x)
        time = t.astype(x.dtype)[:, None] / self.steps
        parts = [x.reshape(len(x), -1), time, xp.cos(6 * time)]
        if drop is not None:
            condition = xp.where(drop[:, None], 0, condition)
        if self.width:
            parts.append(condition.astype(x.dtype))
        self.save(x.shape)
        return self.body(xp.concatenate(parts, axis=1)).reshape(x.shape)

    def backward(self, dy: Any) -> Any:
        shape = self.saved()
        dparts = self.body.backward(dy.reshape(len(dy), -1))
        size = int(np.prod(shape[1:]))
        dx = dparts[:, :size].reshape(shape)
        return (dx, dparts[:, size + 2 :]) if self.width else dx
