"""Dropout."""

from __future__ import annotations

from ..backend import Array, Generator, default_generator, op, random_uniform
from ..errors import ConfigError
from .base import Layer


@op
def dropout(x: Array, p: float, seed: int) -> Array:
    r"""Dropout (Srivastava et al., 2014), in the inverted form that needs nothing at evaluation.

    .. math:: y = x\,m / (1 - p), \qquad m_i = [u_i \ge p]

    The uniform numbers u are recomputed from `seed` by whoever needs them, so no mask is kept. The
    gradient of x is the same map applied to dy: ``dropout(dy, p, seed)``.
    """
    keep = random_uniform(x, seed) >= p
    return x * keep * (1 / (1 - p))


class Dropout(Layer):
    """Zeroes each element with probability `p` while training, and scales the others by 1/(1 - p).

    Parameters
    ----------
    p : in [0, 1]
    generator : gives the seed of each call
    """

    def __init__(self, p: float = 0.5, generator: Generator | None = None):
        super().__init__()
        if isinstance(p, bool) or not isinstance(p, int | float) or not 0 <= p <= 1:
            raise ConfigError(f"Dropout: p must be a number in [0, 1], got {p!r}")
        self.p = float(p)  # a NumPy scalar would turn float32 arithmetic into float64
        self.generator = generator or default_generator()

    def apply(self, x: Array, seed: int | None) -> Array:
        """What a forward that drew this seed makes of `x`; its backward is the same map."""
        if seed is None:
            return x
        return dropout(x, self.p, seed) if self.p < 1 else x * 0

    def forward(self, x: Array) -> Array:
        seed = self.generator.draw_seed() if self.training and self.p > 0 else None
        self.save(seed)
        return self.apply(x, seed)

    def backward(self, dy: Array) -> Array:
        return self.apply(dy, self.saved())

    def extra_repr(self) -> str:
        return f"p={self.p}"
