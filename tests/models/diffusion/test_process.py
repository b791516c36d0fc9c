"""The objective of DDPM: its gradient, its draws, training, resuming, and both devices."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tests.training.test_trainer import StopAt, same_bits
from tinygrad_edu.backend import to_host
from tinygrad_edu.errors import ConfigError, DataError, DtypeError, RangeError, ShapeError
from tinygrad_edu.layers import Layer, Linear
from tinygrad_edu.models.diffusion import (
    PREDICTIONS,
    ClassifierFreeGuidance,
    DDIMChain,
    DDIMSampler,
    DiffusionProcess,
    RewardedDiffusion,
    make_noise_schedule,
)
from tinygrad_edu.storage import load_checkpoint
from tinygrad_edu.training import Trainer, TrainingSection, evaluate_loss, train_model

from ... import strict_cupy
from .nets import SHAPE, SmallNet

RNG = np.random.default_rng(0)
X0 = RNG.normal(size=(5, *SHAPE))
NOISE = RNG.normal(size=X0.shape)
T = np.array([0, 3, 20, 40, 49])
CONDITION = RNG.normal(size=(5, 2))
each = pytest.mark.parametrize("prediction", PREDICTIONS)


def process(prediction: str = "epsilon", width: int = 0, **options: Any) -> DiffusionProcess:
    return DiffusionProcess(SmallNet(width=width, steps=50), "cosine", 50, prediction=prediction, **options)


# -- the loss and its gradient ---------------------------------------------------------------------------


@each
@pytest.mark.parametrize("min_snr", [None, 2.0])
@pytest.mark.parametrize("divisor", [None, 9])
def test_gradients_of_network_and_pictures(prediction: str, min_snr: float | None, divisor: int | None) -> None:
    report = tg.check.layer(
        process(prediction, min_snr=min_snr), X0, t=T, noise=NOISE, divisor=divisor, wrt=["x0"], contract=False
    )
    report.raise_if_wrong()
    assert report.tensors


def test_gradient_of_the_condition() -> None:
    report = tg.check.layer(
        process("v", width=2), X0, CONDITION, t=T, noise=NOISE, wrt=["x0", "condition"], contract=False
    )
    report.raise_if_wrong()
    assert {"x0", "condition"} <= {tensor.name for tensor in report.tensors}


@each
def test_the_loss_is_the_mean_squared_error(prediction: str) -> None:
    from tinygrad_edu.models.diffusion import prediction_target

    p = process(prediction).astype("float64")
    x_t = p.schedule.add_noise(X0, T, NOISE)
    error = p.net(x_t, T) - prediction_target(p.schedule, prediction, X0, T, NOISE)
    assert p(X0, t=T, noise=NOISE) == pytest.approx((error**2).mean(), rel=1e-12)
    assert p(X0, t=T, noise=NOISE, divisor=10) == pytest.approx((error**2).mean() / 2, rel=1e-12)


def test_a_perfect_network_has_no_loss() -> None:
    class Knows(Layer):
        def forward(self, x_t: Any, t: Any) -> Any:
            a, s = p.schedule.amplitudes(t, x_t)
            return (x_t - a * X0) / s

    p = DiffusionProcess(Knows(), "cosine", 50)
    assert p(X0) < 1e-20


# -- what is drawn ---------------------------------------------------------------------------------------


class Watch(Layer):
    """Notes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def forward(self, *arguments: Any, drop: Any = None) -> Any:
        self.seen.append((*arguments, drop))
        return arguments[0] * 0


def test_times_and_noise_are_drawn_as_they_should() -> None:
    watch = Watch()
    p = DiffusionProcess(watch, "cosine", 10)
    for _ in range(50):
        p(np.zeros((100, 1, 2, 2)))
    p.clear_saved()
    t = np.concatenate([seen[1] for seen in watch.seen])
    x = np.concatenate([seen[0] for seen in watch.seen])
    counts = np.bincount(t, minlength=10)
    assert len(counts) == 10 and np.abs(counts - 500).max() < 5 * np.sqrt(450)
    for time in range(10):  # of black pictures only the noise is left
        assert x[t == time].std() == pytest.approx(np.sqrt(1 - p.schedule.alphas_bar[time]), rel=0.1)


