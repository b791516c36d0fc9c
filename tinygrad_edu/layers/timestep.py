"""Telling a denoising network how much noise there is: the step of the diffusion, as a vector."""

from __future__ import annotations

import math
from typing import Any

from ..backend import Array, Generator, default_generator, namespace, to_host
from ..errors import ConfigError, DtypeError, RangeError, ShapeError, format_shape
from .activation import SiLU
from .base import Layer, check_positive
from .linear import Linear
from .position import Tables


def timestep_table(
    num_steps: int,
    dim: int,
    max_period: float = 10000.0,
    flip_sin_to_cos: bool = False,
    downscale_freq_shift: float = 1.0,
) -> Array:
    r"""Sines and cosines of each step, at frequencies from 1 down to 1/max_period (Ho et al., 2020).

    With :math:`h = \lfloor\text{dim} / 2\rfloor` and s the shift:

    .. math:: P_t = (\sin t\omega_0, \dots, \sin t\omega_{h-1},\; \cos t\omega_0, \dots, \cos t\omega_{h-1}), \qquad
              \omega_i = \text{max\_period}^{-i / (h - s)}

    It is the code of Vaswani et al. (2017) with sines and cosines in halves, not in turns.

    Parameters
    ----------
    num_steps : T, rows for t = 0 ... T - 1
    dim : width; of an odd one the last column is zero
    max_period : see above
    flip_sin_to_cos : cosines first
    downscale_freq_shift : s. With 1, as Ho et al. have it, the slowest frequency is exactly 1/max_period; others use 0

    Returns
    -------
    (T, dim), float64, on the host: in float32 large t would lose digits
    """
    half = dim // 2
    frequencies = [math.exp(-math.log(max_period) * i / (half - downscale_freq_shift)) for i in range(half)]
    angles = to_host(range(num_steps))[:, None] * to_host(frequencies)  # (T, half)
    xp = namespace(angles)
    halves = [xp.sin(angles), xp.cos(angles)]
    if flip_sin_to_cos:
        halves.reverse()
    return xp.concatenate([*halves, xp.zeros((num_steps, dim % 2))], axis=1)


def check_steps(name: str, t: Array, num_steps: int) -> None:
    """Raise unless `t` is (batch,) of integers in [0, num_steps)."""
    if not hasattr(t, "ndim") or t.ndim != 1:
        found = format_shape(tuple(t.shape)) if hasattr(t, "ndim") else type(t).__name__
        raise ShapeError(f"{name}: t must be an array (batch,), a step for each example, got {found}")
    if t.dtype.kind not in "iu":
        raise DtypeError(f"{name}: t must be integers, the numbers of steps, got {t.dtype}")
    outside = (t < 0) | (t >= num_steps)
    if bool(outside.any()):
        wrong = t[outside]
        raise RangeError(f"{name}: t must be in [0, {num_steps}), got {int(wrong[0])}")


class TimestepEmbedding(Layer):
    """``linear_2(silu(linear_1(table[t])))``: sines and cosines of the step, through a small network (Ho et al., 2020).

    The parameters are named as in diffusers' ``TimestepEmbedding``, which follows its ``Timesteps``.

    Parameters
    ----------
    dim : width of the table
    embed_dim : width of what comes out; 4 dim if None
    num_steps : T, steps are in [0, T)
    max_period, flip_sin_to_cos, downscale_freq_shift : of the table; see :func:`timestep_table`
    generator : draws the initial weights
    """

    def __init__(
        self,
        dim: int,
        embed_dim: int | None = None,
        num_steps: int = 1000,
        max_period: float = 10000.0,
        flip_sin_to_cos: bool = False,
        downscale_freq_shift: float = 1.0,
        generator: Generator | None = None,
    ):
        super().__init__()
        embed_dim = 4 * dim if embed_dim is None else embed_dim
        check_positive("TimestepEmbedding", dim=dim, embed_dim=embed_dim, num_steps=num_steps)
        if not max_period > 0:
            raise ConfigError(f"TimestepEmbedding: max_period must be > 0, got {max_period!r}")
        if dim < 2 or not downscale_freq_shift < dim // 2:
            raise ConfigError(
                "TimestepEmbedding: dim // 2 must be at least 1 and larger than downscale_freq_shift, "
                f"got dim {dim} and downscale_freq_shift {downscale_freq_shift!r}"
            )
        generator = generator or default_generator()
        self.dim, self.embed_dim, self.num_steps = dim, embed_dim, num_steps
        self.linear_1 = Linear(dim, embed_dim, generator=generator)
        self.act = SiLU()
        self.linear_2 = Linear(embed_dim, embed_dim, generator=generator)
        self._table: dict[str, Any] = {
            "max_period": max_period,
            "flip_sin_to_cos": flip_sin_to_cos,
            "downscale_freq_shift": downscale_freq_shift,
        }
        self._tables = Tables(self._compute)

    def _compute(self) -> tuple[Array]:
        return (timestep_table(self.num_steps, self.dim, **self._table),)

    def forward(self, t: Array) -> Array:  # (B,) integers -> (B, embed_dim)
        check_steps("TimestepEmbedding", t, self.num_steps)
        namespace(self.linear_1.weight.data, t)
        (table,) = self._tables.like(self.linear_1.weight.data)
        return self.linear_2(self.act(self.linear_1(table[t])))

    def backward(self, dy: Array) -> None:
        """Accumulate the gradients of both maps; steps have none, so nothing is returned."""
        self.linear_1.backward(self.act.backward(self.linear_2.backward(dy)))

    def extra_repr(self) -> str:
        return f"{self.dim}, {self.embed_dim}, num_steps={self.num_steps}"
