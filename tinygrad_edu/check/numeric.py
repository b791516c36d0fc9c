"""Derivatives by central differences, of fourth order, that know how far they can be trusted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .subject import Values

EPS = float(np.finfo(np.float64).eps)
FIRST_STEP = 2.0**-10  # truncation is of order h^4 = 1e-12, rounding of order eps/h = 2e-13: both below 1e-7
HALVINGS = 10
MAX_ENTRIES = 1024  # entries of one tensor whose derivative is taken one by one

Forward = Callable[[Values], list[np.ndarray]]


@dataclass
class Derivative:
    """A numeric derivative.

    Attributes
    ----------
    value : the derivative
    noise : how much of it may be rounding
    settled : whether halving the step changed it by less than the tolerance; if not, the function has a kink or
        a jump within the smallest step
    """

    value: float
    noise: float
    settled: bool


def inner(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    """Sum of all products of entries."""
    return float(sum(np.sum(x * y) for x, y in zip(a, b, strict=True)))


def moved(values: Values, direction: Values, step: float) -> Values:
    """``values + step * direction``; a name that `direction` lacks stays."""
    return {key: value + step * direction[key] if key in direction else value for key, value in values.items()}


def _difference(forward: Forward, values: Values, direction: Values, upstream: list[np.ndarray], step: float) -> float:
    plus, minus = forward(moved(values, direction, step)), forward(moved(values, direction, -step))
    # Subtracting the arrays before summing keeps the digits that a sum would round away.
    return inner(upstream, [a - b for a, b in zip(plus, minus, strict=True)])


def directional(
    forward: Forward, values: Values, direction: Values, upstream: list[np.ndarray], tol: float
) -> Derivative:
    r"""Derivative of :math:`\langle u, f(x)\rangle` along a direction v.

    .. math:: \frac{8\,(f(x + hv) - f(x - hv)) - (f(x + 2hv) - f(x - 2hv))}{12\,h} = f'(x)\,v + O(h^4)

    The step is halved until two estimates agree, so that a kink a little way off does no harm.

    Parameters
    ----------
    forward : the outputs at given values
    values, direction : x and v
    upstream : u, one array for each output
    tol : the absolute difference at which two estimates agree
    """
    size = inner([np.abs(u) for u in upstream], [np.abs(y) for y in forward(values)])
    step = FIRST_STEP
    wide = _difference(forward, values, direction, upstream, 2 * step)
    near = _difference(forward, values, direction, upstream, step)
    estimate = (8 * near - wide) / (12 * step)
    noise = 0.0
    for _ in range(HALVINGS):
        step /= 2
        wide, near = near, _difference(forward, values, direction, upstream, step)
        previous, estimate = estimate, (8 * near - wide) / (12 * step)
        noise = 16 * EPS * size / step
        if not np.isfinite(estimate):
            break
        if abs(estimate - previous) <= tol + noise:
            return Derivative(estimate, noise, True)
    return Derivative(estimate, noise, False)


def entry_gradient(
    forward: Forward, values: Values, name: str, upstream: list[np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    """Gradient of one tensor entry by entry; NaN for those not taken because the tensor is large.

    One step serves all entries, for they are many; where estimates of second and fourth order differ much, there may
    be a kink, and the step is halved as in :func:`directional`.
    """
    value = values[name]
    chosen = np.arange(value.size)
    if value.size > MAX_ENTRIES:
        chosen = rng.choice(value.size, MAX_ENTRIES, replace=False)
    gradient = np.full(value.size, np.nan)
    for index in chosen:
        unit = np.zeros(value.size)
        unit[index] = 1.0
        along = {name: unit.reshape(value.shape)}
        wide, near = (_difference(forward, values, along, upstream, step) for step in (2 * FIRST_STEP, FIRST_STEP))
        slope = (8 * near - wide) / (12 * FIRST_STEP)
        if abs(slope - near / (2 * FIRST_STEP)) > 1e-3 * abs(slope) + 1e-6:
            slope = directional(forward, values, along, upstream, 1e-8).value
        gradient[index] = slope
    return gradient.reshape(value.shape)
