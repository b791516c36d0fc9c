"""Noise schedules against closed forms: marginals by single steps, the posterior by Bayes' rule on a grid."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tinygrad_edu.errors import ConfigError, DtypeError, RangeError, ShapeError
from tinygrad_edu.models.diffusion import NoiseSchedule, cosine_betas, linear_betas, make_noise_schedule

NAMES = ("linear", "cosine")
each = pytest.mark.parametrize("name", NAMES)


def test_linear_betas_as_in_the_paper() -> None:
    betas = make_noise_schedule("linear").betas
    assert betas.shape == (1000,) and betas.dtype == np.float64
    assert (betas[0], betas[-1]) == (1e-4, 0.02)
    np.testing.assert_allclose(np.diff(betas), (0.02 - 1e-4) / 999, rtol=1e-10)


def test_the_cosine_schedule_is_the_squared_cosine() -> None:
    schedule = make_noise_schedule("cosine", 100)
    f = np.cos((np.arange(101) / 100 + 0.008) / 1.008 * math.pi / 2) ** 2
    np.testing.assert_allclose(schedule.alphas_bar[:-1], f[1:-1] / f[0], rtol=1e-10)
    assert schedule.betas[-1] == 0.999  # its last value would be 1


@each
def test_all_steps_together_are_one(name: str) -> None:
    """Single steps q(x_t | x_t-1), mean and variance carried along, give what one step says."""
    schedule = make_noise_schedule(name)
    mean, variance = 1.0, 0.0
    for t, beta in enumerate(schedule.betas):
        mean, variance = math.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        signal, noise = schedule.amplitudes(t, np.zeros(1))
        assert signal == pytest.approx(mean, rel=1e-10) and noise**2 == pytest.approx(variance, rel=1e-10)
        assert schedule.snr[t] == pytest.approx(mean**2 / variance, rel=1e-9)
    assert schedule.amplitudes(-1, np.zeros(1)) == (1.0, 0.0)


@each
@pytest.mark.parametrize("t, before", [(3, 2), (500, 499), (500, 300), (40, 10), (700, 150)])
def test_the_posterior_is_that_of_bayes(name: str, t: int, before: int) -> None:
    schedule = make_noise_schedule(name)
    x0, x_t = 0.7, -0.4
    a_s, s_s = schedule.amplitudes(before, np.zeros(1))
    beta = schedule.beta_between(t, before)
    x = np.linspace(-8, 8, 400_001)
    log_prior = -((x - a_s * x0) ** 2) / (2 * s_s**2)  # q(x_s | x_0)
    log_likelihood = -((x_t - math.sqrt(1 - beta) * x) ** 2) / (2 * beta)  # q(x_t | x_s)
    density = np.exp(log_prior + log_likelihood - (log_prior + log_likelihood).max())
    density /= density.sum()
    mean = (density * x).sum()
    found = schedule.posterior_mean(np.array([x0]), np.array([x_t]), t, before)
    assert found[0] == pytest.approx(mean, abs=1e-9)
    assert schedule.posterior_variance(t, before) == pytest.approx((density * (x - mean) ** 2).sum(), rel=1e-7)


def test_the_posterior_of_the_last_step_is_the_picture() -> None:
    schedule = make_noise_schedule("cosine", 10)
    x0, x_t = np.ones((1, 2)), np.zeros((1, 2))
    np.testing.assert_allclose(schedule.posterior_mean(x0, x_t, 0), x0, rtol=1e-15)
    assert schedule.posterior_variance(0) == 0


@each
def test_add_noise_takes_a_time_for_each_picture(name: str) -> None:
    rng, schedule = np.random.default_rng(0), make_noise_schedule(name)
    x0, noise = rng.normal(size=(2, 4, 3, 2, 2))
    t = np.array([0, 10, 500, 999])
    x_t = schedule.add_noise(x0, t, noise)
    for i, time in enumerate(t):
        bar = np.prod(1 - schedule.betas[: time + 1])
        np.testing.assert_allclose(x_t[i], math.sqrt(bar) * x0[i] + math.sqrt(1 - bar) * noise[i], rtol=1e-12)
        np.testing.assert_array_equal(schedule.add_noise(x0[i : i + 1], int(time), noise[i : i + 1]), x_t[i : i + 1])
    assert schedule.add_noise(x0.astype("float32"), t, noise.astype("float32")).dtype == np.float32
    assert schedule.add_noise(x0.astype("float32"), 3, noise.astype("float32")).dtype == np.float32


def test_noise_is_of_unit_variance_at_the_end() -> None:
    for name in NAMES:
        schedule = make_noise_schedule(name)
        assert schedule.alphas_bar[-1] < 1e-4
    with pytest.warns(UserWarning, match="after 100 steps 60% of the picture's amplitude is left"):
        make_noise_schedule("linear", 100)


X = np.zeros((2, 3))
S = make_noise_schedule("cosine", 10)
WRONG: list[tuple[Any, type[Exception], str]] = [
    (lambda: make_noise_schedule("cosin"), ConfigError, "unknown name 'cosin', wanted one of linear, cosine. Did you"),
    (lambda: make_noise_schedule("cosine", start=0.1), ConfigError, "unknown option 'start', wanted offset or max_"),
    (lambda: make_noise_schedule("linear", ende=0.1), ConfigError, "unknown option 'ende'.*Did you mean 'end'"),
    (lambda: linear_betas(0), ConfigError, "linear_betas: steps must be an integer >= 1, got 0"),
    (lambda: linear_betas(10, 0.5, 0.1), ConfigError, "got start 0.5 and end 0.1"),
    (lambda: cosine_betas(10.0), ConfigError, "cosine_betas: steps must be an integer >= 1, got 10.0"),  # type: ignore[arg-type]
    (lambda: cosine_betas(10, offset=-1), ConfigError, "offset must be a number >= 0, got -1"),
    (lambda: cosine_betas(10, max_beta=1), ConfigError, r"max_beta must be in \(0, 1\), got 1"),
    (lambda: NoiseSchedule([0.1, 1.0]), ConfigError, r"betas must be in \(0, 1\), got 1.0 at time 1"),
    (lambda: NoiseSchedule([0.1, math.nan]), ConfigError, "got nan at time 1"),
    (lambda: NoiseSchedule([[0.1]]), ShapeError, r"betas must be \(T,\) with T >= 1, got \(1, 1\)"),
    (lambda: S.add_noise(X, 10, X), RangeError, r"add_noise: t must be in \[0, 10\), got 10"),
    (lambda: S.add_noise(X, np.array([3, -1]), X), RangeError, "got -1 at position 1"),
    (lambda: S.add_noise(X, [1, 2, 3], X), ShapeError, r"t must be one integer or \(2,\) as the batch, got \(3,\)"),
    (lambda: S.add_noise(X, np.array([1.0, 2.0]), X), DtypeError, "t must be integers, got float64"),
    (lambda: S.add_noise(X, 1.5, X), DtypeError, "t must be an integer or an array of integers, got float"),
    (lambda: S.add_noise(X, True, X), DtypeError, "got bool"),
    (lambda: S.add_noise(X, 1, X[:1]), ShapeError, r"x0 and noise must have one shape, got \(2, 3\) and \(1, 3\)"),
    (lambda: S.add_noise([1.0], 1, X), ShapeError, r"x0 must be an array \(batch, ...\), got list"),
]


@pytest.mark.parametrize("call, error, message", WRONG)
def test_what_is_refused(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
