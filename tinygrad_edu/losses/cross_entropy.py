"""Cross-entropy between softmax and a class: of rows, and of maps."""

from __future__ import annotations

import warnings
from typing import Any

from ..backend import Array, namespace, op
from ..errors import ConfigError, ShapeError, format_shape
from ..layers.base import Layer
from .common import check_not_empty, check_reduction, check_targets, scalar


@op
def cross_entropy(
    logits: Array, targets: Array, weight: Array | None, ignore_index: int, label_smoothing: float
) -> tuple[Array, Array]:
    r"""Cross-entropy between softmax(logits) and a class, for each row.

    With class weights w, smoothing :math:`\epsilon` and log-probabilities
    :math:`\log p_c = z_c - \mathrm{lse}(z)`:

    .. math:: L = -a \log p_y - \sum_c b_c \log p_c, \qquad a = (1 - \epsilon)\,w_y, \quad
              b_c = \tfrac{\epsilon}{V} w_c

    Smoothing gives a part of the target to every class (Szegedy et al., 2016).

    Parameters
    ----------
    logits : (N, V)
    targets : (N,), classes in [0, V), or `ignore_index`, for which the loss is 0
    weight : (V,) or None

    Returns
    -------
    losses : (N,)
    lse : (N, 1), kept for the backward pass
    """
    xp = namespace(logits, targets)
    top = logits.max(axis=1, keepdims=True)
    lse = top + xp.log(xp.exp(logits - top).sum(axis=1, keepdims=True))
    counted = targets != ignore_index
    classes = xp.where(counted, targets, 0)
    log_probs = logits - lse
    losses = -(1 - label_smoothing) * log_probs[xp.arange(len(targets)), classes]
    if weight is not None:
        losses = losses * weight[classes]
    if label_smoothing:
        spread = log_probs if weight is None else log_probs * weight
        losses = losses - (label_smoothing / logits.shape[1]) * spread.sum(axis=1)
    return xp.where(counted, losses, 0).astype(logits.dtype), lse


@op
def cross_entropy_backward(
    dlosses: Array,
    logits: Array,
    targets: Array,
    lse: Array,
    weight: Array | None,
    ignore_index: int,
    label_smoothing: float,
) -> Array:
    r"""Gradient of :func:`cross_entropy`.

    :math:`\partial \log p_c / \partial z_j = [c = j] - p_j`, so that

    .. math:: dz_j = dL\,\big((a + \textstyle\sum_c b_c)\,p_j - a\,[j = y] - b_j\big)

    and without weights and smoothing simply :math:`dz = dL\,(p - \mathrm{onehot}(y))`.

    Returns
    -------
    dlogits : (N, V)
    """
    xp = namespace(dlosses, logits, targets)
    rows, classes_there = logits.shape
    counted = targets != ignore_index
    classes = xp.where(counted, targets, 0)
    weight = xp.ones(classes_there, dtype=logits.dtype) if weight is None else weight  # (V,)
    a = (1 - label_smoothing) * weight[classes]  # (N,)
    b = (label_smoothing / classes_there) * weight  # (V,)
    dlogits = (a[:, None] + b.sum()) * xp.exp(logits - lse) - b
    dlogits[xp.arange(rows), classes] -= a
    return xp.where(counted[:, None], dlogits * dlosses[:, None], 0).astype(logits.dtype)


