"""How well numbers are predicted: absolute and squared errors, correlation, the share of variance that is explained.

Predictions and targets have one shape, examples along the first axis. ``each=True`` gives a figure for each of the
columns behind it instead of one for all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ShapeError
from .checks import real, same_shape


def mean_absolute_error(predictions: NDArray[Any], targets: NDArray[Any], each: bool = False) -> Any:
    """Mean of the absolute differences: a float, or an array of the columns' shape.

    Raises
    ------
    ShapeError, DtypeError, NonFiniteError
    """
    p, t = _columns(predictions, targets, each)
    return _figure(np.abs(p - t).mean(axis=0), predictions, each)


def mean_squared_error(predictions: NDArray[Any], targets: NDArray[Any], each: bool = False) -> Any:
    """Mean of the squared differences; as :func:`mean_absolute_error`."""
    p, t = _columns(predictions, targets, each)
    return _figure(((p - t) ** 2).mean(axis=0), predictions, each)


def pearson_correlation(predictions: NDArray[Any], targets: NDArray[Any], each: bool = False) -> Any:
    """Correlation coefficient (Pearson, 1895), in [-1, 1].

    Returns
    -------
    float or ndarray
        NaN where predictions or targets are all the same: correlation with a constant is not defined.

    Raises
    ------
    ShapeError
        For less than two examples, too.
    DtypeError, NonFiniteError
    """
    p, t = _columns(predictions, targets, each, at_least=2)
    p, t = _centred(p), _centred(t)
    lengths = np.linalg.norm(p, axis=0) * np.linalg.norm(t, axis=0)
    with np.errstate(invalid="ignore"):
        found = (p * t).sum(axis=0) / lengths
    return _figure(np.clip(found, -1, 1), predictions, each)


def r2_score(predictions: NDArray[Any], targets: NDArray[Any], each: bool = False) -> Any:
    """One less the squared error over that of the best constant guess, the targets' mean.

    1 for a perfect prediction, 0 for one as good as that guess, negative for worse.

    Returns
    -------
    float or ndarray
        NaN where the targets are all the same: there is no variance to explain.

    Raises
    ------
    ShapeError
        For less than two examples, too.
    DtypeError, NonFiniteError
    """
    p, t = _columns(predictions, targets, each, at_least=2)
    variation = (_centred(t) ** 2).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = 1 - ((p - t) ** 2).sum(axis=0) / variation
    return _figure(np.where(variation > 0, found, np.nan), predictions, each)


def _columns(
    predictions: Any, targets: Any, each: bool, at_least: int = 1
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both as float64, (examples, columns); one column if one figure is wanted for all."""
    predictions, targets = np.asarray(predictions), np.asarray(targets)
    same_shape(predictions, targets, ("predictions", "targets"))
    if not predictions.ndim:
        raise ShapeError("predictions: a single number, wanted an axis of examples")
    rows = len(predictions) if each else predictions.size
    if rows < at_least:
        raise ShapeError(f"predictions: {rows} examples, wanted at least {at_least}")
    p, t = (real(name, x).reshape(rows, -1) for name, x in (("predictions", predictions), ("targets", targets)))
    return p, t


def _centred(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Less its mean; exactly zero where all are the same, which rounding of the mean would hide."""
    return np.where(x.min(axis=0) == x.max(axis=0), 0.0, x - x.mean(axis=0))


def _figure(columns: NDArray[np.float64], like: Any, each: bool) -> Any:
    return columns.reshape(np.shape(like)[1:]) if each else float(columns[0])
