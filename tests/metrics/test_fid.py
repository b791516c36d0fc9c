"""FID and Inception Score against scipy's matrix square root, closed forms, and formulas written out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tinygrad_edu.errors import ConfigError, DtypeError, NonFiniteError, ShapeError
from tinygrad_edu.metrics import (
    FeatureStatistics,
    conditioning_fidelity,
    distance_of,
    feature_statistics,
    fid,
    frechet_distance,
    inception_score,
    inception_score_of,
)

RNG = np.random.default_rng(0)


def covariance(dim, rank=None, scale=1.0):
    a = RNG.normal(size=(dim, rank or dim)) * scale
    return a @ a.T


@pytest.mark.parametrize("dim", [1, 2, 16, 64])
def test_the_distance_is_that_of_the_matrix_square_root(dim):
    linalg = pytest.importorskip("scipy.linalg")
    (m1, m2), c1, c2 = RNG.normal(size=(2, dim)), covariance(dim), covariance(dim, scale=0.3)
    root = linalg.sqrtm(c1 @ c2)
    wanted = ((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * root.real)
    assert frechet_distance(m1, c1, m2, c2) == pytest.approx(wanted, rel=1e-9)
    assert frechet_distance(m2, c2, m1, c1) == pytest.approx(wanted, rel=1e-9)


def test_closed_forms():
    m, c = RNG.normal(size=8), covariance(8)
    assert frechet_distance(m, c, m, c) == pytest.approx(0, abs=1e-11)
    assert frechet_distance(m, c, m + 2, c) == pytest.approx(8 * 4)
    assert frechet_distance(m, c, m, 9 * c) == pytest.approx(np.trace(c) * (3 - 1) ** 2)
    # Covariances that commute: the distance is that of the deviations along their common axes.
    axes, _ = np.linalg.qr(RNG.normal(size=(8, 8)))
    a, b = RNG.random((2, 8)) + 0.1
    found = frechet_distance(m, (axes * a) @ axes.T, m, (axes * b) @ axes.T)
    assert found == pytest.approx(((np.sqrt(a) - np.sqrt(b)) ** 2).sum(), rel=1e-10)
    # In one dimension: difference of means and of deviations.
    assert frechet_distance([1.0], [[4.0]], [3.0], [[25.0]]) == pytest.approx(2**2 + (2 - 5) ** 2)


def test_singular_covariances_need_no_noise():
    """Of rank 3 in 40 dimensions; and one that is zero: the distance from a point."""
    m, c = np.zeros(40), covariance(40, rank=3)
    assert frechet_distance(m, c, m, c) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(m, c, m, np.zeros((40, 40))) == pytest.approx(np.trace(c))
    turned = np.roll(np.roll(c, 7, axis=0), 7, axis=1)
    padded = frechet_distance(np.zeros(43), _pad(c), np.zeros(43), _pad(turned))
    assert padded == pytest.approx(frechet_distance(m, c, m, turned), rel=1e-9)


def _pad(c):
    return np.pad(c, ((0, 3), (0, 3)))


def test_statistics_by_batches_are_those_of_the_whole():
    """Means of millions beside deviations of one: a sum of squares less the square of a sum has few digits left."""
    features = RNG.normal(size=(1000, 6)) + 1e6 * np.arange(1, 7)
    statistics = FeatureStatistics()
    for batch in np.split(features, [1, 3, 400, 400, 999]):
        statistics.add(batch)
    assert statistics.count == 1000 and statistics.dim == 6
    np.testing.assert_allclose(statistics.mean, features.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(statistics.covariance, np.cov(features, rowvar=False), rtol=1e-8, atol=1e-9)
    once = FeatureStatistics.of(features)
    np.testing.assert_allclose(statistics.covariance, once.covariance, rtol=1e-8, atol=1e-9)


def flat(images):
    return images.reshape(len(images), -1)[:, :5]


def test_fid_says_under_what_and_of_how_many():
    real, fake = RNG.normal(size=(300, 1, 3, 3)), RNG.normal(size=(200, 1, 3, 3)) + 1
    found = fid(real, fake, flat, name="first five pixels", batch_size=64)
    wanted = distance_of(FeatureStatistics.of(flat(real)), FeatureStatistics.of(flat(fake)))
    assert float(found) == found.value == pytest.approx(wanted, rel=1e-12)
    assert (found.extractor, found.features, found.samples) == ("first five pixels", 5, (300, 200))
    assert str(found) == f"FID {wanted:.2f} under first five pixels (5 features, 300 and 200 pictures)"
    statistics = feature_statistics(real, flat)
    again = fid(statistics, (fake[i : i + 50] for i in range(0, 200, 50)), flat, name="first five pixels")
    assert float(again) == pytest.approx(wanted, rel=1e-12)


def test_few_samples_are_warned_of():
    few, many = FeatureStatistics.of(RNG.normal(size=(5, 5))), FeatureStatistics.of(RNG.normal(size=(50, 5)))
    with pytest.warns(UserWarning, match="5 samples for 5 features: their covariance is singular"):
        distance_of(few, many)
    assert distance_of(many, many) == pytest.approx(0, abs=1e-12)


def test_inception_score_by_its_formula():
    stats = pytest.importorskip("scipy.stats")
    p = RNG.dirichlet(np.ones(7), size=90)
    scores = []
    for part in np.split(p, 3):
        mean = part.mean(axis=0)
        scores.append(math.exp(np.mean([stats.entropy(row, mean) for row in part])))
    assert inception_score_of(p, splits=3) == pytest.approx((np.mean(scores), np.std(scores)))


def test_inception_score_at_its_ends():
    assert inception_score_of(np.full((20, 4), 0.25), 2) == pytest.approx((1, 0))
    assert inception_score_of(np.tile(np.eye(4), (6, 1)), 3) == pytest.approx((4, 0))  # sure, and all classes alike
    assert inception_score_of(np.eye(4)[np.zeros(8, int)], 1) == pytest.approx((1, 0))  # sure, but all of one class
    assert inception_score_of(np.eye(3)[[0, 1, 2, 0, 1]], 2)[0] == pytest.approx((3 + 2) / 2)  # parts of 3 and 2


def test_inception_score_says_under_what():
    images = RNG.normal(size=(40, 1, 2, 2))

    def classifier(x):
        e = np.exp(flat(x) - flat(x).max(axis=1, keepdims=True))
        return (e / e.sum(axis=1, keepdims=True)).astype("float32")

    found = inception_score(images, classifier, name="softmax of pixels", splits=4, batch_size=7)
    assert (found.mean, found.std) == pytest.approx(inception_score_of(classifier(images), 4))
    assert (found.samples, found.splits, found.classifier) == (40, 4, "softmax of pixels")
    assert str(found).endswith("under softmax of pixels (40 pictures, 4 splits)")


def test_fidelity_beside_chance():
    asked = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    found = np.array([0, 0, 0, 1, 1, 1, 2, 0])
    (result,) = conditioning_fidelity({"digit": found}, {"digit": asked}, name="c").values()
    assert result.accuracy == float(result) == 6 / 8
    assert result.chance == pytest.approx((4 * 4 + 3 * 2 + 1 * 2) / 64)
    assert str(result) == "75.0% as asked, 37.5% by chance, under c (8 pictures)"


def test_chance_is_what_another_order_gives():
    asked, found = RNG.integers(0, 5, 400), RNG.choice(5, 400, p=[0.6, 0.1, 0.1, 0.1, 0.1])
    chance = conditioning_fidelity({"a": found}, {"a": asked}, name="c")["a"].chance
    shuffled = np.mean([(RNG.permutation(found) == asked).mean() for _ in range(2000)])
    assert chance == pytest.approx(shuffled, abs=0.003)


ONE = np.eye(2)


@pytest.mark.parametrize(
    ("error", "call", "message"),
    [
        (ShapeError, lambda: frechet_distance([0, 0], ONE, [0, 0, 0], np.eye(3)), r"shapes \(2,\) and \(3,\)"),
        (ShapeError, lambda: frechet_distance([0, 0], np.eye(3), [0, 0], ONE), r"covariance1: shape \(3, 3\)"),
        (ConfigError, lambda: frechet_distance([0, 0], [[1, 1], [0, 1]], [0, 0], ONE), "covariance1: not symmetric"),
        (
            ConfigError,
            lambda: frechet_distance([0, 0], ONE, [0, 0], [[1, 0], [0, -1]]),
            "covariance2: an eigenvalue is -1",
        ),
        (NonFiniteError, lambda: frechet_distance([0, np.nan], ONE, [0, 0], ONE), r"mean1: nan at position \(1,\)"),
        (ShapeError, lambda: FeatureStatistics.of(np.ones(3)), r"features: shape \(3,\), wanted \(images, features\)"),
        (NonFiniteError, lambda: FeatureStatistics.of(np.full((2, 2), np.nan)), "features: nan .* 4 of 4 so"),
        (DtypeError, lambda: FeatureStatistics.of(np.full((2, 2), "a")), "features: dtype <U1"),
        (ConfigError, lambda: FeatureStatistics.of(np.ones((1, 2))).covariance, "features: 1 added, wanted at least 2"),
        (ConfigError, lambda: FeatureStatistics().covariance, "features: 0 added"),
        (ShapeError, lambda: _two_lengths(), "features: 3 a row, wanted 2 as before"),
        (ShapeError, lambda: distance_of(FeatureStatistics.of(ONE), FeatureStatistics.of(np.eye(3))), "2 and 3 a row"),
        (ConfigError, lambda: fid(ONE, ONE, flat, name=" "), "name: ' ', wanted that of the network"),
        (ConfigError, lambda: fid(ONE, ONE, flat, name="f", batch_size=0), "batch_size: 0, wanted an integer >= 1"),
        (ConfigError, lambda: fid(3, ONE, flat, name="f"), "images: int, wanted an array of pictures"),
        (ShapeError, lambda: fid(ONE, ONE, lambda x: x[:1], name="f"), "extractor: gave 1 features for 2 pictures"),
        (ShapeError, lambda: inception_score_of(np.ones(3)), r"probabilities: shape \(3,\)"),
        (ConfigError, lambda: inception_score_of(np.ones((4, 2)), 2), "row 0 sums to 2 .*are these logits"),
        (
            ConfigError,
            lambda: inception_score_of(np.array([[0.5, 0.5], [1.5, -0.5]]), 1),
            "row 1 sums to 1 with a least entry of -0.5",
        ),
        (NonFiniteError, lambda: inception_score_of(np.array([[np.nan, 1.0]]), 1), "probabilities: nan"),
        (
            ConfigError,
            lambda: inception_score_of(ONE, 3),
            "splits: 3, wanted an integer from 1 to the number of pictures, 2",
        ),
        (ConfigError, lambda: inception_score_of(ONE, 0), "splits: 0"),
        (ShapeError, lambda: inception_score(ONE[:0], flat, name="f"), "images: none"),
        (ConfigError, lambda: conditioning_fidelity({}, {}, name="c"), "found: attributes"),
        (
            ConfigError,
            lambda: conditioning_fidelity({"a": ONE}, {"b": ONE}, name="c"),
            r"attributes \['a'\], wanted .* \['b'\]",
        ),
        (
            ShapeError,
            lambda: conditioning_fidelity({"a": np.ones(3, int)}, {"a": np.ones(2, int)}, name="c"),
            r"shapes \(3,\) and \(2,\)",
        ),
        (
            DtypeError,
            lambda: conditioning_fidelity({"a": np.ones(2)}, {"a": np.ones(2, int)}, name="c"),
            "found.*float64",
        ),
    ],
)
def test_bad_inputs(error, call, message):
    with pytest.raises(error, match=message):
        call()


def _two_lengths():
    statistics = FeatureStatistics.of(np.ones((3, 2)))
    statistics.add(np.ones((3, 3)))
