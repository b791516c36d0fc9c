"""Noise, picture and v, each from the others."""

from __future__ import annotations

import numpy as np
import pytest

from tinygrad_edu.errors import ConfigError, ShapeError
from tinygrad_edu.models.diffusion import (
    PREDICTIONS,
    make_noise_schedule,
    prediction_target,
    split_prediction,
    split_prediction_backward,
)
from tinygrad_edu.models.diffusion.predictions import snr_weight

RNG = np.random.default_rng(0)
X0, NOISE = RNG.normal(size=(2, 4, 3, 2, 2))
T = np.array([0, 10, 400, 900])
each = pytest.mark.parametrize("prediction", PREDICTIONS)
schedules = pytest.mark.parametrize("name", ["linear", "cosine"])


@each
@schedules
@pytest.mark.parametrize("t", [T, 0, 400], ids=str)
def test_the_target_split_gives_picture_and_noise_back(prediction: str, name: str, t: object) -> None:
    schedule = make_noise_schedule(name)
    x_t = schedule.add_noise(X0, t, NOISE)
    target = prediction_target(schedule, prediction, X0, t, NOISE)
    x0, noise = split_prediction(schedule, prediction, target, x_t, t)
    np.testing.assert_allclose(x0, X0, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(noise, NOISE, rtol=1e-10, atol=1e-10)


def test_v_is_the_velocity() -> None:
    """Of the angle phi with cos phi = a: x_t = cos phi x0 + sin phi noise, so dx/dphi = v."""
    schedule = make_noise_schedule("cosine")
    phi = np.arccos(np.sqrt(schedule.alphas_bar[300]))
    step = 1e-5
    ahead, back = (np.cos(p) * X0 + np.sin(p) * NOISE for p in (phi + step, phi - step))
    v = prediction_target(schedule, "v", X0, 300, NOISE)
    np.testing.assert_allclose(v, (ahead - back) / (2 * step), rtol=1e-8, atol=1e-8)


@each
@schedules
def test_going_back_through_the_split_is_its_adjoint(prediction: str, name: str) -> None:
    schedule = make_noise_schedule(name)
    output, x_t, dx0, dnoise = np.random.default_rng(1).normal(size=(4, *X0.shape))
    x0, noise = split_prediction(schedule, prediction, output, x_t, T)
    doutput, dx_t = split_prediction_backward(schedule, prediction, dx0, dnoise, T)
    forward, backward = (x0 * dx0 + noise * dnoise).sum(), (output * doutput + x_t * dx_t).sum()
    assert forward == pytest.approx(backward, rel=1e-12)


@each
def test_min_snr_weighs_the_error_of_the_picture(prediction: str) -> None:
    """However the network predicts, its squared error times the weight is min(SNR, 5) times that of the picture."""
    schedule = make_noise_schedule("cosine")
    x_t = schedule.add_noise(X0, T, NOISE)
    target = prediction_target(schedule, prediction, X0, T, NOISE)
    output = target + 0.1 * RNG.normal(size=X0.shape)
    x0, _ = split_prediction(schedule, prediction, output, x_t, T)
    weighed = snr_weight(schedule, prediction, T, 5.0, X0) * (output - target) ** 2
    wanted = np.minimum(schedule.snr[T], 5.0)[:, None, None, None] * (x0 - X0) ** 2
    np.testing.assert_allclose(weighed, wanted, rtol=1e-6)


def test_what_is_refused() -> None:
    schedule = make_noise_schedule("cosine")
    with pytest.raises(ConfigError, match="unknown name 'eps', wanted one of epsilon, v, x0"):
        prediction_target(schedule, "eps", X0, T, NOISE)
    with pytest.raises(ConfigError, match="Did you mean 'epsilon'"):
        split_prediction(schedule, "epsilo", X0, X0, T)
    with pytest.raises(ShapeError, match=r"output and x_t must have one shape"):
        split_prediction(schedule, "v", X0[:, :1], X0, T)
