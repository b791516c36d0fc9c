"""The parts that paint: what a meaning becomes, gradients through frozen networks, the ascent, what is measured."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu.backend import Generator, to_host
from tinygrad_edu.errors import ConfigError
from tinygrad_edu.layers import Conv2d, Layer, Linear, Sequential, Tanh
from tinygrad_edu.models.diffusion import DDIMChain, RewardedDiffusion
from tinygrad_edu.training import load_config

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module", autouse=True)
def on_the_path() -> Iterator[None]:
    """The programs find their common modules because Python puts their folder first; so do these tests."""
    sys.path.insert(0, str(PROJECT))
    yield
    sys.path.remove(str(PROJECT))


RNG = np.random.default_rng(0)
TINY = {"base": 8, "channel_multipliers": (1, 1), "attention_levels": (1,), "context_dim": 8, "steps": 50}


def meanings(count: int) -> Any:
    from design_project.decoder import meaning_of

    classes = {name: RNG.integers(0, 4, count) for name in ("goal", "format")}
    return meaning_of({**classes, "tone": RNG.uniform(-1, 1, (count, 3))})


def decoder(**settings: Any) -> Any:
    """A small decoder whose last layers do not begin as zeros, so that all of it matters."""
    from design_project.decoder import build_decoder
    from design_project.decoder_settings import DecoderConfig, DecoderModel

    process = build_decoder(DecoderConfig(model=DecoderModel(**{**TINY, **settings}), sampling={"steps": 5}))
    generator = Generator(5)
    for parameter in process.parameters():
        if not parameter.data.any():
            parameter.data[...] = generator.normal(*parameter.shape, std=0.1)
    return process


class TinyAbstractor(Layer):
    """Stands in for the ResNet-18: the same answers, of one linear map."""

    def __init__(self) -> None:
        super().__init__()
        self.map, self.squash = Linear(11, 15, generator=Generator(1)), Sequential(Tanh())

    def forward(self, maps: Any) -> Any:
        self.save(maps.shape)
        y = self.squash(self.map(maps.mean(axis=(2, 3))))
        return {"grammar": y[:, :4], "goal": y[:, 4:8], "format": y[:, 8:12], "tone": y[:, 12:]}

    def backward(self, danswers: Any) -> Any:
        shape = self.saved()
        dy = np.concatenate([danswers[name] for name in ("grammar", "goal", "format", "tone")], axis=1)
        dmaps = self.map.backward(self.squash.backward(dy)) / (shape[2] * shape[3])
        return np.broadcast_to(dmaps[:, :, None, None], shape).copy()

    def features(self, maps: Any) -> Any:
        return maps.mean(axis=(2, 3))


def reader() -> Any:
    from design_project.networks import Reader

    return Reader(Conv2d(3, 11, 3, padding=1, generator=Generator(2)), TinyAbstractor())  # type: ignore[arg-type]


# -- the decoder -----------------------------------------------------------------------------------------------


def test_a_meaning_is_one_hot_and_tone() -> None:
    from design_project.decoder import decoder_batch, meaning_of

    found = meaning_of({"goal": [1, 3], "format": [0, 2], "tone": [[0.5, -1, 0], [0, 0, 1]]})
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[0, 1, 0, 0, 1, 0, 0, 0, 0.5, -1, 0], [0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 1]])
    example = {"image": np.full((3, 2, 2), 0.25, "float32"), "goal": 1, "format": 0, "tone": np.zeros(3, "float32")}
    x, meaning = decoder_batch([example, example])
    assert x.shape == (2, 3, 2, 2) and (x == -0.5).all() and meaning.shape == (2, 11)


def test_gradients_of_pictures_meanings_and_weights() -> None:
    """One random direction through all of them at once, by central differences of fourth order."""
    net, t, drop = decoder().net.astype("float64"), np.array([3, 40, 20]), np.array([False, True, False])
    x, meaning = RNG.normal(size=(3, 3, 4, 4)), meanings(3).astype("float64")
    dy = RNG.normal(size=x.shape)
    weights = list(net.parameters())
    points = [x, meaning, *(parameter.data for parameter in weights)]
    directions = [RNG.normal(size=point.shape) for point in points]

    def value(step: float) -> float:
        moved = [point + step * direction for point, direction in zip(points, directions, strict=True)]
        for parameter, data in zip(weights, moved[2:], strict=True):
            parameter.data = data
        with tg.inference():
            return float((net(*moved[:1], t, moved[1], drop=drop) * dy).sum())

    h = 1e-5
    numeric = (8 * (value(h) - value(-h)) - (value(2 * h) - value(-2 * h))) / (12 * h)
    value(0.0)
    net.zero_grad()
    net(x, t, meaning, drop=drop)
    gradients = [*net.backward(dy), *(parameter.grad for parameter in weights)]
    found = sum(float((g * direction).sum()) for g, direction in zip(gradients, directions, strict=True))
    assert found == pytest.approx(numeric, rel=1e-7)
    assert not gradients[1][1].any() and gradients[1][0].any()  # the second meaning was hidden


def test_another_meaning_is_another_picture_and_a_hidden_one_is_none() -> None:
    net, x, t = decoder().net, RNG.normal(size=(1, 3, 8, 8)).astype("float32"), np.array([10])
    with net.evaluating():
        one, other = (net(x, t, meaning) for meaning in meanings(2)[:, None])
        hidden = [net(x, t, meaning, drop=np.array([True])) for meaning in meanings(2)[:, None]]
    assert np.abs(one - other).max() > 1e-4
    np.testing.assert_array_equal(*hidden)


def test_painting_is_the_same_whatever_the_batch() -> None:
    from design_project.painting import Painter

    process, meaning = decoder(), meanings(5)
    whole, parts = (Painter(process, 5, 2.0, batch).paint(meaning, size=8, seed=3) for batch in (5, 2))
    assert whole.shape == (5, 3, 8, 8) and np.abs(whole).max() <= 1
    np.testing.assert_allclose(whole, parts, atol=1e-4)


# -- frozen judges ---------------------------------------------------------------------------------------------


def test_the_score_has_a_gradient_and_leaves_the_readers_alone() -> None:
    from design_project.finetuning import GrammarScore

    judge = GrammarScore(reader()).astype("float64")
    x, dscores = RNG.normal(size=(3, 3, 5, 5)), RNG.normal(size=3)
    direction, step = RNG.normal(size=x.shape), 1e-5
    judge(x)
    dx = judge.backward(dscores)
    ahead, back = (dscores @ judge(x + sign * step * direction) for sign in (1, -1))
    judge.clear_saved()
    assert (dx * direction).sum() == pytest.approx((ahead - back) / (2 * step), rel=1e-6)
    assert not any(parameter.grad.any() for parameter in judge.parameters())
    assert not judge.train().reader.training  # type: ignore[attr-defined]


def test_fine_tuning_changes_the_decoder_alone() -> None:
    from design_project.finetuning import GrammarScore

    base, judge = decoder(), GrammarScore(reader()).eval()
    tuned = RewardedDiffusion(
        base.net, judge, base.schedule, prediction="v", condition_dropout=0.1, reward_weight=5.0
    ).flatten()
    frozen = {name: value.copy() for name, value in judge.state_dict().items()}
    before = {name: value.copy() for name, value in tuned.state_dict().items()}
    x0, meaning = RNG.normal(size=(8, 3, 8, 8)).astype("float32").clip(-1, 1), meanings(8)
    tg.training.train_model(tuned, [(x0, meaning)] * 3, epochs=1, learning_rate=1e-3, progress=False)
    assert set(before) == set(base.state_dict())
    assert all((tuned.state_dict()[name] != value).any() for name, value in before.items())
    for name, value in judge.state_dict().items():
        np.testing.assert_array_equal(value, frozen[name])


# -- ascent ----------------------------------------------------------------------------------------------------


class Likes(Layer):
    """One minus the squared distance from a wish."""

    def __init__(self, wish: Any):
        super().__init__()
        self.wish = wish

    def forward(self, x: Any) -> Any:
        self.save(x)
        return 1 - ((x - self.wish) ** 2).mean(axis=(1, 2, 3))

    def backward(self, dscores: Any) -> Any:
        x = self.saved()
        return dscores[:, None, None, None] * 2 * (self.wish - x) / self.wish.size


def test_each_latent_climbs_and_keeps_its_length() -> None:
    from design_project.innovating import ascend

    process, meaning = decoder(), meanings(4)
    chain = DDIMChain(process.guided(1.5), process.sampler("ddim", steps=4)).eval()
    latent = RNG.normal(size=(4, 3, 8, 8)).astype("float32")
    judge = Likes(RNG.uniform(-1, 1, (3, 8, 8)).astype("float32"))
    weights = {name: value.copy() for name, value in process.state_dict().items()}
    best, scores, path = ascend(chain, judge, latent, meaning, steps=8, rate=0.1)
    assert path.shape == (9, 4) and (scores > path[0]).all()
    np.testing.assert_allclose(scores, path.max(axis=0), rtol=1e-6)
    lengths = [np.sqrt((x**2).sum(axis=(1, 2, 3))) for x in (latent, best)]
    np.testing.assert_allclose(*lengths, rtol=1e-4)
    with tg.inference():
        np.testing.assert_allclose(judge(chain(best, meaning)), scores, rtol=1e-4)
    for name, value in process.state_dict().items():
        np.testing.assert_array_equal(value, weights[name])
    assert not any(parameter.grad.any() for parameter in process.parameters())
    assert not any(layer._saved for layer in chain.layers())


def test_ascent_never_ends_below_where_it_began() -> None:
    """Steps far too long: what was best on the way is what is kept."""
    from design_project.innovating import ascend

    class Same(Layer):
        def forward(self, x: Any, condition: Any) -> Any:
            return x

        def backward(self, dy: Any) -> Any:
            return dy

    latent = RNG.normal(size=(3, 1, 2, 2))
    _, scores, path = ascend(Same(), Likes(latent[0] * 1.01), latent, None, steps=3, rate=0.9)
    assert (scores >= path[0]).all() and scores[0] == path[0, 0]


# -- what is measured ------------------------------------------------------------------------------------------


def test_likeness_and_distances() -> None:
    from design_project.painting import distance_figures, likeness

    features = np.zeros((2, 2, 1))
    features[:, :, 0] = [[0, 1], [10, 13]]
    found = likeness(features)
    assert found["distance_same_meaning"] == pytest.approx((1 + 3) / 2)
    assert found["distance_other_meaning"] == pytest.approx((10 + 13 + 9 + 12) / 4)
    x = RNG.normal(size=(600, 3))
    figures = distance_figures(x, x + np.array([3.0, 4.0, 0.0]), "fid")
    assert figures["fid"] == pytest.approx(25.0, abs=1e-6)


def test_what_is_read_off_pictures() -> None:
    from design_project.painting import fidelity_figures, grammar_figures, read

    r = reader()
    x = RNG.normal(size=(130, 3, 8, 8)).astype("float32")
    found = read(r, x)
    assert {name: values.shape for name, values in found.items()} == {
        "grammar": (130, 4), "goal": (130,), "format": (130,), "tone": (130, 3), "features": (130, 11)
    }  # fmt: skip
    with r.evaluating():
        np.testing.assert_allclose(found["grammar"][120:], to_host(r(x[120:])["grammar"]), atol=1e-5)
    assert grammar_figures(found["grammar"])["grammar"] == pytest.approx(found["grammar"].mean(), rel=1e-5)
    perfect = fidelity_figures(found, {"goal": found["goal"], "format": found["format"], "tone": found["tone"]})
    assert perfect["goal_fidelity"] == 1 and perfect["warm_correlation"] == pytest.approx(1)


# -- settings and command lines ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "file, schema",
    [("decoder.yaml", "DecoderConfig"), ("finetune.yaml", "FinetuneConfig"), ("innovate.yaml", "InnovateConfig")],
)
def test_the_settings_files_are_valid(file: str, schema: str) -> None:
    from design_project import decoder_settings

    config = load_config(PROJECT / file, schema=getattr(decoder_settings, schema))
    assert config.data.size == 32 and config.training.output_dir == "runs/design_decomposition"


@pytest.mark.parametrize(
    "override, message",
    [
        ("sampling.steps=2000", r"sampling.steps.*2000, wanted at most model.steps 1000"),
        ("model.bass=4", "model.bass.*did you mean.*base"),
        ("model.prediction=noise", "model.prediction"),
        ("model.channel_multipliers=[]", "model.channel_multipliers"),
        ("sampling.guidance=-1", "sampling.guidance"),
    ],
)
def test_settings_that_are_refused(override: str, message: str) -> None:
    from design_project.decoder_settings import DecoderConfig

    with pytest.raises(ConfigError, match=f"(?i)(?s){message}"):
        load_config(PROJECT / "decoder.yaml", [override], DecoderConfig)