@pytest.mark.parametrize("kind", ["classes", "vectors", "another vector", "told"])
def test_conditions_are_dropped_at_their_rate(kind: str) -> None:
    watch = Watch()
    null: Any = {"classes": 7, "vectors": 0.0, "told": None}.get(kind, np.array([5.0, 6.0]))
    p = DiffusionProcess(watch, "cosine", 10, condition_dropout=0.2, null_condition=null)
    condition = RNG.integers(0, 7, 4000) if kind == "classes" else RNG.normal(size=(4000, 2))
    before = condition.copy()
    p(np.zeros((4000, 1, 1, 1)), condition)
    given = watch.seen[0][2]
    assert given.dtype == condition.dtype
    dropped = (given != condition).reshape(4000, -1).any(axis=1)
    if kind == "told":
        assert not dropped.any()
        dropped = watch.seen[0][3]
        assert dropped.dtype == bool
    assert dropped.mean() == pytest.approx(0.2, abs=5 * np.sqrt(0.16 / 4000))
    if kind != "told":
        np.testing.assert_array_equal(given[dropped], np.broadcast_to(null, given[dropped].shape))
    np.testing.assert_array_equal(condition, before)
    with p.evaluating():
        p(np.zeros((4000, 1, 1, 1)), condition)
    np.testing.assert_array_equal(watch.seen[1][2], condition)


def test_a_dropped_condition_has_no_gradient() -> None:
    p = process(width=2, condition_dropout=0.5, seed=1).astype("float64")
    p(X0, CONDITION, t=T, noise=NOISE)
    _, dcondition = p.backward()
    dropped = ~np.abs(dcondition).any(axis=1)
    assert 0 < dropped.sum() < 5


# -- training and evaluation -----------------------------------------------------------------------------


def test_batches_together_are_one_large_batch() -> None:
    one, parts = process().astype("float64"), process().astype("float64")
    one(X0, t=T, noise=NOISE)
    one.backward()
    for rows in (slice(0, 2), slice(2, 5)):
        parts(X0[rows], t=T[rows], noise=NOISE[rows], divisor=5)
        parts.backward()
    for a, b in zip(one.parameters(), parts.parameters(), strict=True):
        np.testing.assert_allclose(a.grad, b.grad, rtol=1e-10, atol=1e-14)
    assert one.count_targets(X0) == 5


def test_evaluations_repeat_and_draw_nothing() -> None:
    p = process(width=2, condition_dropout=0.5).train()
    batches = [
        (X0.astype("float32"), CONDITION.astype("float32")),
        (X0[:2].astype("float32"), CONDITION[:2].astype("float32")),
    ]
    state = p.generator.get_state()
    first = p.evaluate(batches)
    assert first == p.evaluate(batches) and first["loss"] > 0
    assert evaluate_loss(p, batches) == evaluate_loss(p, batches)
    assert p.generator.get_state() == state and p.training and not p._saved
    assert not any(parameter.grad.any() for parameter in p.parameters())
    with pytest.raises(DataError, match="the batches have no pictures"):
        p.evaluate([])


def trainer(folder: Path, *callbacks: Any) -> Trainer:
    p = process("v", width=2, condition_dropout=0.3)
    x0, condition = X0.astype("float32"), CONDITION.astype("float32")
    batches = [(x0, condition), (x0[:3], condition[:3]), (x0[1:], condition[1:])]
    settings = TrainingSection(
        max_steps=8, ema_decay=0.9, eval_every=4, save_every=None, gradient_accumulation_steps=2, learning_rate=1e-2
    )
    return Trainer(
        p, batches, settings, evaluate=lambda stop: p.evaluate(batches), callbacks=callbacks, checkpoints=folder
    )


