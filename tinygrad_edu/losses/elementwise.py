"""What losses of one element and its target share: weights, and the mean or sum of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..backend import Array, namespace
from ..layers.base import Layer
from .common import check_not_empty, check_reduction, check_same_shape, factors, scalar


class ElementwiseLoss(Layer):
    """A loss for each element, then their mean or sum; a subclass says which loss.

    A subclass writes ``losses(prediction, target)`` and ``gradient(dlosses, prediction, target)``, both of the
    prediction's shape, and may write ``checked(prediction, target)``, which gives the target to be used.

    Parameters
    ----------
    reduction : ``"mean"``, ``"sum"`` or ``"none"``
    weight : a factor for each element, broadcastable to the prediction
    """

    mean_of_weights = True  # whether "mean" divides by the sum of the factors; else by the number of elements

    losses: Callable[[Array, Array], Array]
    gradient: Callable[[Array, Array, Array], Array]

    def __init__(self, reduction: str = "mean", weight: Array | None = None):
        super().__init__()
        check_reduction(type(self).__name__, reduction)
        self.reduction, self.weight = reduction, weight

    def checked(self, prediction: Array, target: Array) -> Array:
        """The target as the loss takes it, after a look at the values of both."""
        return target

    def forward(self, prediction: Array, target: Array) -> Any:
        """Loss of two arrays of one shape: a number, or that shape for ``reduction="none"``."""
        name = type(self).__name__
        namespace(prediction, target, self.weight)  # all on one device
        check_same_shape(name, prediction, target)
        target = self.checked(prediction, target)
        losses = self.losses(prediction, target)
        factor: Any = 1.0
        if self.weight is not None:
            factor = factors(name, "weight", self.weight, tuple(prediction.shape), prediction.dtype)
            losses = losses * factor
        divisor: Any = 1
        if self.reduction == "mean":
            check_not_empty(name, "prediction", prediction)
            weighted = self.weight is not None and self.mean_of_weights
            divisor = factor.sum() if weighted else prediction.size
        self.save(prediction, target, factor / divisor)
        if self.reduction == "none":
            return losses
        return scalar(losses.sum() / divisor)

    def backward(self, dloss: Any = 1.0) -> Array:
        """Gradient of the prediction; `dloss` is a number, or of its shape for ``reduction="none"``."""
        prediction, target, factor = self.saved()
        xp = namespace(prediction)
        dlosses = xp.broadcast_to(xp.asarray(dloss * factor, dtype=prediction.dtype), prediction.shape)
        return self.gradient(dlosses, prediction, target).astype(prediction.dtype, copy=False)

    def mean_over(self, targets: Array) -> float:
        """How many elements there are, or the sum of their weights; means of batches are put together by it."""
        if self.weight is None or not self.mean_of_weights:
            return float(targets.size)
        return float(namespace(targets).broadcast_to(self.weight, targets.shape).sum())
