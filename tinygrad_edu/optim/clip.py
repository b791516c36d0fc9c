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


def clip_grad_norm_(parameters: Layer | Iterable[Parameter], max_norm: float, error_if_nonfinite: bool = True) -> float:
    r"""Scale all gradients together so that their joint norm is at most `max_norm` (Pascanu et al., 2013).

    .. math:: g \leftarrow g \cdot \min\big(1, \text{max\_norm} / \|g\|\big)

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
    gradients = _gradients(parameters)
    norm = math.sqrt(math.fsum(float(squared_sum(g)) for g in gradients))
    if not math.isfinite(norm):
        if error_if_nonfinite:
            where = first_nonfinite(parameters) if isinstance(parameters, Layer) else None
            raise NonFiniteError(f"the gradient norm is {norm}" + (f"; first at parameter {where!r}" if where else ""))
        return norm
    if norm > max_norm:
        for gradient in gradients:
            gradient *= max_norm / norm
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
