"""Losses of a number and the number it should be: squared, absolute, and between the two."""

from __future__ import annotations

import math

from ..backend import Array, namespace, op
from ..errors import ConfigError
from .elementwise import ElementwiseLoss


@op
def squared_error(prediction: Array, target: Array) -> Array:
    r"""Squared error of each element, :math:`L = (p - t)^2`."""
    return (prediction - target) ** 2


@op
def squared_error_backward(dlosses: Array, prediction: Array, target: Array) -> Array:
    r"""Gradient of :func:`squared_error` for the prediction, :math:`dp = 2\,(p - t)\,dL`."""
    return 2 * (prediction - target) * dlosses


@op
def absolute_error(prediction: Array, target: Array) -> Array:
    r"""Absolute error of each element, :math:`L = |p - t|`."""
    return abs(prediction - target)


@op
def absolute_error_backward(dlosses: Array, prediction: Array, target: Array) -> Array:
    r"""Gradient of :func:`absolute_error`: :math:`dp = \mathrm{sign}(p - t)\,dL`; at the kink 0, as torch has it."""
    return namespace(prediction).sign(prediction - target) * dlosses


@op
def smooth_absolute_error(prediction: Array, target: Array, beta: float) -> Array:
    r"""Squared near zero and absolute far from it (Girshick, 2015).

    .. math:: L = \begin{cases} e^2 / 2\beta & |e| < \beta \\ |e| - \beta / 2 & \text{else} \end{cases}
              \qquad e = p - t

    Value and slope of both parts meet at :math:`|e| = \beta`.
    """
    size = abs(prediction - target)
    return namespace(prediction).where(size < beta, 0.5 * size * size / beta, size - 0.5 * beta)


@op
def smooth_absolute_error_backward(dlosses: Array, prediction: Array, target: Array, beta: float) -> Array:
    r"""Gradient of :func:`smooth_absolute_error`: :math:`dp = dL\,e/\beta`, held within ±1."""
    return namespace(prediction).clip((prediction - target) / beta, -1, 1) * dlosses


class MeanSquaredError(ElementwiseLoss):
    """Mean squared error; reductions as in torch.nn.MSELoss.

    Parameters
    ----------
    reduction : ``"mean"``, ``"sum"`` or ``"none"``
    weight : a factor for each element, broadcastable to the prediction; the mean is over elements, as torch's
        ``mse_loss(..., weight=)`` with "mean" divides by the sum of the factors
    """

    def losses(self, prediction: Array, target: Array) -> Array:
        return squared_error(prediction, target)

    def gradient(self, dlosses: Array, prediction: Array, target: Array) -> Array:
        return squared_error_backward(dlosses, prediction, target)


class L1Loss(ElementwiseLoss):
    """Mean absolute error, as torch.nn.L1Loss; arguments as of :class:`MeanSquaredError`."""

    def losses(self, prediction: Array, target: Array) -> Array:
        return absolute_error(prediction, target)

    def gradient(self, dlosses: Array, prediction: Array, target: Array) -> Array:
        return absolute_error_backward(dlosses, prediction, target)


class SmoothL1Loss(ElementwiseLoss):
    """Squared error near zero, absolute error far from it, as torch.nn.SmoothL1Loss.

    Parameters
    ----------
    reduction : ``"mean"``, ``"sum"`` or ``"none"``
    beta : the error at which one becomes the other, > 0

    Raises
    ------
    ConfigError
        If `beta` is not positive; for 0 there is :class:`L1Loss`.
    """

    def __init__(self, reduction: str = "mean", beta: float = 1.0):
        super().__init__(reduction)
        if not (beta > 0 and math.isfinite(beta)):
            raise ConfigError(f"SmoothL1Loss: beta must be a finite number > 0, got {beta!r}; L1Loss has none")
        self.beta = float(beta)

    def losses(self, prediction: Array, target: Array) -> Array:
        return smooth_absolute_error(prediction, target, self.beta)

    def gradient(self, dlosses: Array, prediction: Array, target: Array) -> Array:
        return smooth_absolute_error_backward(dlosses, prediction, target, self.beta)
