"""How well maps of classes, or masks, are predicted: overlap, and the share of pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, RangeError
from ..losses import check_targets
from .checks import integers, real, same_shape
from .language import token_accuracy


@dataclass
class SegmentationScore:
    """Counts over batches, from which the figures of a whole data set follow.

    Overlaps are those of all pixels together, not means over images: an image without a class neither helps nor
    harms it.

    Parameters
    ----------
    n_classes : classes of the maps; 2 for a mask
    ignore_index : label of pixels that count for nothing

    Attributes
    ----------
    confusion : (n_classes, n_classes), pixels by label (row) and prediction (column)

    Examples
    --------
    >>> score = SegmentationScore(2)
    >>> score.add(np.array([[1, 1, 0]]), np.array([[1, 0, 0]]))
    >>> score.iou.tolist(), round(score.pixel_accuracy, 3)
    ([0.5, 0.5], 0.667)
    """

    n_classes: int
    ignore_index: int = -100
    confusion: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        if isinstance(self.n_classes, bool) or not isinstance(self.n_classes, int) or self.n_classes < 1:
            raise ConfigError(f"n_classes: {self.n_classes!r}, wanted an integer >= 1")
        self.confusion = np.zeros((self.n_classes, self.n_classes), dtype=np.int64)

    def add(self, predictions: NDArray[Any], labels: NDArray[Any]) -> None:
        """Add a batch of maps.

        Parameters
        ----------
        predictions, labels : integers of one shape

        Raises
        ------
        ShapeError, DtypeError, RangeError
            RangeError is an IndexError, as a class outside the table is.
        """
        predictions, labels = np.asarray(predictions), np.asarray(labels)
        same_shape(predictions, labels, ("predictions", "labels"))
        check_targets("labels", labels, self.n_classes, self.ignore_index)
        counted = labels != self.ignore_index
        predictions = integers("predictions", predictions)[counted]
        if predictions.size and not 0 <= predictions.min() <= predictions.max() < self.n_classes:
            wrong = predictions[(predictions < 0) | (predictions >= self.n_classes)][0]
            raise RangeError(f"predictions: class {wrong}, wanted [0, {self.n_classes})")
        pairs = labels[counted].astype(np.int64) * self.n_classes + predictions.astype(np.int64)
        self.confusion += np.bincount(pairs, minlength=self.n_classes**2).reshape(self.confusion.shape)

    @property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union of each class (Jaccard, 1912); NaN for one in neither labels nor predictions."""
        shared = np.diag(self.confusion)
        union = self.confusion.sum(0) + self.confusion.sum(1) - shared
        return _quotient(shared, union)

    @property
    def dice(self) -> NDArray[np.float64]:
        """Dice coefficient of each class, 2 IoU / (1 + IoU); NaN where the IoU is."""
        return _quotient(2 * np.diag(self.confusion), self.confusion.sum(0) + self.confusion.sum(1))

    @property
    def mean_iou(self) -> float:
        """Mean over the classes that there are; NaN if there are none."""
        found = self.iou[~np.isnan(self.iou)]
        return float(found.mean()) if found.size else math.nan

    @property
    def pixel_accuracy(self) -> float:
        """Share of the pixels whose class was predicted; NaN before any was added."""
        total = int(self.confusion.sum())
        return int(np.trace(self.confusion)) / total if total else math.nan


def class_iou(
    predictions: NDArray[Any], labels: NDArray[Any], n_classes: int, ignore_index: int = -100
) -> NDArray[np.float64]:
    """Intersection over union of each class, (n_classes,); see :class:`SegmentationScore` for batches."""
    return _scored(predictions, labels, n_classes, ignore_index).iou


def pixel_accuracy(predictions: NDArray[Any], labels: NDArray[Any], ignore_index: int = -100) -> float:
    """Share of pixels whose class was predicted; NaN if none counts.

    Raises
    ------
    ShapeError, DtypeError
    """
    return token_accuracy(predictions, labels, ignore_index)


def mask_iou(scores: NDArray[Any], mask: NDArray[Any], threshold: float = 0.5) -> float:
    """Intersection over union of a mask and a prediction, over all pixels of all images.

    Parameters
    ----------
    scores : probabilities, or booleans; logits have their threshold at 0
    mask : booleans, or numbers of which those above 0.5 are inside; of the same shape
    threshold : scores above it are inside

    Returns
    -------
    float
        1 if both are empty: nothing was to be found, and nothing was.

    Raises
    ------
    ShapeError, DtypeError, NonFiniteError
    """
    scores, mask = np.asarray(scores), np.asarray(mask)
    same_shape(scores, mask, ("scores", "mask"))
    inside = _inside("scores", scores, threshold)
    wanted = _inside("mask", mask, 0.5)
    union = int((inside | wanted).sum())
    return int((inside & wanted).sum()) / union if union else 1.0


def _inside(name: str, values: NDArray[Any], threshold: float) -> NDArray[np.bool_]:
    if not math.isfinite(threshold):
        raise ConfigError(f"threshold: {threshold}, wanted a finite number")
    return values if values.dtype == np.bool_ else real(name, values) > threshold


def _scored(predictions: Any, labels: Any, n_classes: int, ignore_index: int) -> SegmentationScore:
    score = SegmentationScore(n_classes, ignore_index)
    score.add(predictions, labels)
    return score


def _quotient(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        return np.asarray(part / whole, dtype=np.float64)
