"""Classifier-free guidance: away from what a network would draw unasked, towards what it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...backend import Array, namespace
from ...errors import ConfigError, ShapeError, format_shape
from ...layers.base import Layer
from .schedules import is_number


def ask(
    net: Callable[..., Array],
    x_t: Array,
    t: Array,
    condition: Array | None,
    drop: Array | None = None,
    null: Any = None,
) -> Array:
    """What a network says of pictures, some of whose conditions are put aside.

    Parameters
    ----------
    net : ``net(x_t, t)``, ``net(x_t, t, condition)``, ``net(x_t, t, condition, drop=drop)``
    x_t : (B, ...); t : (B,) integers
    condition : B rows, or None
    drop : (B,) bool, True where the condition does not count; or None
    null : what stands in the place of such a condition, a number or an array that broadcasts to it; or None where the
        network is told of `drop` and knows itself what to do (as :class:`~tinygrad_edu.models.ConditionalUNet`)

    Raises
    ------
    ShapeError
        If `null` does not broadcast to the condition.
    """
    if condition is None:
        return net(x_t, t)
    if drop is None:
        return net(x_t, t, condition)
    if null is None:
        return net(x_t, t, condition, drop=drop)
    xp = namespace(condition, drop)
    rows = drop.reshape(-1, *(1,) * (condition.ndim - 1))
    nothing: Any = null if isinstance(null, int | float) else xp.asarray(null, dtype=condition.dtype)
    try:
        changed = xp.where(rows, nothing, condition).astype(condition.dtype, copy=False)
    except ValueError:
        changed = None
    if changed is None or changed.shape != condition.shape:
        raise ShapeError(
            f"null_condition: {format_shape(tuple(nothing.shape))} does not broadcast to the condition, "
            f"{format_shape(tuple(condition.shape))}"
        )
    return net(x_t, t, changed)


class ClassifierFreeGuidance(Layer):
    r"""Strengthens a condition (Ho & Salimans, 2022). The network has learned to do without one, too.

    .. math:: y = f(x_t, \varnothing) + g\,\big(f(x_t, c) - f(x_t, \varnothing)\big)

    g = 1 is the network as it is, larger ones follow the condition at the cost of variety, 0 forgets it. Both halves
    are one call of a batch of 2B. It is a layer, so that one can go back through it.

    Parameters
    ----------
    net : ``net(x_t, t, condition)``, trained with condition dropout
    scale : g >= 0
    null_condition : what it was given in place of a dropped condition, as in :func:`ask`: a number (the id that means
        no class, 0.0 for a one-hot vector), an array, or None if it is told by ``drop=``

    Raises
    ------
    ConfigError
        For a scale that is no number >= 0.
    """

    def __init__(self, net: Callable[..., Array], scale: float, null_condition: Any = None):
        super().__init__()
        if not is_number(scale) or scale < 0:
            raise ConfigError(f"ClassifierFreeGuidance: scale must be a finite number >= 0, got {scale!r}")
        self.net, self.scale, self.null_condition = net, float(scale), null_condition

    def forward(self, x_t: Array, t: Array, condition: Array | None = None) -> Array:
        """The guided prediction, (B, ...), of pictures (B, ...) at times (B,) under a condition of B rows."""
        if condition is None:
            raise ConfigError("ClassifierFreeGuidance: there is no condition to follow; give one, or call the net")
        xp = namespace(x_t, condition)
        if self.scale == 1:
            return ask(self.net, x_t, t, condition)
        if self.scale == 0:
            return ask(self.net, x_t, t, condition, xp.ones(len(x_t), dtype=bool), self.null_condition)
        x_twice, t_twice, twice = (xp.concatenate([half, half]) for half in (x_t, t, condition))
        drop = xp.arange(2 * len(x_t)) < len(x_t)
        both = ask(self.net, x_twice, t_twice, twice, drop, self.null_condition)
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
