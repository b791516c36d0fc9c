"""Every optimizer takes the steps that torch's takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu.errors import ConfigError
from tinygrad_edu.optim import SGD, Adam, AdamW, Optimizer, clip_factor, clip_grad_norm_, grad_norm

torch = pytest.importorskip("torch")

STEPS = 12
DECAY = 0.1

# name, ours, torch's; weight decay is added by the tests, ours as an argument, torch's by parameter group
OPTIMIZERS = [
    ("sgd", SGD, torch.optim.SGD, {"lr": 0.05}),
    ("sgd momentum", SGD, torch.optim.SGD, {"lr": 0.05, "momentum": 0.9}),
    ("sgd nesterov", SGD, torch.optim.SGD, {"lr": 0.05, "momentum": 0.8, "nesterov": True}),
    ("adam", Adam, torch.optim.Adam, {"lr": 0.01}),
    ("adam odd", Adam, torch.optim.Adam, {"lr": 0.01, "betas": (0.5, 0.75), "eps": 1e-3}),
    ("adam no memory", Adam, torch.optim.Adam, {"lr": 0.01, "betas": (0.0, 0.0)}),
    ("adamw", AdamW, torch.optim.AdamW, {"lr": 0.01}),
    ("adamw odd", AdamW, torch.optim.AdamW, {"lr": 0.03, "betas": (0.8, 0.95), "eps": 1e-4}),
]
IDS = [row[0].replace(" ", "-") for row in OPTIMIZERS]


@pytest.mark.parametrize("weight_decay", [0.0, DECAY])
@pytest.mark.parametrize("flat", [True, False], ids=["flat", "apart"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("name", "ours", "theirs", "settings"), OPTIMIZERS, ids=IDS)
def test_steps_are_those_of_torch(
    make_pair: Callable[..., Any],
    name: str,
    ours: Callable[..., Optimizer],
    theirs: Callable[..., Any],
    settings: dict[str, Any],
    dtype: str,
    flat: bool,
    weight_decay: float,
) -> None:
    pair = make_pair(dtype, flat)
    optimizer = ours(pair.model, weight_decay=weight_decay, **settings)
    twin = theirs(pair.groups(weight_decay), **settings)
    before = pair.values()
    for step in range(STEPS):
        # A schedule that changes the rate at each step, and gradients of very different sizes.
        rate = settings["lr"] * (1 + step) / STEPS
        for group in twin.param_groups:
            group["lr"] = rate
        pair.draw(scale=10.0 ** (step % 3 - 1))
        optimizer.step(rate)
        twin.step()
    pair.assert_same(exact=1e-12 if dtype == "float64" else None)
    for parameter_name, value in before.items():  # so that "equal" cannot mean "nothing happened"
        assert np.abs(pair.named[parameter_name].data - value).max() > 1e-3, parameter_name
    assert optimizer.lr == pytest.approx(settings["lr"])


@pytest.mark.parametrize("flat", [True, False], ids=["flat", "apart"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("name", "ours", "theirs", "settings"), OPTIMIZERS, ids=IDS)
def test_a_scaled_step_is_that_of_scaled_gradients(
    make_pair: Callable[..., Any],
    name: str,
    ours: Callable[..., Optimizer],
    theirs: Callable[..., Any],
    settings: dict[str, Any],
    dtype: str,
    flat: bool,
) -> None:
    """The factor of clipping in the update, and clipped gradients: the same weights, but only one changes gradients."""
    folded, clipped = make_pair(dtype, flat), make_pair(dtype, flat)
    first = ours(folded.model, weight_decay=DECAY, **settings)
    second = ours(clipped.model, weight_decay=DECAY, **settings)
    for step in range(STEPS):
        scale = 10.0 ** (step % 3 - 1)  # norms of about 0.9, 9 and 90
        folded.draw(scale=scale)
        clipped.draw(scale=scale)
        drawn = {n: p.grad.copy() for n, p in folded.named.items()}
        norm = grad_norm(folded.model)
        first.step(grad_scale=clip_factor(norm, 2.0))
        assert clip_grad_norm_(clipped.model, 2.0) == norm
        second.step()
        for n, gradient in drawn.items():
            np.testing.assert_array_equal(folded.named[n].grad, gradient, err_msg=n)
    for n, value in clipped.values().items():
        np.testing.assert_allclose(folded.named[n].data, value, rtol=1e-14 if dtype == "float64" else 2e-6, atol=1e-7)


@pytest.mark.parametrize("scale", [-0.1, math.nan, math.inf, "1", True])
def test_a_scale_that_is_none_is_refused(make_pair: Callable[..., Any], scale: Any) -> None:
    pair = make_pair()
    pair.draw()
    before = pair.values()
    with pytest.raises(ConfigError, match=f"AdamW: grad_scale must be a finite number >= 0, got {scale!r}"):
        AdamW(pair.model).step(grad_scale=scale)
    for name, value in before.items():
        np.testing.assert_array_equal(pair.named[name].data, value, err_msg=name)


@pytest.mark.parametrize("flat", [True, False], ids=["flat", "apart"])
@pytest.mark.parametrize(("name", "ours", "theirs", "settings"), OPTIMIZERS, ids=IDS)
def test_some_parameters_may_step_alone(
    make_pair: Callable[..., Any],
    name: str,
    ours: Callable[..., Optimizer],
    theirs: Callable[..., Any],
    settings: dict[str, Any],
    flat: bool,
) -> None:
    """`only=` leaves the others, their averages and their step counts as they are."""
    pair = make_pair("float64", flat)
    optimizer = ours(pair.model, weight_decay=DECAY, **settings)
    twin = theirs(pair.groups(DECAY), **settings)
    plans: list[list[str] | None] = [
        None,
        ["0.weight"],
        ["0.weight", "1.bias"],
        ["2.weight"],
        None,
        ["1.weight"],
    ]
    for names in plans * 2:
        pair.draw(names=names)
        optimizer.step(only=None if names is None else [pair.named[n] for n in names])
        twin.step()
    pair.assert_same(exact=1e-12)


@pytest.mark.parametrize("flat", [True, False], ids=["flat", "apart"])
def test_updating_layer_by_layer_is_one_step(make_pair: Callable[..., Any], flat: bool) -> None:
    whole, parts = make_pair("float64", flat), make_pair("float64", flat)
    first, second = AdamW(whole.model, lr=0.02), AdamW(parts.model, lr=0.02)
    for _ in range(4):
        whole.draw()
        parts.draw()
        first.step()
        for layer in parts.model:
            layer.update(second)
    for name, value in whole.values().items():
        np.testing.assert_array_equal(parts.named[name].data, value, err_msg=name)


def test_a_whole_layer_updates_all_its_children(make_pair: Callable[..., Any]) -> None:
    pair, other = make_pair(), make_pair()
    pair.draw()
    other.draw()
    optimizer, twin = SGD(pair.model, lr=0.1), SGD(other.model, lr=0.1)
    pair.model.update(optimizer)
    twin.step()
    for name, value in other.values().items():
        np.testing.assert_array_equal(pair.named[name].data, value, err_msg=name)


def test_decay_can_be_chosen_for_each_parameter(make_pair: Callable[..., Any]) -> None:
    """`Parameter.decay` decides, not the number of axes: here only one bias decays."""
    pair = make_pair("float64", False)
    for name, parameter in pair.named.items():
        parameter.decay = name == "0.bias"
    pair.model.flatten()
    before = pair.values()
    for parameter in pair.named.values():
        parameter.grad[...] = 0
    AdamW(pair.model, lr=0.5, weight_decay=0.2).step()
    for name, parameter in pair.named.items():
        factor = 0.9 if name == "0.bias" else 1.0
        np.testing.assert_allclose(parameter.data, before[name] * factor, rtol=1e-15, err_msg=name)


@pytest.mark.parametrize("optimizer_class", [SGD, Adam, AdamW])
def test_padding_between_flat_parameters_stays_zero(make_pair: Callable[..., Any], optimizer_class: Any) -> None:
    pair = make_pair("float32", True)
    optimizer = optimizer_class(pair.model, lr=0.1, weight_decay=DECAY)
    for _ in range(3):
        pair.draw()
        optimizer.step()
    flat = pair.model.flat
    inside = np.zeros(flat.data.size, bool)
    for place in flat.slices.values():
        inside[place] = True
    assert (~inside).any(), "this model should have padding, or the test shows nothing"
    assert not flat.data[~inside].any()


def test_pairs_of_names_and_parameters_are_enough() -> None:
    parameter = tg.layers.Parameter(np.ones((2, 2)))
    parameter.grad[...] = [[1.0, 2.0], [3.0, 4.0]]
    SGD([("w", parameter)], lr=0.5).step()
    np.testing.assert_array_equal(parameter.data, [[0.5, 0.0], [-0.5, -1.0]])


@pytest.mark.parametrize("optimizer_class", [SGD, Adam, AdamW])
def test_a_parameter_of_any_memory_layout_is_updated(optimizer_class: Any) -> None:
    """A transposed array is one run of numbers only as a copy; the copy must not get the step."""
    plain = tg.layers.Parameter(np.arange(6.0).reshape(3, 2))
    turned = tg.layers.Parameter(np.ascontiguousarray(plain.data.T).T)
    assert not turned.data.flags.c_contiguous
    for parameter in (plain, turned):
        optimizer = optimizer_class([("w", parameter)], lr=0.1)
        for step in range(3):
            parameter.grad[...] = np.cos(np.arange(6.0) + step).reshape(3, 2)
            optimizer.step()
    np.testing.assert_array_equal(turned.data, plain.data)


@pytest.mark.parametrize("flat", [True, False], ids=["flat", "apart"])
@pytest.mark.parametrize("how", ["set to None", "replaced", "transposed"])
def test_gradients_put_in_place_of_the_old_are_the_ones_used(
    make_pair: Callable[..., Any], flat: bool, how: str
) -> None:
    """A user may drop a gradient (`grad = None`) or put in another array; a stale one must not act."""
    pair = make_pair("float64", flat)
    optimizer, twin = AdamW(pair.model, lr=0.01), torch.optim.AdamW(pair.groups(0.01), lr=0.01)
    for step in range(4):
        pair.draw()
        if step:
            for parameter in pair.named.values():
                gradient = parameter.grad.copy()
                if how == "set to None":
                    parameter.grad = None
                    parameter.accumulate(gradient)
                else:
                    parameter.grad = gradient if how == "replaced" else np.ascontiguousarray(gradient.T).T
        optimizer.step()
        twin.step()
    pair.assert_same(exact=1e-12)
