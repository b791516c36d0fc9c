"""Samplers: against diffusers step by step, and with the best possible network against the distribution itself."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from tinygrad_edu.backend import Generator
from tinygrad_edu.errors import ConfigError, NonFiniteError, ShapeError
from tinygrad_edu.models.diffusion import (
    PREDICTIONS,
    ClassifierFreeGuidance,
    DDIMSampler,
    DDPMSampler,
    SamplingState,
    ddim_step,
    ddpm_step,
    make_noise_schedule,
    prediction_target,
    sampling_times,
)

from .nets import SHAPE, SmallNet

THEIR_PREDICTION = {"epsilon": "epsilon", "v": "v_prediction", "x0": "sample"}
THEIR_SCHEDULE = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
schedules = pytest.mark.parametrize("name", THEIR_SCHEDULE)
predictions = pytest.mark.parametrize("prediction", PREDICTIONS)
clips = pytest.mark.parametrize("clip", [None, 1.0, 0.7])
spacings = pytest.mark.parametrize("spacing, steps", [("leading", 10), ("leading", 7), ("trailing", 10)])


def theirs(kind: str, name: str, prediction: str, clip: float | None, spacing: str, **options: Any) -> Any:
    """A scheduler of diffusers whose table, float32 by itself, is ours."""
    diffusers = pytest.importorskip("diffusers")
    torch = pytest.importorskip("torch")
    scheduler = getattr(diffusers, kind)(
        beta_schedule=THEIR_SCHEDULE[name],
        prediction_type=THEIR_PREDICTION[prediction],
        clip_sample=clip is not None,
        clip_sample_range=clip or 1.0,
        timestep_spacing=spacing,
        **options,
    )
    ours = make_noise_schedule(name)
    np.testing.assert_allclose(scheduler.betas.numpy(), ours.betas, rtol=1e-4)  # float32 cosines
    np.testing.assert_allclose(scheduler.alphas_cumprod.numpy(), ours.alphas_bar, rtol=1e-4)
    scheduler.alphas_cumprod = torch.tensor(ours.alphas_bar)
    return scheduler


def outputs(steps: int) -> tuple[Any, Any, Any]:
    """Noise to begin with, what a network might say at each step, and the noise of each step."""
    rng = np.random.default_rng(3)
    return rng.normal(size=(2, 3, 4, 4)), rng.normal(size=(steps, 2, 3, 4, 4)), rng.normal(size=(steps, 2, 3, 4, 4))


def follow(sampler: Any, scheduler: Any, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
    """Both go the whole way from the same noise, with the same outputs; compare x and x0 after each step."""
    import torch
    from diffusers.schedulers import scheduling_ddim, scheduling_ddpm

    assert sampler.times == tuple(int(t) for t in scheduler.timesteps)
    x, said, drawn = outputs(len(sampler.times))
    y = torch.tensor(x)
    for i, (t, before) in enumerate(zip(sampler.times, (*sampler.times[1:], -1), strict=True)):
        for module in (scheduling_ddim, scheduling_ddpm):
            monkeypatch.setattr(module, "randn_tensor", lambda *a, i=i, **k: torch.tensor(drawn[i]))
        x0, noise = sampler.split(said[i], x, t)
        x = sampler.step(x0, noise, x, t, before, drawn[i])
        result = scheduler.step(torch.tensor(said[i]), t, y, **options)
        y = result.prev_sample
        np.testing.assert_allclose(x0, result.pred_original_sample.numpy(), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(x, y.numpy(), rtol=1e-9, atol=1e-9)


@schedules
@predictions
@clips
@spacings
def test_ddpm_equals_diffusers(
    name: str, prediction: str, clip: float | None, spacing: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = theirs("DDPMScheduler", name, prediction, clip, spacing)
    scheduler.set_timesteps(steps)
    sampler = DDPMSampler(make_noise_schedule(name), prediction, steps, spacing=spacing, clip=clip)
    follow(sampler, scheduler, monkeypatch)


@schedules
@pytest.mark.parametrize("spacing, steps", [("leading", 20), ("linspace", 9)])
def test_ddpm_of_large_variance_equals_diffusers(
    name: str, spacing: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = theirs("DDPMScheduler", name, "epsilon", 1.0, spacing, variance_type="fixed_large")
    scheduler.set_timesteps(steps)
    follow(
        DDPMSampler(make_noise_schedule(name), steps=steps, spacing=spacing, variance="large"), scheduler, monkeypatch
    )


@schedules
@predictions
@clips
@spacings
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_equals_diffusers(
    name: str,
    prediction: str,
    clip: float | None,
    spacing: str,
    steps: int,
    eta: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scheduler = theirs("DDIMScheduler", name, prediction, clip, spacing)
    scheduler.set_timesteps(steps)
    sampler = DDIMSampler(make_noise_schedule(name), prediction, steps, spacing=spacing, clip=clip, eta=eta)
    follow(sampler, scheduler, monkeypatch, eta=eta, use_clipped_model_output=True)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 50, 333, 1000])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_times_are_those_of_diffusers(steps: int, spacing: str) -> None:
    scheduler = theirs("DDIMScheduler", "cosine", "epsilon", None, spacing)
    scheduler.set_timesteps(steps)
    times = sampling_times(1000, steps, spacing)
    assert times == tuple(int(t) for t in scheduler.timesteps)
    assert len(times) == steps and all(a > b for a, b in itertools.pairwise(times)) and times[-1] >= 0


@schedules
@pytest.mark.parametrize("t, before", [(999, 998), (500, 499), (500, 250), (1, 0), (0, -1)])
def test_ddim_with_eta_one_is_ddpm(name: str, t: int, before: int) -> None:
    schedule = make_noise_schedule(name)
    x0, noise, fresh = np.random.default_rng(0).normal(size=(3, 2, 3, 4, 4))
    x_t = schedule.add_noise(x0, t, noise)
    found = ddim_step(schedule, x0, noise, t, before, 1.0, fresh)
    np.testing.assert_allclose(found, ddpm_step(schedule, x0, x_t, t, before, fresh), rtol=1e-9, atol=1e-11)
    of_noise = ddim_step(schedule, 0 * x0, 0 * noise, t, before, 1.0, np.ones_like(fresh))
    np.testing.assert_allclose(of_noise**2, schedule.posterior_variance(t, before), rtol=1e-10, atol=1e-30)


# -- the best possible network ---------------------------------------------------------------------------

MEAN, STD = 0.3, 0.5


def best_for_a_normal(schedule: Any, prediction: str) -> Any:
    """E[x0 | x_t] where pictures are normal numbers, as the prediction asked for."""

    def net(x_t: Any, t: Any) -> Any:
        a, s = schedule.amplitudes(int(t[0]), x_t)
        x0 = MEAN + a * STD**2 / (a**2 * STD**2 + s**2) * (x_t - a * MEAN)
        return prediction_target(schedule, prediction, x0, int(t[0]), (x_t - a * x0) / s)

    return net


@schedules
@predictions
def test_ancestral_sampling_finds_a_normal_distribution(name: str, prediction: str) -> None:
    schedule = make_noise_schedule(name)
    sampler = DDPMSampler(schedule, prediction, 250, clip=None, spacing="linspace")
    x = sampler.sample(best_for_a_normal(schedule, prediction), (4000, 5), seed=0)
    assert x.mean() == pytest.approx(MEAN, abs=5 * STD / np.sqrt(x.size))
    assert x.std() == pytest.approx(STD, rel=0.03)  # of 250 steps, each a little too narrow
    standard = (x - MEAN) / STD
    assert (standard**4).mean() == pytest.approx(3, rel=0.1)


@schedules
@predictions
def test_ddim_transports_each_number_to_its_place(name: str, prediction: str) -> None:
    """From one normal distribution to another the flow is known: it keeps how many deviations a number is out."""
    schedule = make_noise_schedule(name)
    start = np.linspace(-2, 2, 9)[:, None]
    a, s = schedule.amplitudes(999, start)
    flow = MEAN + STD * (start - a * MEAN) / np.sqrt(a**2 * STD**2 + s**2)
    errors = [
        np.abs(DDIMSampler(schedule, prediction, n, clip=None).sample(best_for_a_normal(schedule, prediction),
                                                                     start=start) - flow).max()
        for n in (10, 100, 1000)
    ]  # fmt: skip
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.01 and errors[1] < 0.05


@schedules
@pytest.mark.parametrize("kind", ["ddpm", "ddim", "ddim with noise"])
def test_two_points_are_found_in_their_proportion(name: str, kind: str) -> None:
    """A world of two pictures, -1 and 1, the second with probability 0.7: E[x0 | x_t] = tanh(a x_t / s^2 + c)."""
    schedule = make_noise_schedule(name)
    lean = 0.5 * np.log(0.7 / 0.3)

    def net(x_t: Any, t: Any) -> Any:
        a, s = schedule.amplitudes(int(t[0]), x_t)
        return np.tanh(a * x_t / s**2 + lean)

    sampler: Any = DDPMSampler(schedule, "x0", 200, spacing="trailing")
    if kind != "ddpm":
        sampler = DDIMSampler(schedule, "x0", 200, eta=0.8 if "noise" in kind else 0.0)
    x = sampler.sample(net, (10_000, 1), seed=1)
    np.testing.assert_allclose(np.abs(x), 1, atol=1e-3)
    assert (x > 0).mean() == pytest.approx(0.7, abs=0.025)  # 5 standard errors


# -- how they are used -------------------------------------------------------------------------------------

SCHEDULE = make_noise_schedule("cosine", 50)


def test_seeds_callbacks_and_strips() -> None:
    net = SmallNet(steps=50)
    sampler = DDPMSampler(SCHEDULE, steps=10)
    states: list[SamplingState] = []
    first = sampler.sample(net, (4, *SHAPE), seed=5, callback=states.append)
    assert first.dtype == np.float32 and np.abs(first).max() <= 1
    np.testing.assert_array_equal(first, sampler.sample(net, (4, *SHAPE), seed=5))
    np.testing.assert_array_equal(first, sampler.sample(net, (4, *SHAPE), seed=Generator(5)))
    assert not np.array_equal(first, sampler.sample(net, (4, *SHAPE), seed=6))
    assert [state.step for state in states] == list(range(11)) and {state.steps for state in states} == {10}
    assert [state.time for state in states] == [*sampler.times, -1]
    assert states[0].x0 is None and states[-1].x is not None
    np.testing.assert_array_equal(states[-1].x, first)

    strip = sampler.strip(net, (4, *SHAPE), seed=5, frames=6)
    np.testing.assert_array_equal(strip, [states[i].x for i in (0, 2, 4, 6, 8, 10)])
    seen = sampler.strip(net, (4, *SHAPE), seed=5, frames=3, show="x0")
    np.testing.assert_array_equal(seen[1:], [states[i].x0 for i in (5, 10)])


def test_sampling_leaves_the_network_as_it_was() -> None:
    net = SmallNet().train()
    net.body.eval()
    DDIMSampler(SCHEDULE, steps=3).sample(net, (2, *SHAPE), seed=0)
    assert net.training and not net.body.training
    assert not any(layer._saved for layer in net.layers())


def test_without_noise_ddim_draws_nothing_but_the_start() -> None:
    start = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype("float32")
    sampler, net = DDIMSampler(SCHEDULE, steps=5), SmallNet(steps=50)
    np.testing.assert_array_equal(sampler.sample(net, start=start, seed=0), sampler.sample(net, start=start, seed=1))
    before = start.copy()
    sampler.sample(net, start=start)
    np.testing.assert_array_equal(start, before)


def test_guidance_is_one_call_of_both() -> None:
    calls = []

    def net(x: Any, t: Any, condition: Any) -> Any:
        calls.append(len(x))
        return x * 0 + condition[:, :1, None, None]

    x, t = np.zeros((3, *SHAPE)), np.array([1, 2, 3])
    condition = np.array([[2.0], [4.0], [6.0]])
    for scale, wanted in ((0, [1, 1, 1]), (1, [2, 4, 6]), (3, [4, 10, 16])):
        y = ClassifierFreeGuidance(net, scale, null_condition=1.0)(x, t, condition)
        np.testing.assert_allclose(y[:, 0, 0, 0], wanted)
    assert calls == [3, 3, 6]
    calls.clear()
    told = ClassifierFreeGuidance(
        lambda x, t, c, drop=None: net(x, t, c if drop is None else np.where(drop[:, None], -1, c)), 2
    )
    np.testing.assert_allclose(told(x, t, condition)[:, 0, 0, 0], [5, 9, 13])
    classes = np.array([4, 2, 7])
    y = ClassifierFreeGuidance(lambda x, t, c: x + c[:, None, None, None], 2, 10)(x, t, classes)
    np.testing.assert_allclose(y[:, 0, 0, 0], [-2, -6, 4])
    np.testing.assert_array_equal(classes, [4, 2, 7])


NET = SmallNet(steps=50)
WRONG: list[tuple[Any, type[Exception], str]] = [
    (lambda: DDIMSampler(SCHEDULE, steps=51), ConfigError, r"steps must be an integer in \[1, 50\] .*got 51"),
    (lambda: DDIMSampler(SCHEDULE, steps=0), ConfigError, "got 0"),
    (lambda: DDIMSampler(SCHEDULE, steps=5, eta=1.5), ConfigError, r"eta must be a number in \[0, 1\], got 1.5"),
    (lambda: DDIMSampler(SCHEDULE, steps=5, clip=0), ConfigError, "clip must be a number > 0 or None, got 0"),
    (lambda: DDIMSampler(SCHEDULE, "noise", 5), ConfigError, "prediction: unknown name 'noise'"),
    (lambda: DDPMSampler(SCHEDULE, spacing="trail"), ConfigError, "unknown spacing 'trail'.*Did you mean 'trailing'"),
    (lambda: DDPMSampler(SCHEDULE, variance="medium"), ConfigError, "must be 'small' or 'large', got 'medium'"),
    (lambda: DDPMSampler(SCHEDULE).sample(NET), ConfigError, "give either shape"),
    (lambda: DDPMSampler(SCHEDULE).sample(NET, (2, *SHAPE), start=np.zeros((2, *SHAPE))), ConfigError, "either shape"),
    (lambda: DDPMSampler(SCHEDULE).sample(NET, (0, *SHAPE)), ConfigError, r"integers >= 1, got \(0, 3, 2, 2\)"),
    (lambda: DDPMSampler(SCHEDULE).sample(NET, 5), ConfigError, "shape must be .*, integers >= 1, got 5"),
    (lambda: DDPMSampler(SCHEDULE).sample(ClassifierFreeGuidance(NET, 2), (2, *SHAPE)), ConfigError, "no condition to"),
    (lambda: DDPMSampler(SCHEDULE).sample(NET, (2, *SHAPE), np.zeros((3, 1))), ShapeError, "3 conditions for 2 pict"),
    (lambda: DDPMSampler(SCHEDULE).sample(lambda x, t: x[:, :1], (2, *SHAPE)), ShapeError, r"got \(2, 1, 2, 2\)"),
    (lambda: DDPMSampler(SCHEDULE).sample(lambda x, t: x * np.nan, (2, *SHAPE)), NonFiniteError, "NaN or infinity"),
    (lambda: DDPMSampler(SCHEDULE).strip(NET, (2, *SHAPE), frames=1), ConfigError, r"frames .* \[2, 51\], got 1"),
    (lambda: DDPMSampler(SCHEDULE).strip(NET, (2, *SHAPE), show="noise"), ConfigError, "must be 'x' or 'x0'"),
    (lambda: ClassifierFreeGuidance(NET, -1), ConfigError, "scale must be a finite number >= 0, got -1"),
    (lambda: ClassifierFreeGuidance(NET, 2)(np.zeros((1, *SHAPE)), np.zeros(1, int), None), ConfigError, "no cond"),
    (
        lambda: ClassifierFreeGuidance(NET, 2, np.zeros(4))(np.zeros((1, *SHAPE)), np.zeros(1, int), np.zeros((1, 3))),
        ShapeError,
        r"null_condition: \(4,\) does not broadcast to the condition, \(2, 3\)",
    ),
]


@pytest.mark.parametrize("call, error, message", WRONG)
def test_what_is_refused(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
