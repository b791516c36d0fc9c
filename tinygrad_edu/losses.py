"""Losses: layers of two arrays, ``forward(prediction, target) -> loss`` and ``backward() -> dprediction``."""

from __future__ import annotations

import warnings
from typing import Any

from .backend import Array, gemm, namespace, op
from .errors import ConfigError, DtypeError, RangeError, ShapeError, format_shape
from .layers.base import Layer

_CHUNK_BYTES = 64 * 2**20  # logits held at a time by the head and loss together


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


def _chunks(rows: int, classes: int, itemsize: int) -> range:
    step = max(1, min(rows, _CHUNK_BYTES // (classes * itemsize)))
    if step < rows:
        step = max(64, step // 64 * 64)  # whole blocks for the matrix product
    return range(0, rows, step) if rows else range(0)


@op
def linear_cross_entropy(
    x: Array, weight: Array, bias: Array | None, targets: Array, ignore_index: int, label_smoothing: float
) -> tuple[Array, Array]:
    """Language-model head and :func:`cross_entropy` together, a chunk of rows at a time, for evaluation.

    The (N, V) logits are never held: at V = 50,257 they are the largest array of a training step.

    Parameters
    ----------
    x : (N, C)
    weight : (V, C); bias : (V,) or None
    targets : (N,)

    Returns
    -------
    losses : (N,)
    predicted : (N,) int64, the class of the largest logit
    """
    xp = namespace(x, weight, targets)
    losses = xp.empty(len(x), dtype=x.dtype)
    predicted = xp.empty(len(x), dtype=xp.int64)
    chunks = _chunks(len(x), len(weight), x.dtype.itemsize)
    for start in chunks:
        rows = slice(start, start + chunks.step)
        logits = gemm(x[rows], weight.T)
        if bias is not None:
            logits += bias
        losses[rows], _ = cross_entropy(logits, targets[rows], None, ignore_index, label_smoothing)
        predicted[rows] = logits.argmax(axis=1)
    return losses, predicted


@op
def linear_cross_entropy_grad(
    x: Array,
    weight: Array,
    bias: Array | None,
    targets: Array,
    dlosses: Array,
    dweight: Array,
    dbias: Array | None,
    ignore_index: int,
    label_smoothing: float,
) -> tuple[Array, Array]:
    r"""Losses and gradients of head and :func:`cross_entropy` together, a chunk of rows at a time.

    Forward and backward can share one pass because the gradient of the mean is known beforehand: it is
    `dlosses`, 1/count for every row, whatever the losses come to. With :math:`z = x W^\top + b`

    .. math:: dz = \text{cross\_entropy\_backward}, \qquad dx = dz\,W, \qquad dW \mathrel{+}= dz^\top x, \qquad
              db \mathrel{+}= \textstyle\sum_n dz_n

    Parameters
    ----------
    x : (N, C)
    weight : (V, C); bias : (V,) or None
    targets : (N,)
    dlosses : (N,), the gradient with which each row's loss is wanted
    dweight : (V, C); dbias : (V,) or None; both added to

    Returns
    -------
    losses : (N,)
    dx : (N, C)
    """
    xp = namespace(x, weight, targets, dlosses, dweight)
    losses = xp.empty(len(x), dtype=x.dtype)
    dx = xp.empty_like(x)
    chunks = _chunks(len(x), len(weight), x.dtype.itemsize)
    for start in chunks:
        rows = slice(start, start + chunks.step)
        logits = gemm(x[rows], weight.T)
        if bias is not None:
            logits += bias
        losses[rows], lse = cross_entropy(logits, targets[rows], None, ignore_index, label_smoothing)
        dlogits = cross_entropy_backward(dlosses[rows], logits, targets[rows], lse, None, ignore_index, label_smoothing)
        gemm(dlogits, weight, out=dx[rows])
        gemm(dlogits.T, x[rows], out=dweight, accumulate=True)
        if dbias is not None:
            dbias += dlogits.sum(axis=0)
    return losses, dx


def check_targets(name: str, targets: Array, classes: int, ignore_index: int) -> int:
    """Raise unless `targets` are integers in [0, classes) or `ignore_index`; return how many count.

    Raises
    ------
    DtypeError, RangeError
    """
    if targets.dtype.kind not in "iu":
        raise DtypeError(f"{name}: targets must be integers, got {targets.dtype}")
    counted = targets != ignore_index
    bad = counted & ((targets < 0) | (targets >= classes))
    if bad.any():
        first = tuple(int(axis[0]) for axis in namespace(targets).nonzero(bad))
        raise RangeError(
            f"{name}: targets must be in [0, {classes}) or ignore_index {ignore_index}, "
            f"got {int(targets[first])} at position {first}"
        )
    return int(counted.sum())


def _check_reduction(name: str, reduction: str) -> None:
    if reduction not in ("mean", "sum", "none"):
        raise ConfigError(f"{name}: reduction must be 'mean', 'sum' or 'none', got {reduction!r}")


def _check_not_empty(name: str, what: str, x: Array) -> None:
    if x.size == 0:
        raise ShapeError(f"{name}: there is nothing to take the mean of, {what} is {format_shape(tuple(x.shape))}")


def _scalar(x: Array) -> Any:
    """A loss on the host is a plain float; on a device it stays there until somebody asks for its value."""
    return float(x) if namespace(x).__name__ == "numpy" else x


class CrossEntropyLoss(Layer):
    """Cross-entropy of logits and class indices; arguments mean what they mean in torch.nn.CrossEntropyLoss.

    Parameters
    ----------
    weight : (V,), a factor for each class; with ``"mean"`` the sum is divided by the sum of factors
    ignore_index : targets of this value count for nothing
    reduction : ``"mean"``, ``"sum"`` or ``"none"``
    label_smoothing : in [0, 1]
    """

    def __init__(
        self,
        weight: Array | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ):
        super().__init__()
        _check_reduction("CrossEntropyLoss", reduction)
        if not 0 <= label_smoothing <= 1:
            raise ConfigError(f"CrossEntropyLoss: label_smoothing must be in [0, 1], got {label_smoothing!r}")
        self.weight, self.ignore_index = weight, ignore_index
        self.reduction, self.label_smoothing = reduction, label_smoothing

    def forward(self, logits: Array, targets: Array) -> Any:
        """Loss of logits (..., V) and targets (...): a number, or (...) for ``reduction="none"``.

        Raises
        ------
        ShapeError, DtypeError, RangeError
            If the shapes do not go together, or a target is no class.
        """
        xp = namespace(logits, targets, self.weight)
        if logits.ndim < 1 or tuple(logits.shape[:-1]) != tuple(targets.shape):
            raise ShapeError(
                f"CrossEntropyLoss: logits (..., classes) and targets (...) must agree, "
                f"got {format_shape(tuple(logits.shape))} and {format_shape(tuple(targets.shape))}"
            )
        classes = logits.shape[-1]
        if self.weight is not None and tuple(self.weight.shape) != (classes,):
            raise ShapeError(
                f"CrossEntropyLoss: weight must be ({classes},), got {format_shape(tuple(self.weight.shape))}"
            )
        count = check_targets("CrossEntropyLoss", targets, classes, self.ignore_index)
        flat, rows = logits.reshape(-1, classes), targets.reshape(-1).astype(xp.int64, copy=False)
        weight = None if self.weight is None else self.weight.astype(logits.dtype)
        losses, lse = cross_entropy(flat, rows, weight, self.ignore_index, self.label_smoothing)
        divisor: Any = 1
        if self.reduction == "mean":
            _check_not_empty("CrossEntropyLoss", "targets", targets)
            if count == 0:
                warnings.warn(
                    "CrossEntropyLoss: every target is ignore_index; the mean of nothing is taken as 0",
                    stacklevel=3,
                )
            counted = rows != self.ignore_index
            divisor = max(count, 1) if weight is None else (weight[xp.where(counted, rows, 0)] * counted).sum()
            divisor = divisor if weight is None or count else 1
        self.save(logits.shape, flat, rows, lse, weight, divisor)
        if self.reduction == "none":
            return losses.reshape(targets.shape)
        return _scalar(losses.sum() / divisor)

    def backward(self, dloss: Any = 1.0) -> Array:
        """Gradient of the logits; `dloss` is a number, or of the targets' shape for ``reduction="none"``."""
        shape, logits, targets, lse, weight, divisor = self.saved()
        xp = namespace(logits)
        if self.reduction == "none":
            dlosses = xp.broadcast_to(xp.asarray(dloss, dtype=logits.dtype), shape[:-1]).reshape(-1)
        else:
            dlosses = xp.ones(len(targets), dtype=logits.dtype) * (dloss / divisor)
        dlosses = dlosses.astype(logits.dtype, copy=False)
        return cross_entropy_backward(
            dlosses, logits, targets, lse, weight, self.ignore_index, self.label_smoothing
        ).reshape(shape)


@op
def squared_error(prediction: Array, target: Array) -> Array:
    r"""Squared error of each element, :math:`L = (p - t)^2`."""
    return (prediction - target) ** 2


@op
def squared_error_backward(dlosses: Array, prediction: Array, target: Array) -> Array:
    r"""Gradient of :func:`squared_error` for the prediction, :math:`dp = 2\,(p - t)\,dL`."""
    return 2 * (prediction - target) * dlosses


class MeanSquaredError(Layer):
    """Mean squared error; reductions as in torch.nn.MSELoss.

    Parameters
    ----------
    reduction : ``"mean"``, ``"sum"`` or ``"none"``
    weight : a factor for each element, broadcastable to the prediction; the mean is over elements, as torch's
        ``mse_loss(..., weight=)`` with "mean" divides by the sum of the factors
    """

    def __init__(self, reduction: str = "mean", weight: Array | None = None):
        super().__init__()
        _check_reduction("MeanSquaredError", reduction)
        self.reduction, self.weight = reduction, weight

    def forward(self, prediction: Array, target: Array) -> Any:
        """Loss of two arrays of one shape: a number, or that shape for ``reduction="none"``."""
        xp = namespace(prediction, target, self.weight)
        if tuple(prediction.shape) != tuple(target.shape):
            raise ShapeError(
                "MeanSquaredError: prediction and target must have one shape, "
                f"got {format_shape(tuple(prediction.shape))} and {format_shape(tuple(target.shape))}"
            )
        losses = squared_error(prediction, target)
        factor: Any = 1.0
        if self.weight is not None:
            try:
                factor = xp.broadcast_to(self.weight, prediction.shape).astype(prediction.dtype)
            except ValueError:
                raise ShapeError(
                    f"MeanSquaredError: weight {format_shape(tuple(self.weight.shape))} does not broadcast to "
                    f"{format_shape(tuple(prediction.shape))}"
                ) from None
            losses = losses * factor
        divisor: Any = 1
        if self.reduction == "mean":
            _check_not_empty("MeanSquaredError", "prediction", prediction)
            divisor = prediction.size if self.weight is None else factor.sum()
        self.save(prediction, target, factor / divisor)
        if self.reduction == "none":
            return losses
        return _scalar(losses.sum() / divisor)

    def backward(self, dloss: Any = 1.0) -> Array:
        """Gradient of the prediction."""
        prediction, target, factor = self.saved()
        xp = namespace(prediction)
        dlosses = xp.broadcast_to(xp.asarray(dloss * factor, dtype=prediction.dtype), prediction.shape)
        return squared_error_backward(dlosses, prediction, target).astype(prediction.dtype, copy=False)
