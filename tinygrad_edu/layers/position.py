"""Telling a transformer where a token stands: learned, sinusoidal and rotary positions."""

from __future__ import annotations

from collections.abc import Callable

from ..backend import Array, Generator, device_of, namespace, op, to_device, to_host
from ..errors import ConfigError, ShapeError, format_shape
from .base import Layer, check_positive
from .embedding import Embedding


def check_length(layer: str, start: int, length: int, max_len: int) -> None:
    """Raise ShapeError if positions start .. start + length - 1 do not fit in `max_len`."""
    if start + length > max_len:
        raise ShapeError(f"{layer}: sequence of length {start + length} is longer than max_len {max_len}")


def check_sequence(layer: str, x: Array, dim: int) -> None:
    """Raise ShapeError unless `x` is (batch, time, dim)."""
    if x.ndim != 3 or x.shape[-1] != dim:
        raise ShapeError(f"{layer}: expected (batch, time, {dim}), got {format_shape(tuple(x.shape))}")


class LearnedPositions(Layer):
    """Adds a learned vector for each position (Gehring et al., 2017; GPT-2's wpe).

    Parameters
    ----------
    max_len : positions there are
    dim : width
    """

    def __init__(self, max_len: int, dim: int, generator: Generator | None = None, std: float = 0.02):
        super().__init__()
        self.max_len, self.dim = max_len, dim
        self.weight = Embedding(max_len, dim, generator, std).weight

    def forward(self, x: Array, start: int = 0) -> Array:  # (B, T, dim)
        check_sequence("LearnedPositions", x, self.dim)
        namespace(x, self.weight.data)
        length = x.shape[1]
        check_length("LearnedPositions", start, length, self.max_len)
        self.save(start, length)
        return x + self.weight.data[start : start + length]

    def backward(self, dy: Array) -> Array:
        start, length = self.saved()
        self.weight.grad[start : start + length] += dy.sum(axis=0)  # every sequence of the batch read these rows
        return dy

    def extra_repr(self) -> str:
        return f"{self.max_len}, {self.dim}"


def _angles(max_len: int, dim: int, base: float) -> Array:
    """t / base^(2i/dim) on the host, (max_len, ceil(dim / 2)), float64: float32 would lose digits at large t."""
    powers = to_host([base ** (-2 * i / dim) for i in range((dim + 1) // 2)])
    return to_host(range(max_len))[:, None] * powers


def sinusoidal_table(max_len: int, dim: int) -> Array:
    r"""Sine and cosine of geometric wavelengths (Vaswani et al., 2017).

    .. math:: P_{t,2i} = \sin(t / 10000^{2i/C}), \qquad P_{t,2i+1} = \cos(t / 10000^{2i/C})

    Returns
    -------
    (max_len, dim), float64, on the host
    """
    angles = _angles(max_len, dim, 10000.0)
    xp = namespace(angles)
    table = xp.empty((max_len, dim))
    table[:, 0::2] = xp.sin(angles)
    table[:, 1::2] = xp.cos(angles[:, : dim // 2])
    return table


class Tables:
    """Constant tables, computed once on the host and kept in each type and on each device that asked."""

    def __init__(self, compute: Callable[[], tuple[Array, ...]]):
        self._compute = compute
        self._kept: dict[tuple[str, str], tuple[Array, ...]] = {}

    def like(self, x: Array) -> tuple[Array, ...]:
        key = (device_of(x), x.dtype.char)
        if key not in self._kept:
            self._kept[key] = tuple(to_device(table.astype(x.dtype), key[0]) for table in self._compute())
        return self._kept[key]


class SinusoidalPositions(Layer):
    """Adds fixed sines and cosines of the position (Vaswani et al., 2017). Nothing is learned."""

    def __init__(self, max_len: int, dim: int):
        super().__init__()
        check_positive("SinusoidalPositions", max_len=max_len, dim=dim)
        self.max_len, self.dim = max_len, dim
        self._tables = Tables(self._compute)

    def _compute(self) -> tuple[Array]:
        return (sinusoidal_table(self.max_len, self.dim),)

    def forward(self, x: Array, start: int = 0) -> Array:  # (B, T, dim)
        check_sequence("SinusoidalPositions", x, self.dim)
        check_length("SinusoidalPositions", start, x.shape[1], self.max_len)
        self.save(None)
        (table,) = self._tables.like(x)
        return x + table[start : start + x.shape[1]]

    def backward(self, dy: Array) -> Array:
        self.saved()
        return dy  # the table is constant

    def extra_repr(self) -> str:
        return f"{self.max_len}, {self.dim}"


@op
def rotary(x: Array, cos: Array, sin: Array) -> Array:
    r"""Rotary position embedding (Su et al., 2021), in the half-split layout of GPT-NeoX and LLaMA.

    The head is split in halves :math:`x = (a, b)`, and each pair :math:`(a_i, b_i)` is turned by the angle
    :math:`\theta_{t,i} = t / \text{base}^{2i/d}`, so that a product of two heads depends on t - s only:

    .. math:: y = (a \cos\theta - b \sin\theta,\; b \cos\theta + a \sin\theta)

    A rotation's transpose turns back, so the gradient is ``rotary(dy, cos, -sin)``.

    Parameters
    ----------
    x : (..., T, hd), hd even
    cos, sin : (T, hd / 2)

    Returns
    -------
    y : (..., T, hd)
    """
    xp = namespace(x, cos)
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return xp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


class RotaryPositions(Layer):
    """Turns queries and keys by an angle that grows with the position (Su et al., 2021). Nothing is learned.

    Parameters
    ----------
    max_len : positions there are
    dim : width of a head, even
    base : the longest wavelength is 2 pi base
    """

    def __init__(self, max_len: int, dim: int, base: float = 10000.0):
        super().__init__()
        check_positive("RotaryPositions", max_len=max_len, dim=dim)
        if dim % 2:
            raise ConfigError(f"RotaryPositions: dim must be even, got {dim}")
        if not base > 1:
            raise ConfigError(f"RotaryPositions: base must be > 1, got {base!r}")
        self.max_len, self.dim, self.base = max_len, dim, base
        self._tables = Tables(self._compute)

    def _compute(self) -> tuple[Array, Array]:
        angles = _angles(self.max_len, self.dim, self.base)
        xp = namespace(angles)
        return xp.cos(angles), xp.sin(angles)

    def forward(self, x: Array, start: int = 0) -> Array:  # (..., T, dim)
        if x.ndim < 2 or x.shape[-1] != self.dim:
            raise ShapeError(f"RotaryPositions: expected (..., time, {self.dim}), got {format_shape(tuple(x.shape))}")
        end = start + x.shape[-2]
        check_length("RotaryPositions", start, x.shape[-2], self.max_len)
        self.save(start, end)
        cos, sin = self._tables.like(x)
        return rotary(x, cos[start:end], sin[start:end])

    def backward(self, dy: Array) -> Array:
        start, end = self.saved()
        cos, sin = self._tables.like(dy)
        return rotary(dy, cos[start:end], -sin[start:end])

    def extra_repr(self) -> str:
        return f"{self.max_len}, {self.dim}, base={self.base}"
