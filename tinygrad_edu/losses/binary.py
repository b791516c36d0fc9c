"""Binary cross-entropy: each element is a yes or a no by itself, such as a pixel of a mask."""

from __future__ import annotations

from ..backend import Array, namespace, op
from ..errors import DtypeError
from .common import check_fractions, factors
from .elementwise import ElementwiseLoss

_LEAST_LOG = -100.0  # a probability of exactly 0 would cost infinity; torch draws the line here too
_LEAST_SLOPE = 1e-12


@op
def binary_cross_entropy_with_logits(logits: Array, targets: Array, pos_weight: Array | None) -> Array:
    r"""Cross-entropy between :math:`\sigma(z)` and a target t in [0, 1], for each element.

    With q the weight of what is there, and :math:`\log(1 - \sigma(z)) = -z + \log\sigma(z)`

    .. math:: L = -q\,t \log \sigma(z) - (1 - t) \log(1 - \sigma(z)) = (1 - t)\,z + (1 + (q - 1)\,t)\,\mathrm{sp}(-z)

    where softplus :math:`\mathrm{sp}(-z) = \log(1 + e^{-z}) = \max(-z, 0) + \log(1 + e^{-|z|})` never overflows, and
    keeps its digits where :math:`\sigma(z)` has been rounded to 0 or 1.

    Parameters
    ----------
    logits, targets : of one shape
    pos_weight : q, broadcastable to it, or None for 1

    Returns
    -------
    losses : of that shape
    """
    xp = namespace(logits, targets, pos_weight)
    softplus = xp.maximum(-logits, 0) + xp.log1p(xp.exp(-abs(logits)))
    if pos_weight is not None:
        softplus = softplus * (1 + (pos_weight - 1) * targets)
    return (1 - targets) * logits + softplus


@op
def binary_cross_entropy_with_logits_backward(
    dlosses: Array, logits: Array, targets: Array, pos_weight: Array | None
) -> Array:
    r"""Gradient of :func:`binary_cross_entropy_with_logits`.

    The slope of :math:`\mathrm{sp}(-z)` is :math:`-\sigma(-z)`, so

    .. math:: dz = dL\,\big(1 - t - (1 + (q - 1)\,t)\,\sigma(-z)\big)

    which for q = 1 is the prediction minus the truth, :math:`\sigma(z) - t`.

    Returns
    -------
    dlogits : of the logits' shape
    """
    xp = namespace(dlosses, logits, targets, pos_weight)
    small = xp.exp(-abs(logits))
    absent = xp.where(logits >= 0, small, 1) / (1 + small)  # sigma(-z)
    if pos_weight is not None:
        absent = absent * (1 + (pos_weight - 1) * targets)
    return dlosses * (1 - targets - absent)


def _bounded_log(x: Array) -> Array:
    """Logarithm, not below -100; that of 0 is never taken. A NaN stays one."""
    xp = namespace(x)
    return xp.where(x <= 0, _LEAST_LOG, xp.maximum(xp.log(xp.where(x <= 0, 1, x)), _LEAST_LOG))


@op
def binary_cross_entropy(probabilities: Array, targets: Array) -> Array:
    r"""Cross-entropy between a probability p and a target t in [0, 1], for each element.

    .. math:: L = -t \log p - (1 - t) \log(1 - p)

    with each logarithm held above -100, as torch has it.
    """
    return -targets * _bounded_log(probabilities) - (1 - targets) * _bounded_log(1 - probabilities)


@op
def binary_cross_entropy_backward(dlosses: Array, probabilities: Array, targets: Array) -> Array:
    r"""Gradient of :func:`binary_cross_entropy`.

    .. math:: dp = dL\,\Big(\frac{1 - t}{1 - p} - \frac{t}{p}\Big) = dL\,\frac{p - t}{p\,(1 - p)}

    with the divisor held above 1e-12, as torch has it: a probability that is wrong for certain still has a way back.
    """
    slope = namespace(probabilities).maximum(probabilities * (1 - probabilities), _LEAST_SLOPE)
    return dlosses * (probabilities - targets) / slope


class _BinaryLoss(ElementwiseLoss):
    mean_of_weights = False

    def checked(self, prediction: Array, target: Array) -> Array:
        name = type(self).__name__
        if target.dtype.kind not in "fbiu":
            raise DtypeError(f"{name}: target must be numbers or booleans, got {target.dtype}")
        check_fractions(name, "target", target)
        return target.astype(prediction.dtype, copy=False)


class BCEWithLogitsLoss(_BinaryLoss):
    """Binary cross-entropy of logits, as torch.nn.BCEWithLogitsLoss.

    Parameters
    ----------
    weight : a factor for each element, broadcastable to the logits; "mean" divides by the number of elements
    reduction : ``"mean"``, ``"sum"`` or ``"none"``
    pos_weight : how much more a target of 1 counts than one of 0, broadcastable to the logits: (C, 1, 1) has a number
        for each channel of images (B, C, H, W). About (pixels outside) / (pixels inside) balances a small mask

    Raises
    ------
    ShapeError, ConfigError, DtypeError
        From forward, where shapes differ or targets leave [0, 1].
    """

    def __init__(self, weight: Array | None = None, reduction: str = "mean", pos_weight: Array | None = None):
        super().__init__(reduction, weight)
        self.pos_weight = pos_weight

    def _pos_weight(self, logits: Array) -> Array | None:
        if self.pos_weight is None:
            return None
        return factors("BCEWithLogitsLoss", "pos_weight", self.pos_weight, tuple(logits.shape), logits.dtype)

    def losses(self, prediction: Array, target: Array) -> Array:
        return binary_cross_entropy_with_logits(prediction, target, self._pos_weight(prediction))

    def gradient(self, dlosses: Array, prediction: Array, target: Array) -> Array:
        return binary_cross_entropy_with_logits_backward(dlosses, prediction, target, self._pos_weight(prediction))


class BCELoss(_BinaryLoss):
    """Binary cross-entropy of probabilities, as torch.nn.BCELoss; of logits take :class:`BCEWithLogitsLoss`.

    Parameters
    ----------
    weight : a factor for each element, broadcastable to the probabilities; "mean" divides by the number of elements
    reduction : ``"mean"``, ``"sum"`` or ``"none"``

    Raises
    ------
    ShapeError, ConfigError, DtypeError
        From forward, where shapes differ, or a probability or target leaves [0, 1].
    """

    def __init__(self, weight: Array | None = None, reduction: str = "mean"):
        super().__init__(reduction, weight)

    def checked(self, prediction: Array, target: Array) -> Array:
        check_fractions("BCELoss", "prediction, a probability,", prediction)
        return super().checked(prediction, target)

    def losses(self, prediction: Array, target: Array) -> Array:
        return binary_cross_entropy(prediction, target)

    def gradient(self, dlosses: Array, prediction: Array, target: Array) -> Array:
        return binary_cross_entropy_backward(dlosses, prediction, target)
