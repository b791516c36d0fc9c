from __future__ import annotations

import math

import numpy as np
import pytest

from tinygrad_edu.errors import ConfigError, DtypeError, NonFiniteError, RangeError, ShapeError
from tinygrad_edu.metrics import SegmentationScore, class_iou, mask_iou, pixel_accuracy

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("n_classes", [2, 7])
def test_against_scikit_learn(n_classes):
    metrics = pytest.importorskip("sklearn.metrics")
    labels, predictions = RNG.integers(0, n_classes, (2, 5, 9, 8))
    every = range(n_classes)
    np.testing.assert_allclose(
        class_iou(predictions, labels, n_classes),
        metrics.jaccard_score(labels.ravel(), predictions.ravel(), average=None, labels=every),
    )
    score = SegmentationScore(n_classes)
    score.add(predictions, labels)
    np.testing.assert_array_equal(score.confusion, metrics.confusion_matrix(labels.ravel(), predictions.ravel()))
    np.testing.assert_allclose(
        score.dice, metrics.f1_score(labels.ravel(), predictions.ravel(), average=None, labels=every)
    )
    assert score.mean_iou == pytest.approx(score.iou.mean())
    wanted = metrics.accuracy_score(labels.ravel(), predictions.ravel())
    assert score.pixel_accuracy == pixel_accuracy(predictions, labels) == pytest.approx(wanted)


def test_batches_add_up():
    labels, predictions = RNG.integers(0, 4, (2, 10, 6, 6))
    whole, parts = SegmentationScore(4), SegmentationScore(4)
    whole.add(predictions, labels)
    for batch in (slice(0, 3), slice(3, 10)):
        parts.add(predictions[batch], labels[batch])
    np.testing.assert_array_equal(whole.confusion, parts.confusion)


def test_pixels_to_be_ignored_count_for_nothing():
    labels, predictions = np.array([[0, 1, -100, 255]]), np.array([[0, 0, 1, 1]])
    score = SegmentationScore(2, ignore_index=255)
    with pytest.raises(RangeError, match=r"labels: targets must be in \[0, 2\) or ignore_index 255, got -100"):
        score.add(predictions, labels)
    labels[0, 2] = 255
    predictions[0, 3] = 9  # whatever is predicted there
    score.add(predictions, labels)
    assert score.iou.tolist() == [0.5, 0.0]
    assert score.pixel_accuracy == 0.5


def test_a_class_that_does_not_occur_has_no_iou():
    score = SegmentationScore(3)
    assert math.isnan(score.mean_iou) and math.isnan(score.pixel_accuracy)
    score.add(np.array([0, 0]), np.array([0, 1]))
    np.testing.assert_array_equal(score.iou, [0.5, 0.0, np.nan])
    assert score.mean_iou == 0.25


def test_mask_iou():
    mask = np.array([[1, 1, 0, 0]])
    assert mask_iou(np.array([[0.9, 0.2, 0.6, 0.1]]), mask) == pytest.approx(1 / 3)
    assert mask_iou(np.array([[0.9, 0.2, 0.6, 0.1]]), mask, threshold=0.15) == pytest.approx(2 / 3)
    assert mask_iou(mask > 0, mask > 0) == 1
    assert mask_iou(mask == 0, mask) == 0
    assert mask_iou(np.zeros((2, 3)), np.zeros((2, 3))) == 1  # nothing to find, nothing found
    scores, masks = RNG.random((4, 6, 6)), RNG.random((4, 6, 6)) > 0.5
    assert mask_iou(scores, masks) == pytest.approx(class_iou((scores > 0.5).astype(int), masks.astype(int), 2)[1])


@pytest.mark.parametrize(
    ("error", "call", "message"),
    [
        (
            ShapeError,
            lambda: class_iou(np.zeros((2, 3), int), np.zeros((3, 2), int), 2),
            r"predictions: shape \(2, 3\)",
        ),
        (ShapeError, lambda: class_iou(np.zeros(0, int), np.zeros(0, int), 2), "nothing to compare"),
        (DtypeError, lambda: class_iou(np.zeros(3), np.zeros(3, int), 2), "predictions: dtype float64"),
        (DtypeError, lambda: class_iou(np.zeros(3, int), np.zeros(3), 2), "labels: targets must be integers"),
        (
            RangeError,
            lambda: class_iou(np.array([0, 5]), np.array([0, 1]), 2),
            r"predictions: class 5, wanted \[0, 2\)",
        ),
        (RangeError, lambda: class_iou(np.array([0, 1]), np.array([0, 5]), 2), "labels: .*got 5"),
        (ConfigError, lambda: SegmentationScore(0), "n_classes: 0, wanted an integer >= 1"),
        (ConfigError, lambda: mask_iou(np.ones(2), np.ones(2), math.nan), "threshold: nan"),
        (NonFiniteError, lambda: mask_iou(np.array([0.1, math.nan]), np.ones(2)), r"scores: nan at position \(1,\)"),
        (DtypeError, lambda: mask_iou(np.array(["a"]), np.ones(1)), "scores: dtype <U1"),
    ],
)
def test_bad_inputs(error, call, message):
    with pytest.raises(error, match=message):
        call()
