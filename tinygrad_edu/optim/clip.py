"""Gradient clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ..backend import Array, namespace, op
from ..errors import ConfigError, NonFiniteError
from ..layers.base import Layer, Parameter


@op
def squared_sum(x: Array) -> Array:
    r"""Sum of squares of all elements, :math:`\sum_i x_i^2`."""
    flat = x.reshape(-1)
    return namespace(x).dot(flat, flat)


def _gradients(parameters: Layer | Iterable[Parameter]) -> list[Array]:
    if isinstance(parameters, Layer):
        flat = parameters.__dict__.get("flat")
        if flat is not None and flat.holds(parameters):
            return [flat.grad]
        parameters = parameters.parameters()
    return [parameter.grad for parameter in parameters]


def first_nonfinite(layer: Layer) -> str | None:
    """Name of the first parameter, in backward order (last first), whose gradient is not finite; or None."""
    for name, parameter in reversed(list(layer.named_parameters())):
        if not bool(namespace(parameter.grad).isfinite(parameter.grad).all()):
            return name
    return None


def grad_norm(parameters: Layer | Iterable[Parameter], error_if_nonfinite: bool = True) -> float:
    r"""Joint norm of all gradients, :math:`\|g\|`.

    Raises
    ------
    NonFiniteError
        If it is NaN or infinite (naming the parameter, for a layer), unless `error_if_nonfinite` is False.
    """
    norm = math.sqrt(math.fsum(float(squared_sum(gradient)) for gradient in _gradients(parameters)))
    if error_if_nonfinite and not math.isfinite(norm):
        where = first_nonfinite(parameters) if isinstance(parameters, Layer) else None
        raise NonFiniteError(f"the gradient norm is {norm}" + (f"; first at parameter {where!r}" if where else ""))
    return norm


def clip_factor(norm: float, max_norm: float | None) -> float:
    r"""What gradients of this joint norm are multiplied with, so that it is at most `max_norm` (Pascanu et al., 2013).

    .. math:: g \leftarrow g \cdot \min\big(1, \text{max\_norm} / \|g\|\big)

    Parameters
    ----------
    norm : as :func:`grad_norm` gives it; one that is not finite scales nothing
    max_norm : None for no limit

    Returns
    -------
    In (0, 1]; for :meth:`Optimizer.step`, its ``grad_scale``.

    Raises
    ------
    ConfigError
        If `max_norm` is not > 0.
    """
    if max_norm is None:
        return 1.0
    if not max_norm > 0:
        raise ConfigError(f"max_norm must be > 0, got {max_norm!r}")
    return max_norm / norm if max_norm < norm < math.inf else 1.0


def clip_grad_norm_(parameters: Layer | Iterable[Parameter], max_norm: float, error_if_nonfinite: bool = True) -> float:
    """Scale all gradients, where they stand, by :func:`clip_factor`, so that their joint norm is at most `max_norm`.

    A step alone needs no changed gradients: ``optimizer.step(grad_scale=clip_factor(norm, max_norm))`` spares a pass.

    Returns
    -------
    The norm before clipping.

    Raises
    ------
    NonFiniteError
        If the norm is NaN or infinite (naming the parameter, for a layer): such a norm never scales anything.
        With ``error_if_nonfinite=False`` the gradients are left as they are and the norm is returned.
    ConfigError
        If `max_norm` is not > 0.
    """
    if not max_norm > 0:
        raise ConfigError(f"clip_grad_norm_: max_norm must be > 0, got {max_norm!r}")
    parameters = parameters if isinstance(parameters, Layer) else list(parameters)
    norm = grad_norm(parameters, error_if_nonfinite)
    factor = clip_factor(norm, max_norm)
    if factor != 1:
        for gradient in _gradients(parameters):
            gradient *= factor
    return norm


def clip_grad_value_(parameters: Layer | Iterable[Parameter], clip_value: float) -> None:
    """Clip each element of each gradient to [-clip_value, clip_value].

    Raises
    ------
    ConfigError
        If `clip_value` is not > 0.
    """
    if not clip_value > 0:
        raise ConfigError(f"clip_grad_value_: clip_value must be > 0, got {clip_value!r}")
    for gradient in _gradients(parameters):
        namespace(gradient).clip(gradient, -clip_value, clip_value, out=gradient)