class CrossEntropyLoss(Layer):
    """Cross-entropy of logits and class indices; arguments mean what they mean in torch.nn.CrossEntropyLoss.

    Parameters
    ----------
    weight : (V,), a factor for each class; with ``"mean"`` the sum is divided by the sum of factors
    ignore_index : targets of this value count for nothing
    reduction : ``"mean"``, ``"sum"`` or ``"none"``
    label_smoothing : in [0, 1]
    class_axis : of the logits. None: the second of maps, logits (B, V, H, W) with targets (B, H, W) as torch has
        them, which is any array of four axes or more; else the last, logits (B, T, V) with targets (B, T)
    """

    def __init__(
        self,
        weight: Array | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        class_axis: int | None = None,
    ):
        super().__init__()
        check_reduction("CrossEntropyLoss", reduction)
        if not 0 <= label_smoothing <= 1:
            raise ConfigError(f"CrossEntropyLoss: label_smoothing must be in [0, 1], got {label_smoothing!r}")
        if class_axis is not None and (isinstance(class_axis, bool) or not isinstance(class_axis, int)):
            raise ConfigError(f"CrossEntropyLoss: class_axis must be an integer or None, got {class_axis!r}")
        self.weight, self.ignore_index = weight, ignore_index
        self.reduction, self.label_smoothing = reduction, label_smoothing
        self.class_axis = class_axis

    def axis_of(self, logits: Array) -> int:
        """The axis of classes, counted from 0.

        Raises
        ------
        ShapeError
            If `class_axis` is none of theirs.
        """
        axis = self.class_axis if self.class_axis is not None else (1 if logits.ndim > 3 else -1)
        if not -logits.ndim <= axis < logits.ndim:
            raise ShapeError(
                f"CrossEntropyLoss: class_axis {axis} is not among the axes of logits "
                f"{format_shape(tuple(logits.shape))}"
            )
        return axis % logits.ndim

    def _checked_axis(self, logits: Array, targets: Array) -> int:
        axis = self.axis_of(logits)
        shape, wanted = tuple(logits.shape), tuple(targets.shape)
        if shape[:axis] + shape[axis + 1 :] != wanted:
            last = axis == logits.ndim - 1
            other = 1 if last else logits.ndim - 1
            fits = logits.ndim > 2 and shape[:other] + shape[other + 1 :] == wanted
            hint = f"; if classes are on axis {other}, say class_axis={other}" if fits else ""
            form = ("(..., classes)", "(...)") if last else ("(batch, classes, ...)", "(batch, ...)")
            raise ShapeError(
                f"CrossEntropyLoss: logits {form[0]} and targets {form[1]} must agree, "
                f"got {format_shape(shape)} and {format_shape(wanted)}{hint}"
            )
        return axis

    def forward(self, logits: Array, targets: Array) -> Any:
        """Loss of logits (..., V) and targets (...), or of maps: a number, or (...) for ``reduction="none"``.

        Maps that lie channels-last in memory are read where they are; others are copied once into rows.

        Raises
        ------
        ShapeError, DtypeError, RangeError
            If the shapes do not go together, or a target is no class.
        """
        xp = namespace(logits, targets, self.weight)
        if logits.ndim < 1:
            raise ShapeError("CrossEntropyLoss: logits (..., classes) have no axis of classes, got a single number")
        axis = self._checked_axis(logits, targets)
        rows_of_logits = xp.moveaxis(logits, axis, -1)  # (..., V)
        classes = logits.shape[axis]
        if self.weight is not None and tuple(self.weight.shape) != (classes,):
            raise ShapeError(
                f"CrossEntropyLoss: weight must be ({classes},), got {format_shape(tuple(self.weight.shape))}"
            )
        count = check_targets("CrossEntropyLoss", targets, classes, self.ignore_index)
        flat, rows = rows_of_logits.reshape(-1, classes), targets.reshape(-1).astype(xp.int64, copy=False)
        weight = None if self.weight is None else self.weight.astype(logits.dtype)
        losses, lse = cross_entropy(flat, rows, weight, self.ignore_index, self.label_smoothing)
        divisor: Any = 1
        if self.reduction == "mean":
            check_not_empty("CrossEntropyLoss", "targets", targets)
            if count == 0:
                warnings.warn(
                    "CrossEntropyLoss: every target is ignore_index; the mean of nothing is taken as 0",
                    stacklevel=3,
                )
            counted = rows != self.ignore_index
            divisor = max(count, 1) if weight is None else (weight[xp.where(counted, rows, 0)] * counted).sum()
            divisor = divisor if weight is None or count else 1
        self.save(rows_of_logits.shape, axis, flat, rows, lse, weight, divisor)
        if self.reduction == "none":
            return losses.reshape(targets.shape)
        return scalar(losses.sum() / divisor)

    def backward(self, dloss: Any = 1.0) -> Array:
        """Gradient of the logits; `dloss` is a number, or of the targets' shape for ``reduction="none"``."""
        shape, axis, logits, targets, lse, weight, divisor = self.saved()
        xp = namespace(logits)
        if self.reduction == "none":
            dlosses = xp.broadcast_to(xp.asarray(dloss, dtype=logits.dtype), shape[:-1]).reshape(-1)
        else:
            dlosses = xp.ones(len(targets), dtype=logits.dtype) * (dloss / divisor)
        dlosses = dlosses.astype(logits.dtype, copy=False)
        dlogits = cross_entropy_backward(
            dlosses, logits, targets, lse, weight, self.ignore_index, self.label_smoothing
        ).reshape(shape)
        return xp.moveaxis(dlogits, -1, axis)

    def mean_over(self, targets: Array) -> float:
        """How many targets count, or the sum of their weights; means of batches are put together by it."""
        counted = targets != self.ignore_index
        if self.weight is None:
            return float(counted.sum())
        return float((self.weight[namespace(targets).where(counted, targets, 0)] * counted).sum())
