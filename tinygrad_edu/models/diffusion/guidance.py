"""Classifier-free guidance: away from what a network would draw unasked, towards what it is asked for."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ...backend import Array, namespace
from ...errors import ConfigError, ShapeError, format_shape
from ...layers.base import Layer


def null_rows(condition: Array, null: Any) -> Array:
    """A condition of the same shape and type that says nothing: `null` in each row.

    Raises
    ------
    ShapeError
        If `null` does not broadcast to it.
    """
    xp = namespace(condition)
    nothing = xp.empty_like(condition)
    try:
        nothing[...] = null if isinstance(null, int | float) else xp.asarray(null)
    except ValueError:
        raise ShapeError(
            f"null_condition: {format_shape(tuple(null.shape))} does not broadcast to the condition, "
            f"{format_shape(tuple(condition.shape))}"
        ) from None
    return nothing


class ClassifierFreeGuidance(Layer):
    r"""Strengthens a condition (Ho & Salimans, 2022). The network has learned to do without one, too.

    .. math:: y = f(x_t, \varnothing) + g\,\big(f(x_t, c) - f(x_t, \varnothing)\big)

    g = 1 is the network as it is, larger ones follow the condition at the cost of variety, 0 forgets it. Both halves
    are one call of a batch of 2B. It is a layer, so that one can go back through it.

    Parameters
    ----------
    net : ``net(x_t, t, condition)``, trained with condition dropout
    scale : g >= 0
    null_condition : what it was given in place of a dropped condition: a number (the id that means no class, 0.0 in
        place of a one-hot vector), or an array that broadcasts to the condition

    Raises
    ------
    ConfigError
        For a scale that is no number >= 0.
    """

    def __init__(self, net: Callable[..., Array], scale: float, null_condition: Any = 0.0):
        super().__init__()
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 <= scale < math.inf:
            raise ConfigError(f"ClassifierFreeGuidance: scale must be a finite number >= 0, got {scale!r}")
        self.net, self.scale, self.null_condition = net, float(scale), null_condition

    def forward(self, x_t: Array, t: Array, condition: Array) -> Array:
        """The guided prediction, (B, ...), of pictures (B, ...) at times (B,) under a condition of B rows."""
        if condition is None:
            raise ConfigError("ClassifierFreeGuidance: there is no condition to follow; give one, or call the net")
        if self.scale == 1:
            return self.net(x_t, t, condition)
        nothing = null_rows(condition, self.null_condition)
        if self.scale == 0:
            return self.net(x_t, t, nothing)
        xp = namespace(x_t, condition)
        both = self.net(*(xp.concatenate(pair) for pair in ((x_t, x_t), (t, t), (nothing, condition))))
        without, guided = both[: len(x_t)], both[len(x_t) :]
        return without + self.scale * (guided - without)

    def backward(self, dy: Array) -> Array:
        """Gradient of the pictures; that of the condition is not kept apart."""
        if self.scale in (0, 1):
            return first_of(self.net.backward(dy))  # type: ignore[attr-defined]
        xp = namespace(dy)
        dx = first_of(self.net.backward(xp.concatenate([(1 - self.scale) * dy, self.scale * dy])))  # type: ignore[attr-defined]
        return dx[: len(dy)] + dx[len(dy) :]

    def extra_repr(self) -> str:
        return f"scale={self.scale:g}"


def first_of(gradients: Any) -> Array:
    """The gradient of the pictures, of what a network's backward returns."""
    return gradients[0] if isinstance(gradients, tuple) else gradients