def test_resuming_is_exact(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole")
    whole.fit()
    trainer(tmp_path / "parts", StopAt(3)).fit()
    resumed = trainer(tmp_path / "parts")
    resumed.resume(load_checkpoint(tmp_path / "parts"))
    resumed.fit()
    one, other = (load_checkpoint(tmp_path / name) for name in ("whole", "parts"))
    same_bits(one, other)
    for name, average in one.arrays["ema"].items():
        assert average.tobytes() == other.arrays["ema"][name].tobytes(), name


def test_it_learns_what_it_is_asked_for() -> None:
    """Two clouds in the plane, one for each condition: asked for one, unasked, and asked with emphasis."""
    rng = np.random.default_rng(0)
    which = rng.integers(0, 2, 2048)
    asked = np.eye(2, dtype="float32")[which]
    points = (0.6 * (2 * which[:, None] - 1) + 0.15 * rng.normal(size=(2048, 2))).astype("float32")
    net = SmallNet((2,), width=2, hidden=48, steps=100)
    p = DiffusionProcess(net, "cosine", 100, prediction="v", condition_dropout=0.2)
    batches = [(points[at : at + 128], asked[at : at + 128]) for at in range(0, 2048, 128)]
    before = p.evaluate(batches)["loss"]
    train_model(p, batches, epochs=40, learning_rate=5e-3, schedule="cosine", ema_decay=0.99, progress=False)
    assert p.evaluate(batches)["loss"] < 0.3 * before
    sampler = p.sampler("ddpm")
    for i, sign in enumerate((-1, 1)):
        x = sampler.sample(net, (500, 2), np.eye(2, dtype="float32")[[i] * 500], seed=i)
        assert np.abs(x.mean(axis=0) - 0.6 * sign).max() < 0.05 and np.abs(x.std(axis=0) - 0.15).max() < 0.08
    unasked = sampler.sample(net, (500, 2), np.zeros((500, 2), "float32"), seed=3)
    assert 0.35 < (unasked[:, 0] > 0).mean() < 0.65 and 0.3 < np.abs(unasked).mean() < 0.8
    ones = np.eye(2, dtype="float32")[[1] * 500]
    assert sampler.sample(p.guided(4.0), (500, 2), ones, seed=4).mean() > 0.6


# -- a reward ----------------------------------------------------------------------------------------------


class Judge(Layer):
    """Likes pictures near a linear map's wish; has a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = Linear(12, 1, generator=tg.backend.Generator(3))

    def forward(self, x: Any) -> Any:
        self.save(x.shape)
        return self.linear(x.reshape(len(x), -1))[:, 0]

    def backward(self, dy: Any) -> Any:
        return self.linear.backward(dy[:, None]).reshape(self.saved())


class Flatten(Layer):
    def forward(self, x: Any) -> Any:
        return x.reshape(len(x), -1)


def rewarded(prediction: str = "v", **options: Any) -> RewardedDiffusion:
    return RewardedDiffusion(
        SmallNet(steps=50), Judge().astype("float64"), "cosine", 50, prediction=prediction, **options
    )


@each
@pytest.mark.parametrize("clip", [None, 1.5])
@pytest.mark.parametrize("divisor", [None, 9])
def test_the_gradient_goes_through_the_judge(prediction: str, clip: float | None, divisor: int | None) -> None:
    p = rewarded(prediction, reward_weight=2.0, clip=clip)
    t = np.array([0, 3, 10, 20, 30])
    report = tg.check.layer(p, X0, t=t, noise=NOISE, divisor=divisor, wrt=["x0"], contract=False)
    report.raise_if_wrong()
    assert {"x0", *dict(p.named_parameters())} <= {tensor.name for tensor in report.tensors}
    assert not any("judge" in name or "linear" in name for name in p.state_dict())
    assert not any(parameter.grad.any() for parameter in p.judge.parameters())


def test_the_reward_is_taken_off_and_rises() -> None:
    plain, p = process("v").astype("float64"), rewarded(reward_weight=0.7).astype("float64")
    p.load_state_dict(plain.state_dict())
    x_t = p.schedule.add_noise(X0, T, NOISE)
    a, s = p.schedule.amplitudes(T, X0)
    numbers = p.judge((a * x_t - s * p.net(x_t, T)).clip(-1, 1))
    share = p.schedule.alphas_bar[T]
    wanted = plain(X0, t=T, noise=NOISE) - 0.7 * (share * numbers).mean()
    assert p(X0, t=T, noise=NOISE) == pytest.approx(wanted, rel=1e-12)
    assert p.reward == pytest.approx((share * numbers).sum() / share.sum(), rel=1e-12)

    before, p.reward_weight = p.reward, 20.0
    train_model(p, [(X0,)] * 100, learning_rate=1e-2, epochs=1, progress=False)
    p(X0, t=T, noise=NOISE)
    assert p.reward > before + 0.3
    p.forward_backward(X0)  # what its own unfinished forwards had saved is forgotten, and the judge's too
    assert not any(layer._saved for part in (p, p.judge) for layer in part.layers())


# -- the deterministic sampler as a layer ------------------------------------------------------------------


@each
@pytest.mark.parametrize("clip", [None, 1.0])
def test_the_chain_samples_and_goes_back(prediction: str, clip: float | None) -> None:
    schedule = make_noise_schedule("cosine", 50)
    sampler = DDIMSampler(schedule, prediction, 4, clip=clip)
    net = SmallNet(width=2, steps=50)
    for parameter in net.parameters():  # large enough for its output to matter
        parameter.data *= 2
    chain = DDIMChain(net, sampler)
    noise = np.random.default_rng(1).normal(size=(3, *SHAPE))
    condition = CONDITION[:3]
    report = tg.check.layer(chain, noise, condition=condition, wrt=["noise"], contract=False)
    report.raise_if_wrong()
    net.astype("float64")
    x = chain(noise, condition)
    np.testing.assert_array_equal(x, sampler.sample(net, condition=condition, start=noise))
    if clip is not None:
        assert 0 < (np.abs(x) == clip).mean() < 1


def test_the_chain_through_guidance() -> None:
    guided = ClassifierFreeGuidance(SmallNet(width=2, steps=50), 2.5)
    chain = DDIMChain(guided, DDIMSampler(make_noise_schedule("cosine", 50), "v", 3))
    report = tg.check.layer(chain, X0, condition=CONDITION, wrt=["noise"], contract=False)
    report.raise_if_wrong()
    with pytest.raises(ConfigError, match="must be a DDIMSampler with eta 0"):
        DDIMChain(guided, DDIMSampler(make_noise_schedule("cosine", 50), steps=3, eta=0.1))


# -- both devices ------------------------------------------------------------------------------------------


@pytest.fixture
def strict() -> Iterator[Any]:
    with strict_cupy.strict_cuda() as module:
        yield module


def everything(device: str, prediction: str) -> list[Any]:
    """All that there is to do, as arrays of the host."""
    with tg.use(device):
        p = process(prediction, width=2, condition_dropout=0.3, min_snr=5.0, seed=2).astype("float64").to(device)
        batches = [(X0, CONDITION), (X0[:2], CONDITION[:2])]  # of the host, as from a loader
        train_model(p, batches, epochs=2, ema_decay=0.5, progress=False)
        found: list[Any] = [p.evaluate(batches)["loss"], *(to_host(a) for a in p.state_dict().values())]
        for kind, options in (("ddpm", {"variance": "large"}), ("ddim", {"steps": 5, "eta": 0.5}), ("ddim", {})):
            sampler = p.sampler(kind, **options)
            found.append(to_host(sampler.sample(p.guided(2.0), X0.shape, CONDITION, seed=4)))
        found.append(to_host(sampler.strip(p.guided(1), X0.shape, CONDITION, seed=4, frames=3)))
        chain = DDIMChain(p.guided(1.5), p.sampler(steps=3))  # type: ignore[arg-type]
        x = chain(tg.backend.asarray(NOISE), tg.backend.asarray(CONDITION))
        assert tg.backend.device_of(x) == device
        found += [to_host(x), to_host(chain.backward(x))]
        r = rewarded(prediction, reward_weight=0.5).astype("float64").to(device)
        r.judge.to(device)
        found.append(r.forward_backward(X0))
        return [*found, *(to_host(parameter.grad) for parameter in r.parameters())]


@each
def test_on_a_strict_stand_in_for_cupy(prediction: str, strict: Any) -> None:
    for a, b in zip(everything("cpu", prediction), everything("cuda", prediction), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-8, atol=1e-10)


@pytest.mark.gpu
@each
def test_on_cuda(prediction: str) -> None:
    for a, b in zip(everything("cpu", prediction), everything("cuda", prediction), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-7, atol=1e-9)


# -- mistakes ------------------------------------------------------------------------------------------------

P = process()
X32 = X0.astype("float32")
WRONG: list[tuple[Any, type[Exception], str]] = [
    (lambda: DiffusionProcess(print), ConfigError, "net must be a layer, got builtin_function"),  # type: ignore[arg-type]
    (lambda: DiffusionProcess(Linear(1, 1), "cos"), ConfigError, "schedule: unknown name 'cos'.*Did you mean 'cosine'"),
    (lambda: DiffusionProcess(Linear(1, 1), prediction="vv"), ConfigError, "prediction: unknown name 'vv'"),
    (lambda: DiffusionProcess(Linear(1, 1), condition_dropout=1), ConfigError, r"must be a number in \[0, 1\), got 1"),
    (lambda: DiffusionProcess(Linear(1, 1), min_snr="5"), ConfigError, "must be a number > 0 or None, got '5'"),  # type: ignore[arg-type]
    (lambda: DiffusionProcess(Linear(1, 1), min_snr=0), ConfigError, "min_snr must be a number > 0 or None, got 0"),
    (lambda: P(X32[0, 0, 0]), ShapeError, r"expected pictures \(batch, ...\), got \(2,\)"),
    (lambda: P(X32[:0]), ShapeError, r"got \(0, 3, 2, 2\)"),
    (lambda: P([1.0]), ShapeError, "got list"),
    (lambda: P(X32.astype("uint8")), DtypeError, r"of bytes take x / 127.5 - 1"),
    (lambda: P(X0), DtypeError, "the network is of float32, the pictures are of float64"),
    (lambda: P(X32, t=50), RangeError, r"t must be in \[0, 50\), got 50"),
    (lambda: P(X32, t=T[:2]), ShapeError, r"one integer or \(5,\)"),
    (lambda: P(X32, noise=X32[:2]), ShapeError, "x0 and noise must have one shape"),
    (lambda: P(X32, CONDITION[:2]), ShapeError, r"a row for each of 5 pictures, got \(2, 2\)"),
    (lambda: P(X32, "cat"), ShapeError, "got str"),
    (lambda: RewardedDiffusion(SmallNet(), print), ConfigError, "judge must be a layer, got builtin_function"),  # type: ignore[arg-type]
    (lambda: rewarded(reward_weight=-1), ConfigError, "reward_weight must be a number >= 0, got -1"),
    (lambda: rewarded(clip=0), ConfigError, "clip must be a number > 0 or None, got 0"),
    (
        lambda: RewardedDiffusion(SmallNet(steps=50), Flatten(), "cosine", 50)(X32),
        ShapeError,
        r"the judge must give \(5,\) numbers, one a picture, got \(5, 12\)",
    ),
    (lambda: P.sampler("ddin"), ConfigError, "unknown kind 'ddin', wanted 'ddim' or 'ddpm'"),
    (lambda: P.guided(3.0), ConfigError, "scale 3 needs a network that was trained with condition_dropout > 0"),
]


@pytest.mark.parametrize("call, error, message", WRONG)
def test_what_is_refused(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
