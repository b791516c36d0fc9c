"""The noise of dropout: the same on every path, and as random as it should be."""

from __future__ import annotations

import numpy as np
import pytest

from tinygrad_edu import reference_ops
from tinygrad_edu.backend import random_uniform
from tinygrad_edu.layers.dropout import dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_kernel_and_textbook_drop_the_same(p: float) -> None:
    x = np.ones((50, 21), dtype="float32")
    for seed in (0, 1, 2**62):
        with reference_ops():
            wanted = dropout(x, p, seed) == 0
        np.testing.assert_array_equal(dropout(x, p, seed) == 0, wanted)


def test_the_noise_is_uniform() -> None:
    u = random_uniform(np.empty(100_000, dtype="float32"), 3)
    assert u.dtype == np.float32
    assert u.min() >= 0 and u.max() < 1
    counts = np.histogram(u, bins=20, range=(0, 1))[0]
    assert np.sum((counts - 5000) ** 2 / 5000) < 43.8  # chi-squared with 19 degrees of freedom, 0.1% level
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.01


def test_seeds_next_to_each_other_give_unrelated_noise() -> None:
    like = np.empty(50_000, dtype="float32")
    first, second = random_uniform(like, 5), random_uniform(like, 6)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02
    assert not np.array_equal(first[1:], second[:-1])


def test_the_mean_is_kept() -> None:
    y = dropout(np.ones(100_000, dtype="float32"), 0.3, 1)
    assert y.mean() == pytest.approx(1, abs=0.01)
