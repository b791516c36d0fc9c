"""What every layer shares: registration, state, modes, types, devices, flat buffers, the stack."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu import backend, layers
from tinygrad_edu.backend import Generator
from tinygrad_edu.check.cases import CASES, Case
from tinygrad_edu.errors import BackwardError, ConfigError, DeviceError, DtypeError, ShapeError
from tinygrad_edu.layers import (
    GELU,
    Dropout,
    Layer,
    LayerList,
    LayerNorm,
    Linear,
    Parameter,
    Residual,
    Sequential,
    Tanh,
)
from tinygrad_edu.layers.flat import FlatParameters

X = np.random.default_rng(0).normal(size=(3, 4, 6)).astype("float32")


def mlp() -> Sequential:
    g = Generator(0)
    return Sequential(Linear(6, 5, generator=g), GELU(), LayerNorm(5), Linear(5, 2, generator=g))


def test_names_are_in_order_of_assignment() -> None:
    assert list(mlp().state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias", "3.weight", "3.bias"]
    assert mlp().num_parameters() == 6 * 5 + 5 + 5 + 5 + 5 * 2 + 2


def test_assigning_again_replaces() -> None:
    layer = Residual(Linear(6, 6))
    layer.layer = Tanh()
    assert [name for name, _ in layer.named_layers()] == ["", "layer"]
    assert layer.num_parameters() == 0
    layer.layer = None  # type: ignore[assignment]
    assert [name for name, _ in layer.named_layers()] == [""]


def test_a_shared_parameter_is_counted_and_named_once() -> None:
    first, second = Linear(6, 6), Linear(6, 6)
    second.weight = first.weight
    pair = Sequential(first, second)
    assert list(pair.state_dict()) == ["0.weight", "0.bias", "1.bias"]
    pair.backward(pair(X))
    alone = Sequential(Linear(6, 6), Linear(6, 6))
    for name, parameter in alone.named_parameters():
        parameter.data[...] = (first if name.startswith("0") else second).state_dict()[name[2:]]
    alone.backward(alone(X))
    np.testing.assert_allclose(first.weight.grad, alone[0].weight.grad + alone[1].weight.grad, rtol=1e-5)


def test_matrices_decay_and_vectors_do_not() -> None:
    assert [parameter.decay for parameter in mlp().parameters()] == [True, False, False, False, True, False]
    assert Parameter(np.ones((2, 2)), decay=False).decay is False


def test_gradients_appear_when_first_asked_for() -> None:
    parameter = Parameter(np.ones((2, 3), dtype="float32"))
    assert parameter._grad is None
    parameter.zero_grad()
    assert parameter._grad is None
    assert parameter.grad.shape == (2, 3) and parameter.grad.dtype == np.float32
    parameter.accumulate(np.ones((2, 3)))
    parameter.zero_grad()
    assert not parameter.grad.any()
    assert repr(parameter) == "Parameter((2, 3), float32)"


def test_modes_reach_all_below() -> None:
    layer = Sequential(Residual(Dropout(0.5)), Linear(6, 6))
    assert layer.eval() is layer
    assert not any(part.training for part in layer.layers())
    np.testing.assert_array_equal(layer[0](X), 2 * X)
    assert all(part.training for part in layer.train().layers())


def test_types_and_what_they_reset() -> None:
    layer = mlp()
    layer.backward(layer(X))
    layer.astype("float64")
    assert {parameter.dtype for parameter in layer.parameters()} == {np.dtype("float64")}
    assert not any(parameter.grad.any() for parameter in layer.parameters())
    assert layer(X.astype("float64")).dtype == np.float64


def test_to_another_device_and_back(strict_cuda: Any) -> None:
    layer = mlp()
    wanted = layer(X)
    assert layer.to("cuda") is layer
    assert {backend.device_of(parameter.data) for parameter in layer.parameters()} == {"cuda"}
    there = layer(backend.to_device(X, "cuda"))
    np.testing.assert_allclose(backend.to_host(there), wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer.to("cpu")(X), wanted, rtol=1e-5, atol=1e-6)


def test_loading_from_torch_and_partly() -> None:
    torch = pytest.importorskip("torch")
    twin = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.GELU(), torch.nn.LayerNorm(5), torch.nn.Linear(5, 2))
    layer = mlp()
    layer.load_state_dict(twin.state_dict())
    np.testing.assert_allclose(layer(X), twin(torch.tensor(X)).detach().numpy(), rtol=1e-4, atol=1e-5)
    layer.load_state_dict({"0.bias": np.full(5, 7.0), "elsewhere": np.ones(1)}, strict=False)
    assert (layer[0].bias.data == 7).all()
    with pytest.raises(ShapeError, match=r"misshapen: 0.bias expected \(5,\), got \(4,\)"):
        layer.load_state_dict({"0.bias": np.ones(4)}, strict=False)


def test_a_state_is_the_parameters_themselves_and_loading_copies() -> None:
    layer, other = mlp(), mlp()
    state = layer.state_dict()
    assert state["0.weight"] is layer[0].weight.data
    other.load_state_dict(state)
    state["0.weight"][...] = 0
    assert other[0].weight.data.any()


def test_flat_parameters_are_views_and_stay_so() -> None:
    layer = mlp()
    values = {name: value.copy() for name, value in layer.state_dict().items()}
    wanted = layer(X)
    layer.flatten()
    flat = layer.flat
    assert flat.holds(layer)
    for name, parameter in layer.named_parameters():
        np.testing.assert_array_equal(parameter.data, values[name])
        assert np.shares_memory(parameter.data, flat.data) and np.shares_memory(parameter.grad, flat.grad)
        assert parameter.data.ctypes.data % 64 == flat.data.ctypes.data % 64
    np.testing.assert_array_equal(layer(X), wanted)
    layer.backward(np.ones_like(wanted))
    assert flat.grad.any()
    layer.zero_grad()
    assert not flat.grad.any()
    assert sum(parameter.size for parameter in layer.parameters()) <= flat.data.size
    layer.load_state_dict({name: value * 2 for name, value in values.items()})
    assert flat.holds(layer)
    np.testing.assert_array_equal(flat.data[flat.slices["0.bias"]], 2 * values["0.bias"])


def test_flat_parameters_that_decay_come_first() -> None:
    layer = mlp().flatten()
    order = sorted(layer.flat.slices, key=lambda name: layer.flat.slices[name].start)
    assert order == ["0.weight", "3.weight", "0.bias", "2.weight", "2.bias", "3.bias"]


def test_flat_again_after_a_change_of_type() -> None:
    layer = mlp().flatten().astype("float64")
    assert layer.flat.data.dtype == np.float64
    assert layer.flat.holds(layer)
    layer.load_state_dict(layer.state_dict())
    copied = copy.deepcopy(layer)
    copied.zero_grad()  # the copy's parameters are views of nothing: cleared one by one
    assert layer.flat.holds(layer)


def test_flat_parameters_no_longer_hold_a_layer_that_was_changed() -> None:
    layer = mlp().flatten()
    layer[0].bias = Parameter(np.ones(5, dtype="float32"))
    layer[0].bias.grad += 1
    assert not layer.flat.holds(layer)
    layer.zero_grad()
    assert not layer[0].bias.grad.any()


def test_flat_parameters_of_several_types_or_none() -> None:
    layer = mlp()
    layer[0].astype("float64")
    with pytest.raises(
        DtypeError, match=r"flatten: all parameters must have one dtype, found \['float32', 'float64'\]"
    ):
        layer.flatten()
    empty = Tanh()
    assert not FlatParameters(empty).holds(empty)
    empty.flatten().zero_grad()


def test_the_stack() -> None:
    tanh, x = Tanh(), X.astype("float64")  # 1 - y^2 of a large x has few digits in float32
    tanh(x)
    tanh(2 * x)
    second, first = tanh.backward(x), tanh.backward(x)
    np.testing.assert_allclose(second, x * (1 - np.tanh(2 * x) ** 2), rtol=1e-12)
    np.testing.assert_allclose(first, x * (1 - np.tanh(x) ** 2), rtol=1e-12)
    with pytest.raises(BackwardError, match="was backward called twice, or did forward run under tg.inference"):
        tanh.backward(x)


def test_an_interrupted_step_can_be_forgotten() -> None:
    layer = mlp()
    layer(X)
    layer.clear_saved()
    assert not any(part._saved for part in layer.layers())


def test_generators_of_all_below_each_once() -> None:
    shared, own = Generator(0), Generator(1)
    layer = Sequential(Dropout(0.1, shared), Residual(Dropout(0.2, shared)), Dropout(0.3, own))
    assert list(layer.generators()) == [shared, own]


def test_containers() -> None:
    sequence = mlp()
    assert len(sequence) == 4
    assert isinstance(sequence[-1], Linear)
    assert [type(part).__name__ for part in sequence] == ["Linear", "GELU", "LayerNorm", "Linear"]
    np.testing.assert_array_equal(Sequential()(X), X)
    np.testing.assert_array_equal(Sequential().backward(X), X)
    kept = LayerList([Tanh()])
    kept.append(Linear(2, 2))
    assert list(kept.state_dict()) == ["1.weight", "1.bias"]


def test_how_layers_print() -> None:
    assert repr(mlp()).splitlines() == [
        "Sequential(", "  (0): Linear(6, 5)", "  (1): GELU(approximate='none')", "  (2): LayerNorm(5, eps=1e-05)",
        "  (3): Linear(5, 2)", ")",
    ]  # fmt: skip
    assert repr(Residual(Sequential(Dropout(0.1)))).splitlines() == [
        "Residual(", "  (layer): Sequential(", "    (0): Dropout(p=0.1)", "  )", ")",
    ]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_layer_prints_and_copies(case: Case) -> None:
    layer, _ = case.make()
    assert repr(layer).startswith(f"{case.of}(")
    twin = copy.deepcopy(layer)
    for (name, mine), (_, theirs) in zip(layer.named_parameters(), twin.named_parameters(), strict=True):
        assert not np.shares_memory(mine.data, theirs.data), name


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.make()[0].num_parameters()], ids=lambda case: case.name
)
def test_the_same_generator_draws_the_same_weights(case: Case) -> None:
    (first, _), (second, _), (other, _) = case.make(), case.make(), case.make(seed=1)
    for (name, mine), (_, again) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        np.testing.assert_array_equal(mine.data, again.data, err_msg=name)
        assert mine.dtype == np.float32
    if any(parameter.data.ndim > 1 for parameter in first.parameters()):  # norms start at one, whatever is drawn
        assert any((a.data != b.data).any() for a, b in zip(first.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("name, kind", [("relu", "ReLU"), ("gelu_tanh", "GELU"), ("silu", "SiLU")])
def test_activations_by_name(name: str, kind: str) -> None:
    assert type(layers.make_activation(name)).__name__ == kind
    with pytest.raises(
        ConfigError, match="activation must be one of relu, gelu, gelu_tanh, silu, tanh, sigmoid, got 'swish'"
    ):
        layers.make_activation("swish")


def test_a_layer_of_ones_own_in_ten_lines() -> None:
    class Scale(Layer):
        def __init__(self, dim: int):
            super().__init__()
            self.weight = Parameter(backend.ones(dim))

        def forward(self, x: Any) -> Any:
            self.save(x)
            return x * self.weight.data

        def backward(self, dy: Any) -> Any:
            x = self.saved()
            self.weight.accumulate((dy * x).sum(axis=tuple(range(x.ndim - 1))))
            return dy * self.weight.data

    tg.check.layer(Sequential(Scale(6), Tanh(), Scale(6)), X, batched=True).raise_if_wrong()


def test_update_changes_only_the_layer_it_is_called_on() -> None:
    layer = mlp()
    optimizer = tg.optim.SGD(layer, lr=0.1)
    layer.backward(layer(X))
    before = {name: value.copy() for name, value in layer.state_dict().items()}
    layer[3].update(optimizer)
    changed = {name for name, value in layer.state_dict().items() if (value != before[name]).any()}
    assert changed == {"3.weight", "3.bias"}


def test_an_array_in_place_of_a_parameter_is_refused_and_deleting_forgets() -> None:
    layer = Linear(3, 2)
    with pytest.raises(ConfigError, match=r"Linear.weight is a parameter: .*weight.data\[...\] = .*got ndarray"):
        layer.weight = np.zeros((2, 3))
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]
    layer.bias = None
    assert [name for name, _ in layer.named_parameters()] == ["weight"]
    del layer.weight
    assert not list(layer.named_parameters())


def test_an_unknown_device_is_refused_even_with_nothing_to_move() -> None:
    with pytest.raises(DeviceError, match="'gpu'"):
        Tanh().to("gpu")
