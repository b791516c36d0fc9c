"""The average of the weights: its formula, where it lies, that it can be put on and taken off, and its state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu.errors import CheckpointError, ConfigError, ShapeError
from tinygrad_edu.layers import Embedding, Linear, Sequential
from tinygrad_edu.optim import ExponentialMovingAverage

torch = pytest.importorskip("torch")


def model(flat: bool = True, dtype: str = "float64") -> Any:
    made = Sequential(Linear(3, 4, generator=tg.backend.Generator(0)), tg.layers.LayerNorm(4)).astype(dtype)
    return made.flatten() if flat else made


def walk(layer: Any, step: int) -> None:
    """Move the weights, as an optimizer would."""
    rng = np.random.default_rng(step)
    for parameter in layer.parameters():
        parameter.data += rng.normal(size=parameter.shape).astype(parameter.dtype)


def averages(ema: ExponentialMovingAverage) -> dict[str, Any]:
    return {name: values.copy() for name, values in ema.state_dict()["arrays"].items()}


each_layout = pytest.mark.parametrize("flat", [True, False], ids=["flat", "apart"])


@each_layout
def test_it_is_torchs_average(flat: bool) -> None:
    own = model(flat)
    twin = torch.nn.ParameterList([torch.tensor(p.data.copy()) for p in own.parameters()])
    average = torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    theirs = torch.optim.swa_utils.AveragedModel(twin, multi_avg_fn=average)
    theirs.update_parameters(twin)  # torch's first update copies
    ema = ExponentialMovingAverage(own, 0.9, warmup=False)
    for step in range(5):
        walk(own, step)
        with torch.no_grad():
            for leaf, parameter in zip(twin, own.parameters(), strict=True):
                leaf.copy_(torch.tensor(parameter.data))
        ema.update()
        theirs.update_parameters(twin)
    for values, leaf in zip(averages(ema).values(), theirs.module, strict=True):
        np.testing.assert_allclose(values, leaf.detach().numpy(), rtol=1e-12)


@each_layout
def test_the_decay_rises_to_its_value(flat: bool) -> None:
    own = model(flat)
    ema = ExponentialMovingAverage(own, 0.5)
    expected = own.state_dict()["0.weight"].copy()
    for step in range(12):  # (1 + t) / (10 + t) reaches 0.5 at t = 8
        walk(own, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * own.state_dict()["0.weight"]
        ema.update()
    np.testing.assert_allclose(averages(ema)["0.weight"], expected, rtol=1e-12)
    assert ema.updates == 12


@each_layout
def test_applied_and_taken_off_again(flat: bool) -> None:
    own = model(flat)
    ema = ExponentialMovingAverage(own, 0.9)
    walk(own, 0)
    ema.update()
    weights = {name: values.copy() for name, values in own.state_dict().items()}
    arrays = [parameter.data for parameter in own.parameters()]
    with pytest.raises(RuntimeError, match="within"), ema.applied(own):
        for name, values in averages(ema).items():
            assert (own.state_dict()[name] == values).all() and (values != weights[name]).any()
        with pytest.raises(ConfigError, match="the averages are applied; leave"):
            ema.update()
        with pytest.raises(ConfigError, match="the averages are applied already"), ema.applied():
            pass
        raise RuntimeError("within")
    assert all((own.state_dict()[name] == values).all() for name, values in weights.items())
    assert all(parameter.data is array for parameter, array in zip(own.parameters(), arrays, strict=True))


def test_applied_to_another_model() -> None:
    own, other = model(), model(flat=False, dtype="float32")
    ema = ExponentialMovingAverage(own, 0.9)
    walk(own, 0)
    ema.update()
    before = other.state_dict()["0.weight"].copy()
    with ema.applied(other):
        np.testing.assert_allclose(other.state_dict()["0.weight"], averages(ema)["0.weight"], rtol=1e-6)
    assert (other.state_dict()["0.weight"] == before).all()
    with pytest.raises(ShapeError, match="missing: weight"), ema.applied(Linear(2, 2)):
        pass


CHANGES: dict[str, Callable[[Any], Any]] = {
    "cast": lambda layer: layer.astype("float32"),
    "flattened": lambda layer: layer.flatten(),
    "moved": lambda layer: layer.to("cpu"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@each_layout
def test_it_follows_a_model_that_changes(flat: bool, change: Callable[[Any], Any]) -> None:
    own, undisturbed = model(flat), model(flat)
    ema, control = ExponentialMovingAverage(own, 0.9), ExponentialMovingAverage(undisturbed, 0.9)
    for step in range(4):
        walk(own, step)
        walk(undisturbed, step)
        ema.update()
        control.update()
        if step == 1:
            change(own)
    for name, values in averages(control).items():
        np.testing.assert_allclose(averages(ema)[name], values, rtol=1e-5)
        assert averages(ema)[name].dtype == own.state_dict()[name].dtype


def test_a_table_that_grows_keeps_its_averages() -> None:
    table = Sequential(Embedding(3, 2, tg.backend.Generator(0)))
    ema = ExponentialMovingAverage(table, 0.9)
    walk(table, 0)
    ema.update()
    before, weight = averages(ema)["0.weight"], table[0].weight
    weight.data = np.concatenate([weight.data, np.full((2, 2), 7, weight.dtype)])
    weight.grad = None
    after = averages(ema)["0.weight"]
    assert (after[:3] == before).all() and (after[3:] == 7).all()


@each_layout
def test_going_on_from_its_state(flat: bool) -> None:
    own = model(flat)
    ema = ExponentialMovingAverage(own, 0.9)
    for step in range(3):
        walk(own, step)
        ema.update()
    state = ema.state_dict()
    state["arrays"] = averages(ema)
    again = model(not flat)
    again.load_state_dict({name: values.copy() for name, values in own.state_dict().items()})
    resumed = ExponentialMovingAverage(again, 0.9)
    resumed.load_state_dict(state)
    for layer, average in ((own, ema), (again, resumed)):
        walk(layer, 3)
        average.update()
    assert resumed.updates == 4 and repr(resumed) == "ExponentialMovingAverage(decay=0.9, updates=4)"
    for name, values in averages(ema).items():
        assert values.tobytes() == averages(resumed)[name].tobytes()


def test_a_state_that_does_not_fit() -> None:
    ema = ExponentialMovingAverage(model(), 0.9)
    before = averages(ema)
    arrays = {**before, "2.weight": np.zeros(1), "0.weight": np.zeros((3, 3))}
    del arrays["1.bias"]
    with pytest.raises(CheckpointError) as caught:
        ema.load_state_dict({"updates": -1, "arrays": arrays})
    for line in (
        "missing: 1.bias",
        "unexpected: 2.weight",
        "misshapen: 0.weight expected (4, 3), got (3, 3)",
        "updates must be an integer >= 0, got -1",
    ):
        assert line in str(caught.value)
    with pytest.raises(CheckpointError, match="missing: updates\n  missing: arrays"):
        ema.load_state_dict({})
    assert all((averages(ema)[name] == values).all() for name, values in before.items())


@pytest.mark.parametrize("decay", [0, 1, 1.5, -0.1, float("nan"), "0.9", True])
def test_decays_that_are_none(decay: Any) -> None:
    with pytest.raises(ConfigError, match=r"ExponentialMovingAverage: decay must be "):
        ExponentialMovingAverage(model(), decay)


def test_a_model_without_parameters() -> None:
    with pytest.raises(ConfigError, match="the model has no parameters to average"):
        ExponentialMovingAverage(Sequential(), 0.9)
