"""The state of an optimizer: saved, loaded, kept when the model changes; and refused when it does not fit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu.errors import CheckpointError, ConfigError, TinygradEduError
from tinygrad_edu.optim import SGD, Adam, AdamW

KINDS: list[tuple[Any, dict[str, Any]]] = [
    (SGD, {}),
    (SGD, {"momentum": 0.9}),
    (SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    (Adam, {"betas": (0.7, 0.9)}),
    (AdamW, {"weight_decay": 0.05}),
]
IDS = [f"{kind.__name__}-{'-'.join(settings) or 'plain'}" for kind, settings in KINDS]


def train(pair: Any, optimizer: Any, steps: int, only: list[str] | None = None) -> None:
    for _ in range(steps):
        pair.draw(names=only)
        optimizer.step(only=None if only is None else [pair.named[n] for n in only])


def frozen(state: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint keeps: copies, not views of the living state."""
    return copy.deepcopy(state)


@pytest.mark.parametrize("saved_flat", [True, False], ids=["from-flat", "from-apart"])
@pytest.mark.parametrize("loaded_flat", [True, False], ids=["to-flat", "to-apart"])
@pytest.mark.parametrize("apart", [None, ["0.weight", "1.bias"]], ids=["together", "stepped-apart"])
@pytest.mark.parametrize(("kind", "settings"), KINDS, ids=IDS)
def test_going_on_from_a_state_is_exact(
    make_pair: Callable[..., Any],
    kind: Any,
    settings: dict[str, Any],
    saved_flat: bool,
    loaded_flat: bool,
    apart: list[str] | None,
) -> None:
    pair = make_pair("float32", saved_flat)
    optimizer = kind(pair.model, lr=0.03, **settings)
    train(pair, optimizer, 3)
    if apart:
        train(pair, optimizer, 2, apart)
    state, weights = frozen(optimizer.state_dict()), pair.values()

    other = make_pair("float32", loaded_flat)
    other._rng = copy.deepcopy(pair._rng)
    other.model.load_state_dict(weights)
    resumed = kind(other.model, lr=0.9, **{k: v for k, v in settings.items() if k == "momentum"})
    resumed.load_state_dict(state)
    assert resumed.lr == 0.03
    assert resumed.hyperparameters == optimizer.hyperparameters
    train(pair, optimizer, 3)
    train(other, resumed, 3)
    for name, value in pair.values().items():
        assert other.named[name].data.tobytes() == value.tobytes(), name


def test_loading_brings_the_momentum_that_was_not_there(make_pair: Callable[..., Any]) -> None:
    """The hyperparameters come with the state, so must the buffers that they ask for."""
    pair, other = make_pair(), make_pair()
    optimizer, resumed = SGD(pair.model, lr=0.1, momentum=0.9), SGD(other.model, lr=0.1)
    train(pair, optimizer, 2)
    other.model.load_state_dict(pair.values())
    resumed.load_state_dict(frozen(optimizer.state_dict()))
    other._rng = copy.deepcopy(pair._rng)
    train(pair, optimizer, 1)
    train(other, resumed, 1)
    for name, value in pair.values().items():
        np.testing.assert_array_equal(other.named[name].data, value, err_msg=name)


@pytest.mark.parametrize(("kind", "settings"), KINDS, ids=IDS)
def test_a_state_before_the_first_step_can_be_saved_and_loaded(
    make_pair: Callable[..., Any], kind: Any, settings: dict[str, Any]
) -> None:
    pair, other = make_pair(), make_pair()
    state = frozen(kind(pair.model, **settings).state_dict())
    assert state["step"] == 0
    assert state["arrays"] == {}
    resumed = kind(other.model, **settings)
    train(other, resumed, 2)
    resumed.load_state_dict(state)
    assert resumed.state_dict()["step"] == 0
    assert resumed.state_dict()["arrays"] == {}


