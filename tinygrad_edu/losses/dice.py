"""The Dice loss: how little two masks overlap, whatever their size."""

from __future__ import annotations

import math
from typing import Any

from ..backend import Array, namespace, op
from ..errors import ConfigError, DtypeError, ShapeError, format_shape
from ..layers.activation import sigmoid, sigmoid_backward, softmax, softmax_backward
from ..layers.base import Layer
from .common import check_fractions, check_not_empty, check_reduction, check_same_shape, scalar


@op
def dice(probabilities: Array, targets: Array, smooth: float, squared: bool) -> tuple[Array, Array]:
    r"""Soft Dice coefficient of each mask: 1 where prediction and target are the same mask, 0 where they never meet.

    Of two sets it is :math:`2 |P \cap G| / (|P| + |G|)` (Dice, 1945). For probabilities p and targets g in [0, 1]
    sums over pixels take the place of counting:

    .. math:: D = \frac{2 \sum_i p_i g_i + s}{N}, \qquad N = \sum_i p_i^k + \sum_i g_i^k + s

    with k = 2 as in V-Net (Milletari et al., 2016), or k = 1 (Sudre et al., 2017). An empty mask that is predicted
    to be empty has D = 1, thanks to s.

    Parameters
    ----------
    probabilities, targets : (B, C, *size)
    smooth : s > 0
    squared : whether k is 2

    Returns
    -------
    scores : (B, C)
    size : (B, C), N, kept for the backward pass
    """
    pixels = tuple(range(2, probabilities.ndim))
    power = 2 if squared else 1
    size = (probabilities**power).sum(axis=pixels) + (targets**power).sum(axis=pixels) + smooth  # (B, C)
    overlap = (probabilities * targets).sum(axis=pixels)  # (B, C)
    return (2 * overlap + smooth) / size, size


@op
def dice_backward(dy: Array, probabilities: Array, targets: Array, y: Array, size: Array, squared: bool) -> Array:
    r"""Gradient of :func:`dice` for the probabilities.

    With y the scores D: a pixel stands in the overlap above the line, and in N below it,

    .. math:: dp_i = \frac{dy}{N}\,\big(2 g_i - D\,k\,p_i^{k - 1}\big)

    So what a pixel inside the mask can win does not depend on how many lie outside: N is the size of the two masks,
    not of the image.

    Returns
    -------
    dprobabilities : (B, C, *size)
    """
    over = (..., *(None for _ in range(2, probabilities.ndim)))
    inside = (2 * dy / size)[over]  # (B, C, 1, 1)
    shared = (dy * y / size)[over]
    return inside * targets - shared * (2 * probabilities if squared else 1)


class DiceLoss(Layer):
    """One less the Dice coefficient of each mask and its prediction (Milletari et al., 2016).

    Cross-entropy counts pixels; of a mask that fills a hundredth of an image it learns first to answer no everywhere.
    The Dice coefficient counts what two masks share, so small masks count as much as large ones.

    Parameters
    ----------
    activation : what makes probabilities of the prediction: ``"sigmoid"`` for masks that may overlap, ``"softmax"``
        over the channels for classes that exclude each other, None if they are probabilities already
    smooth : added above and below the line; > 0, because an empty mask predicted empty were 0/0
    squared : whether the sizes of the masks are sums of squares (V-Net), or sums
    reduction : ``"mean"`` or ``"sum"`` over images and classes, or ``"none"``: a loss for each, (B, C)

    Raises
    ------
    ConfigError, ShapeError, DtypeError
    """

    def __init__(
        self,
        activation: str | None = "sigmoid",
        smooth: float = 1.0,
        squared: bool = False,
        reduction: str = "mean",
    ):
        super().__init__()
        check_reduction("DiceLoss", reduction)
        if activation not in ("sigmoid", "softmax", None):
            raise ConfigError(f"DiceLoss: activation must be 'sigmoid', 'softmax' or None, got {activation!r}")
        if not (isinstance(smooth, int | float) and smooth > 0 and math.isfinite(smooth)):
            raise ConfigError(f"DiceLoss: smooth must be a finite number > 0, got {smooth!r}")
        self.activation, self.smooth = activation, float(smooth)
        self.squared, self.reduction = bool(squared), reduction

    def forward(self, prediction: Array, target: Array) -> Any:
        """Loss of a prediction (B, C, *size) and masks of that shape, in [0, 1] or boolean."""
        namespace(prediction, target)  # both on one device
        check_same_shape("DiceLoss", prediction, target)
        if prediction.ndim < 3:
            raise ShapeError(
                "DiceLoss: prediction must be (batch, classes, ...), with at least one axis of pixels, "
                f"got {format_shape(tuple(prediction.shape))}"
            )
        check_not_empty("DiceLoss", "prediction", prediction)
        if target.dtype.kind not in "fbiu":
            raise DtypeError(f"DiceLoss: target must be numbers or booleans, got {target.dtype}")
        check_fractions("DiceLoss", "target", target)
        target = target.astype(prediction.dtype, copy=False)
        if self.activation is None:
            check_fractions("DiceLoss", "prediction, a probability (activation=None),", prediction)
            probabilities = prediction
        else:
            probabilities = sigmoid(prediction) if self.activation == "sigmoid" else softmax(prediction, 1)
        scores, size = dice(probabilities, target, self.smooth, self.squared)
        self.save(probabilities, target, scores, size)
        if self.reduction == "none":
            return 1 - scores
        return scalar((1 - scores).sum() / (scores.size if self.reduction == "mean" else 1))

    def backward(self, dloss: Any = 1.0) -> Array:
        """Gradient of the prediction; `dloss` is a number, or (B, C) for ``reduction="none"``."""
        probabilities, target, scores, size = self.saved()
        xp = namespace(probabilities)
        each = -dloss / (scores.size if self.reduction == "mean" else 1)
        dscores = xp.broadcast_to(xp.asarray(each, dtype=scores.dtype), scores.shape)
        dprobabilities = dice_backward(dscores, probabilities, target, scores, size, self.squared)
        if self.activation is None:
            return dprobabilities
        if self.activation == "sigmoid":
            return sigmoid_backward(dprobabilities, probabilities)
        return softmax_backward(dprobabilities, probabilities, 1)
