from __future__ import annotations

import math

import numpy as np
import pytest

from tinygrad_edu.errors import ConfigError, DtypeError, ShapeError
from tinygrad_edu.metrics import LanguageScore, bits_per_byte, perplexity, token_accuracy


@pytest.mark.parametrize(
    ("nll", "wanted"), [(0.0, 1.0), (math.log(50257), 50257.0), (1000.0, math.inf), (math.inf, math.inf)]
)
def test_perplexity(nll, wanted):
    assert perplexity(nll) == pytest.approx(wanted)


def test_perplexity_of_nan_is_nan():
    assert math.isnan(perplexity(math.nan))


def test_a_uniform_guess_of_bytes_costs_eight_bits():
    assert bits_per_byte(1000 * math.log(256), 1000) == pytest.approx(8.0)


@pytest.mark.parametrize("n_bytes", [0, -1, math.nan])
def test_bits_per_byte_of_nothing(n_bytes):
    with pytest.raises(ConfigError, match="n_bytes: .*wanted at least 1"):
        bits_per_byte(1.0, n_bytes)


@pytest.mark.parametrize(
    ("predictions", "labels", "wanted"),
    [
        ([1, 2, 3], [1, 2, 4], 2 / 3),
        ([1, 2, 3], [1, -100, 4], 1 / 2),
        ([[5]], [[5]], 1.0),
        ([-100, 1], [-100, 1], 1.0),
    ],
)
def test_token_accuracy(predictions, labels, wanted):
    assert token_accuracy(np.array(predictions), np.array(labels)) == pytest.approx(wanted)


def test_token_accuracy_of_nothing_is_nan():
    assert math.isnan(token_accuracy(np.array([1]), np.array([-100])))


@pytest.mark.parametrize(
    ("predictions", "labels", "kind", "message"),
    [
        (
            np.zeros((2, 3), int),
            np.zeros((2, 4), int),
            ShapeError,
            r"shape \(2, 3\), wanted the labels' \(2, 4\)",
        ),
        (np.zeros(2), np.zeros(2, int), DtypeError, "predictions: dtype float64"),
        (np.zeros(2, int), np.zeros(2), DtypeError, "labels: dtype float64"),
    ],
)
def test_token_accuracy_refuses(predictions, labels, kind, message):
    with pytest.raises(kind, match=message):
        token_accuracy(predictions, labels)


def test_a_score_adds_up_batches():
    score = LanguageScore()
    assert all(map(math.isnan, (score.loss, score.accuracy, score.bits_per_byte, score.perplexity)))
    score.add(np.array([[1.0, 2.0, 0.0]], np.float32), np.array([[True, False, False]]), n_tokens=2, n_bytes=5)
    score.add(np.array([[3.0, 0.0, 0.0]], np.float32), np.array([[True, False, False]]), n_tokens=1, n_bytes=3)
    assert (score.loss, score.n_tokens, score.accuracy) == (2.0, 3, 2 / 3)
    assert score.perplexity == pytest.approx(math.exp(2))
    assert score.bits_per_byte == pytest.approx(6 / math.log(2) / 8)
    with pytest.raises(ShapeError, match=r"correct: shape \(2,\), wanted the losses' \(1, 3\)"):
        score.add(np.zeros((1, 3)), np.zeros(2, bool), n_tokens=3, n_bytes=1)


def test_sums_do_not_lose_small_losses():
    score = LanguageScore()
    score.add(np.full((1, 1_000_000), 0.1, np.float32), np.ones((1, 1_000_000), bool), n_tokens=10**6, n_bytes=10**6)
    assert score.loss == pytest.approx(float(np.float32(0.1)), rel=1e-9)