def test_the_state_is_named_and_shaped_as_the_parameters(make_pair: Callable[..., Any]) -> None:
    pair = make_pair("float32", True)
    optimizer = AdamW(pair.model)
    train(pair, optimizer, 2)
    state = optimizer.state_dict()
    assert state["step"] == 2
    assert state["steps"] == dict.fromkeys(pair.named, 2)
    assert {name: a.shape for name, a in state["arrays"].items()} == {
        f"{name}.{key}": p.shape for name, p in pair.named.items() for key in ("exp_avg", "exp_avg_sq")
    }
    assert state["hyperparameters"] == {"lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 1e-2}


def test_stepping_some_parameters_makes_no_state_for_the_others(make_pair: Callable[..., Any]) -> None:
    pair = make_pair("float32", True)
    optimizer = Adam(pair.model)
    train(pair, optimizer, 1, ["1.weight"])
    assert sorted(optimizer.state_dict()["arrays"]) == ["1.weight.exp_avg", "1.weight.exp_avg_sq"]


CHANGES: list[tuple[str, Callable[[Any], Any]]] = [
    ("cast", lambda model: model.astype("float64")),
    ("moved", lambda model: model.to("cpu")),
    ("laid flat", lambda model: model.flatten()),
]


@pytest.mark.parametrize("flat", [True, False], ids=["flat", "apart"])
@pytest.mark.parametrize("apart", [None, ["0.weight"], ["1.bias", "2.weight"]], ids=["all", "one", "two"])
@pytest.mark.parametrize(("what", "change"), CHANGES, ids=[what.replace(" ", "-") for what, _ in CHANGES])
def test_the_state_survives_when_the_model_changes(
    make_pair: Callable[..., Any],
    what: str,
    change: Callable[[Any], Any],
    apart: list[str] | None,
    flat: bool,
) -> None:
    """A model cast, moved or laid flat has other arrays; averages and step counts go along by name."""
    pair, unchanged = make_pair("float64", flat), make_pair("float64", flat)
    optimizer, twin = AdamW(pair.model, lr=0.01), AdamW(unchanged.model, lr=0.01)
    for side, its in ((pair, optimizer), (unchanged, twin)):
        train(side, its, 2, apart)
    change(pair.model)
    for side, its in ((pair, optimizer), (unchanged, twin)):
        train(side, its, 3)
    assert optimizer.state_dict()["steps"] == twin.state_dict()["steps"]
    for name, value in unchanged.values().items():
        np.testing.assert_allclose(pair.named[name].data, value, rtol=1e-13, err_msg=name)


# -- states that do not fit --------------------------------------------------------------------------


def started(make_pair: Callable[..., Any]) -> tuple[Any, Any, dict[str, Any]]:
    pair = make_pair("float32", True)
    optimizer = AdamW(pair.model)
    train(pair, optimizer, 2)
    return pair, optimizer, frozen(optimizer.state_dict())


def damage_all(state: dict[str, Any]) -> None:
    state["steps"]["3.weight"] = 2
    del state["steps"]["2.weight"]
    del state["arrays"]["0.weight.exp_avg"]
    state["arrays"]["1.bias.exp_avg_sq"] = np.zeros(8, np.float32)
    state["hyperparameters"]["momentum"] = 0.9


def test_all_that_does_not_fit_is_listed_and_nothing_changes(make_pair: Callable[..., Any]) -> None:
    _, optimizer, state = started(make_pair)
    before = frozen(optimizer.state_dict())
    damage_all(state)
    with pytest.raises(CheckpointError) as caught:
        optimizer.load_state_dict(state)
    message = str(caught.value)
    assert message.startswith("the state does not fit AdamW:")
    for line in (
        "missing parameter: 2.weight",
        "unexpected parameter: 3.weight",
        "missing: 0.weight.exp_avg",
        "misshapen: 1.bias.exp_avg_sq expected (7,), got (8,)",
        "unexpected hyperparameter: momentum",
    ):
        assert line in message
    after = optimizer.state_dict()
    assert after["hyperparameters"] == before["hyperparameters"]
    assert after["steps"] == before["steps"]
    for name, values in before["arrays"].items():
        np.testing.assert_array_equal(after["arrays"][name], values, err_msg=name)


BROKEN: list[tuple[str, Callable[[dict[str, Any]], Any], str]] = [
    ("empty", lambda s: s.clear(), "hyperparameters"),
    ("nameless", lambda s: s.pop("kind"), "missing: kind"),
    (
        "lr negative",
        lambda s: s["hyperparameters"].update(lr=-1.0),
        "lr must be a finite number >= 0, got -1.0",
    ),
    (
        "lr nan",
        lambda s: s["hyperparameters"].update(lr=float("nan")),
        "lr must be a finite number >= 0, got nan",
    ),
    ("beta", lambda s: s["hyperparameters"].update(betas=[0.9, 1.0]), r"betas\[1\] must be .* got 1.0"),
    ("betas", lambda s: s["hyperparameters"].update(betas=0.9), r"betas must be two numbers, got 0.9"),
    (
        "steps",
        lambda s: s["steps"].update({"0.weight": -1}),
        "steps of 0.weight must be an integer >= 0, got -1",
    ),
    (
        "steps float",
        lambda s: s["steps"].update({"0.weight": 1.5}),
        "steps of 0.weight must be an integer >= 0",
    ),
]


@pytest.mark.parametrize(("what", "damage", "message"), BROKEN, ids=[row[0].replace(" ", "-") for row in BROKEN])
def test_a_damaged_state_is_refused(
    make_pair: Callable[..., Any], what: str, damage: Callable[[dict[str, Any]], Any], message: str
) -> None:
    _, optimizer, state = started(make_pair)
    before = frozen(optimizer.state_dict())
    damage(state)
    with pytest.raises(CheckpointError, match=message):
        optimizer.load_state_dict(state)
    after = optimizer.state_dict()
    assert after["hyperparameters"] == before["hyperparameters"]
    assert after["steps"] == before["steps"]


def test_a_state_of_another_optimizer_is_refused(make_pair: Callable[..., Any]) -> None:
    pair, _, state = started(make_pair)
    for other in (SGD, Adam):  # Adam has the same arrays and hyperparameters as AdamW, and another step
        message = f"it is the state of the optimizer AdamW, wanted {other.__name__}"
        with pytest.raises(CheckpointError, match=message):
            other(pair.model).load_state_dict(state)
    sgd = SGD(pair.model, momentum=0.9)
    train(pair, sgd, 1)
    with pytest.raises(CheckpointError, match="state of the optimizer SGD, wanted AdamW"):
        AdamW(pair.model).load_state_dict(frozen(sgd.state_dict()))


# -- hyperparameters out of range --------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")
WRONG: list[tuple[Any, dict[str, Any], str]] = [
    (SGD, {"lr": -0.1}, "SGD: lr must be a finite number >= 0, got -0.1"),
    (SGD, {"lr": NAN}, "SGD: lr must be a finite number >= 0, got nan"),
    (SGD, {"lr": INF}, "SGD: lr must be a finite number >= 0, got inf"),
    (SGD, {"lr": "0.1"}, "SGD: lr must be a finite number >= 0, got '0.1'"),
    (SGD, {"lr": True}, "SGD: lr must be a finite number >= 0, got True"),
    (SGD, {"momentum": 1.0}, r"SGD: momentum must be a finite number in \[0, 1\), got 1.0"),
    (SGD, {"momentum": -0.5}, r"SGD: momentum must be a finite number in \[0, 1\), got -0.5"),
    (SGD, {"weight_decay": -1.0}, "SGD: weight_decay must be a finite number >= 0, got -1.0"),
    (SGD, {"nesterov": True}, "SGD: nesterov needs momentum > 0, got momentum 0"),
    (Adam, {"lr": NAN}, "Adam: lr must be a finite number >= 0, got nan"),
    (Adam, {"betas": (1.0, 0.9)}, r"Adam: betas\[0\] must be a finite number in \[0, 1\), got 1.0"),
    (Adam, {"betas": (0.9, 1.5)}, r"Adam: betas\[1\] must be a finite number in \[0, 1\), got 1.5"),
    (Adam, {"betas": (-0.1, 0.9)}, r"Adam: betas\[0\] must be a finite number in \[0, 1\), got -0.1"),
    (Adam, {"betas": (0.9, NAN)}, r"Adam: betas\[1\] must be a finite number in \[0, 1\), got nan"),
    (Adam, {"betas": (0.9,)}, r"Adam: betas must be two numbers, got \(0.9,\)"),
    (Adam, {"betas": 0.9}, "Adam: betas must be two numbers, got 0.9"),
    (Adam, {"eps": -1e-8}, "Adam: eps must be a finite number >= 0, got -1e-08"),
    (AdamW, {"lr": -1}, "AdamW: lr must be a finite number >= 0, got -1"),
    (AdamW, {"weight_decay": NAN}, "AdamW: weight_decay must be a finite number >= 0, got nan"),
]


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    WRONG,
    ids=[row[2].split(" must")[0] + f"-{i}" for i, row in enumerate(WRONG)],
)
def test_a_hyperparameter_out_of_range_is_refused(kind: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(tg.layers.Linear(2, 2), **settings)


@pytest.mark.parametrize("rate", [-1.0, NAN, INF, "fast"])
def test_a_learning_rate_out_of_range_takes_no_step(make_pair: Callable[..., Any], rate: Any) -> None:
    pair = make_pair()
    pair.draw()
    optimizer, before = SGD(pair.model, lr=0.1), pair.values()
    with pytest.raises(ConfigError, match=f"SGD: learning_rate must be a finite number >= 0, got {rate!r}"):
        optimizer.step(rate)
    assert optimizer.lr == 0.1
    assert optimizer.state_dict()["step"] == 0
    for name, value in before.items():
        np.testing.assert_array_equal(pair.named[name].data, value)


def test_nothing_to_optimize_is_an_error() -> None:
    with pytest.raises(ConfigError, match="SGD: there are no parameters to optimize"):
        SGD(tg.layers.ReLU())


def test_a_foreign_parameter_in_only_is_an_error(make_pair: Callable[..., Any]) -> None:
    pair = make_pair()
    pair.draw()
    before = pair.values()
    with pytest.raises(ConfigError, match="SGD: step got a parameter that is not among those it was made for"):
        SGD(pair.model).step(only=[*pair.model.parameters(), *tg.layers.Linear(2, 2).parameters()])
    for name, value in before.items():
        np.testing.assert_array_equal(pair.named[name].data, value)


def test_a_layer_without_parameters_has_nothing_to_update(make_pair: Callable[..., Any]) -> None:
    pair = make_pair()
    pair.draw()
    optimizer, before = SGD(pair.model), pair.values()
    tg.layers.ReLU().update(optimizer)
    assert optimizer.state_dict()["step"] == 0
    for name, value in before.items():
        np.testing.assert_array_equal(pair.named[name].data, value)


@pytest.mark.parametrize("kind", [SGD, Adam, AdamW])
def test_a_rate_given_as_a_numpy_scalar_takes_the_same_steps(make_pair: Callable[..., Any], kind: Any) -> None:
    """numpy.float64 is a float to Python, but in NumPy it turns float32 arithmetic into float64."""
    pair, other = make_pair("float32"), make_pair("float32")
    optimizer, twin = kind(pair.model, lr=np.float64(0.1)), kind(other.model, lr=0.1)
    for rate in (None, 0.037, 0.011):
        for side, its in ((pair, optimizer), (other, twin)):
            side.draw()
            its.step(np.float64(rate) if rate and side is pair else rate)
    for name, value in other.values().items():
        assert pair.named[name].data.tobytes() == value.tobytes(), name
    assert type(optimizer.lr) is float


def test_repr_shows_the_settings() -> None:
    text = repr(AdamW(tg.layers.Linear(2, 2), lr=0.5))
    assert text == "AdamW(lr=0.5, betas=[0.9, 0.999], eps=1e-08, weight_decay=0.01)"


def test_every_refusal_is_one_family() -> None:
    assert issubclass(ConfigError, TinygradEduError)
    assert issubclass(CheckpointError, TinygradEduError)
