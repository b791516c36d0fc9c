"""Copies of models, by copy.deepcopy and to other processes; and states that do not fit."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu.errors import DtypeError
from tinygrad_edu.layers import Linear

IDS = np.random.default_rng(0).integers(0, 50, (2, 8))
COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
}


def tiny(position: str) -> Any:
    config = {"vocab_size": 50, "max_seq_len": 16, "n_blocks": 2, "n_heads": 2, "d_model": 16, "d_ffn": 32}
    return tg.models.CustomTransformerWrapper({**config, "position": position, "dropout": 0.1})


@pytest.mark.parametrize("position", ["learned", "sinusoidal", "rotary"])
@pytest.mark.parametrize("how", COPIES)
def test_a_copy_goes_on_as_the_original_would_and_apart_from_it(how: str, position: str) -> None:
    model = tiny(position)
    model.train_step(IDS)
    twin = COPIES[how](model)
    before = {name: values.copy() for name, values in model.state_dict().items()}
    assert twin.flat.holds(twin)
    steps = [twin.train_step(IDS) for _ in range(2)]
    assert all(np.array_equal(model.state_dict()[name], values) for name, values in before.items())
    assert any((twin.state_dict()[name] != values).any() for name, values in before.items())
    assert [model.train_step(IDS) for _ in range(2)] == steps
    assert all(
        np.array_equal(a, b) for a, b in zip(model.state_dict().values(), twin.state_dict().values(), strict=True)
    )


def test_a_copied_layer_without_buffers_gets_none() -> None:
    assert "flat" not in copy.deepcopy(Linear(3, 2)).__dict__
    model = tiny("learned")
    assert "flat" not in copy.deepcopy(model).model.__dict__


@pytest.mark.parametrize(
    "state, message",
    [
        (None, "state must be a dict of arrays by name, got NoneType"),
        ({"weight": np.ones((2, 3)), "bias": np.array(["a", "b"])}, "bias must be an array of real numbers, got <U1"),
        ({"weight": np.ones((2, 3)), "bias": np.ones(2) * 1j}, "bias must be an array of real numbers, got complex128"),
    ],
)
def test_a_state_that_holds_no_numbers_changes_nothing(state: Any, message: str) -> None:
    layer = Linear(3, 2)
    before = layer.weight.data.copy()
    with pytest.raises(DtypeError, match=message):
        layer.load_state_dict(state)
    assert np.array_equal(layer.weight.data, before)


def test_lists_are_loaded_as_arrays() -> None:
    layer = Linear(3, 2)
    layer.load_state_dict({"weight": [[1, 2, 3], [4, 5, 6]], "bias": [7, 8]})
    assert layer.weight.data.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert layer.weight.dtype == np.float32


@pytest.mark.parametrize("dtype", ["float16", "int32", np.int64, np.dtype("float16"), bool])
def test_parameters_are_cast_to_float32_or_float64_alone(dtype: Any) -> None:
    layer = Linear(3, 2)
    with pytest.raises(DtypeError, match=r"Linear\.astype: dtype must be float32 or float64, got (float16|int|bool)"):
        layer.astype(dtype)
    assert layer.weight.dtype == np.float32
    for allowed in ("float64", np.float32, float):
        assert layer.astype(allowed).weight.dtype == np.dtype(allowed)
