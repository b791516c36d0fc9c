from __future__ import annotations

import math

import numpy as np
import pytest

from tinygrad_edu.errors import DtypeError, NonFiniteError, ShapeError
from tinygrad_edu.metrics import mean_absolute_error, mean_squared_error, pearson_correlation, r2_score

RNG = np.random.default_rng(0)
ALL = (mean_absolute_error, mean_squared_error, pearson_correlation, r2_score)


def test_against_scipy_and_scikit_learn():
    metrics, stats = pytest.importorskip("sklearn.metrics"), pytest.importorskip("scipy.stats")
    targets = RNG.normal(size=(50, 4)) * 3 + 1000  # far from zero: a sum of squares would cancel
    predictions = targets + RNG.normal(size=(50, 4))
    raw = {"multioutput": "raw_values"}
    for found, wanted in (
        (mean_absolute_error, metrics.mean_absolute_error(targets, predictions, **raw)),
        (mean_squared_error, metrics.mean_squared_error(targets, predictions, **raw)),
        (r2_score, metrics.r2_score(targets, predictions, **raw)),
        (pearson_correlation, [stats.pearsonr(p, t)[0] for p, t in zip(predictions.T, targets.T, strict=True)]),
    ):
        np.testing.assert_allclose(found(predictions, targets, each=True), wanted, rtol=1e-9)
    assert mean_absolute_error(predictions, targets) == pytest.approx(np.abs(predictions - targets).mean())
    assert pearson_correlation(predictions, targets) == pytest.approx(
        stats.pearsonr(predictions.ravel(), targets.ravel())[0]
    )
    assert isinstance(pearson_correlation(predictions, targets), float)


def test_closed_forms():
    t = np.arange(10.0)
    assert pearson_correlation(3 * t + 7, t) == pytest.approx(1)
    assert pearson_correlation(-t, t) == pytest.approx(-1)
    assert pearson_correlation((t - 4.5) ** 2, t) == pytest.approx(0, abs=1e-12)
    assert r2_score(t, t) == 1
    assert r2_score(np.full(10, t.mean()), t) == pytest.approx(0)
    assert r2_score(-t, t) < 0


def test_of_a_constant_there_is_no_correlation():
    t = np.array([[0.1, 1.0], [0.1, 2.0], [0.1, 4.0]])  # the mean of 0.1 three times rounds to another number
    p = np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 5.0]])
    for figure in (pearson_correlation, r2_score):
        assert np.isnan(figure(p, t, each=True)).tolist() == [True, False]
    assert math.isnan(pearson_correlation(np.ones(5), np.arange(5)))


@pytest.mark.parametrize("figure", ALL)
def test_columns_keep_their_shape(figure):
    p, t = RNG.normal(size=(2, 9, 2, 3))
    assert figure(p, t, each=True).shape == (2, 3)
    assert figure(p, t, each=True)[1, 2] == pytest.approx(figure(p[:, 1, 2], t[:, 1, 2]))


@pytest.mark.parametrize("figure", ALL)
def test_bad_inputs(figure):
    ok = RNG.normal(size=(4, 2))
    with pytest.raises(ShapeError, match=r"predictions: shape \(4, 2\), wanted that of targets, \(2, 4\)"):
        figure(ok, ok.T)
    with pytest.raises(ShapeError, match="nothing to compare"):
        figure(ok[:0], ok[:0])
    with pytest.raises(DtypeError, match="targets: dtype <U1, wanted real numbers"):
        figure(ok, np.full((4, 2), "x"))
    broken = ok.copy()
    broken[2, 1] = np.inf
    with pytest.raises(NonFiniteError, match=r"predictions: inf at position \(2, 1\), 1 of 8 so"):
        figure(broken, ok)


@pytest.mark.parametrize("figure", [pearson_correlation, r2_score])
def test_one_example_is_too_few(figure):
    with pytest.raises(ShapeError, match="predictions: 1 examples, wanted at least 2"):
        figure(np.ones((1, 3)), np.ones((1, 3)), each=True)
