"""Random numbers: explicit generators on the host, and counter-based noise that any device can recompute."""

from __future__ import annotations

from typing import Any

import numpy

from ..errors import CheckpointError, ConfigError
from .device import Array, asarray, namespace
from .dispatch import op
from .mode import is_outline


class Generator:
    """A seeded source of random numbers that belongs to a model or a loader.

    Initial weights and shuffles are drawn on the host, so that both devices start alike. Its state is plain
    data and goes into the checkpoint.

    Parameters
    ----------
    seed : int >= 0, or None to draw one from the operating system

    Raises
    ------
    ConfigError
        If `seed` is negative or not an integer.
    """

    def __init__(self, seed: int | None = None):
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int | numpy.integer) or seed < 0):
            raise ConfigError(f"seed must be an integer >= 0 or None, got {seed!r}")
        self._rng = numpy.random.Generator(numpy.random.PCG64(seed))

    def normal(self, *shape: int, mean: float = 0.0, std: float = 1.0, dtype: Any = "float32") -> Array:
        """Normal numbers of `shape` on the current device."""
        if is_outline():
            return outlined(shape, dtype)
        return asarray((self._rng.standard_normal(shape) * std + mean).astype(dtype))

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0, dtype: Any = "float32") -> Array:
        """Uniform numbers in [low, high) of `shape` on the current device."""
        if is_outline():
            return outlined(shape, dtype)
        return asarray(self._rng.uniform(low, high, shape).astype(dtype))

    def integers(self, low: int, high: int, *shape: int) -> Array:
        """Integers in [low, high) of `shape`, int64, on the current device."""
        return asarray(self._rng.integers(low, high, shape))

    def permutation(self, n: int) -> Any:
        """A random order of ``range(n)``, a NumPy array on the host."""
        return self._rng.permutation(n)

    def random(self) -> float:
        """One uniform number in [0, 1)."""
        return float(self._rng.random())

    def draw_seed(self) -> int:
        """A fresh 63-bit seed, for noise that is recomputed from it (:func:`random_uniform`)."""
        return int(self._rng.integers(0, 2**63 - 1))

    def get_state(self) -> dict[str, Any]:
        """The state as plain data (strings and integers), ready for JSON."""
        state: dict[str, Any] = self._rng.bit_generator.state  # type: ignore[assignment]
        return {**state, "state": {key: str(value) for key, value in state["state"].items()}}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from a state that :meth:`get_state` gave.

        Raises
        ------
        CheckpointError
            If `state` is not such a state.
        """
        try:
            numbers = {key: int(value) for key, value in state["state"].items()}
            self._rng.bit_generator.state = {**state, "state": numbers}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"not the state of a random generator: {error!r}") from None


def outlined(shape: tuple[int, ...], dtype: Any) -> Array:
    """An array of `shape` on the host that takes one element of memory; see :func:`outline`."""
    return numpy.lib.stride_tricks.as_strided(numpy.zeros(1, dtype), shape, (0,) * len(shape))


_default: Generator | None = None


def default_generator() -> Generator:
    """The generator that layers use when none is given; seed it with :func:`manual_seed`."""
    global _default
    if _default is None:
        _default = Generator()
    return _default


def manual_seed(seed: int) -> Generator:
    """Seed the default generator, and return it."""
    global _default
    _default = Generator(seed)
    return _default


@op
def random_uniform(like: Array, seed: int, shape: tuple[int, ...] | None = None) -> Array:
    r"""Uniform numbers in [0, 1), one for each place of an array, recomputable from `seed` alone.

    Element i is a hash of the counter :math:`s + (i+1)\,\gamma`, SplitMix64 (Steele, Lea & Flood, 2014): no
    state runs from one element to the next, so any device and any number of threads draw the same numbers,
    and a backward pass draws them again instead of keeping them.

    Parameters
    ----------
    like : an array whose device and shape are used
    seed : int in [0, 2^63)
    shape : the shape wanted, if not that of `like`

    Returns
    -------
    float32 array with values k / 2^24, k integer in [0, 2^24)
    """
    xp = namespace(like)
    shape = like.shape if shape is None else shape
    size = 1
    for length in shape:
        size *= length
    return uniform_at(xp.arange(size, dtype=xp.uint64), seed).reshape(shape)


def uniform_at(places: Array, seed: int) -> Array:
    """The elements of :func:`random_uniform` at `places`, uint64 numbers of elements in row order."""
    xp = namespace(places)
    # CuPy's scalars are arrays of a device, so the constants are Python integers reduced to 64 bits by xp.uint64.
    z = (places + xp.uint64(1)) * xp.uint64(0x9E3779B97F4A7C15) + xp.uint64(seed)
    z = (z ^ (z >> xp.uint64(30))) * xp.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> xp.uint64(27))) * xp.uint64(0x94D049BB133111EB)
    z = z ^ (z >> xp.uint64(31))
    return (z >> xp.uint64(40)).astype(xp.float32) * (1.0 / 2**24)
