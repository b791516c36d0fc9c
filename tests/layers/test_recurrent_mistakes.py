"""Recurrent layers: wrong backwards are found, and a user's mistakes are named."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu import layers
from tinygrad_edu.errors import BackwardError, ConfigError, DeviceError, DtypeError, RangeError, ShapeError
from tinygrad_edu.layers import GRU, LSTM, RNN, LSTMCell, RNNCell, recurrent_ops

# -- negative controls: one change of the text of a backward op each, and a tensor in which it must be found ----------

WRONG = [
    ("RNN", "dh + dy[t]", "dhn + dy[t]", "weight_ih_l0"),  # the gradient does not pass from step to step
    ("RNN", "1 - after[t] * after[t]", "1 - before[t] * before[t]", "weight_ih_l0"),
    ("RNN", "xp.where(here, through, dh)", "through", "weight_ih_l0"),  # the end of a sequence loses its gradient
    ("RNN", "return dx, dh,", "return dx, dh * 0,", "state"),  # the initial state's gradient is missing
    ("RNN", "_weight_hh_gradient(dz, before)", "_weight_hh_gradient(dz, after)", "weight_hh_l0"),
    ("LSTM", "dc_new = dc + dh_new", "dc_new = dh_new", "weight_ih_l0"),  # the cell's own path is missing
    (
        "LSTM",
        "xp.where(here, dc_new * f, dc)",
        "xp.where(here, dc_new, dc)",
        "weight_ih_l0",
    ),  # passes the forget gate unchanged
    ("LSTM", "c_before[t] * f", "c_after[t] * f", "weight_ih_l0"),
    ("LSTM", "(1 - tanh_c * tanh_c)", "1.0", "weight_ih_l0"),
    ("LSTM", "dh_new * tanh_c * o", "dh_new * c_after[t] * o", "weight_ih_l0"),
    ("LSTM", "xp.where(here, through, dh)", "through", "weight_ih_l0"),
    ("LSTM", "xp.where(here, dc_new * f, dc)", "dc_new * f", "weight_ih_l0"),
    ("LSTM", "return dx, dh, dc,", "return dx, dh * 0, dc,", "state[0]"),
    ("LSTM", "return dx, dh, dc,", "return dx, dh, dc * 0,", "state[1]"),
    ("GRU", "dan * r]", "dan]", "weight_hh_l0"),  # the reset gate's term is missing
    ("GRU", "dan * un * r", "dan * n * r", "weight_ih_l0"),
    ("GRU", "(before[t] - n)", "before[t]", "weight_ih_l0"),
    ("GRU", "dnew * z + gemm", "gemm", "weight_ih_l0"),  # what passes through z is missing
    ("GRU", "dbias_hh = du", "dbias_hh = da", "bias_hh_l0"),  # the two biases have different gradients
    ("GRU", "return dx, dh,", "return dx, dh * 0,", "state"),
]


def changed(kind: str, old: str, new: str) -> Callable[..., Any]:
    """The backward op of a kind with one change."""
    text = inspect.getsource(getattr(recurrent_ops, f"{kind.lower()}_backward").reference)
    assert text.count(old) == 1, f"{old!r} is in it {text.count(old)} times"
    scope: dict[str, Any] = dict(vars(recurrent_ops))
    exec(text.replace("@op\n", "").replace(old, new), scope)
    found: Callable[..., Any] = scope[f"{kind.lower()}_backward"]
    return found


def wrong_tensors(kind: str, **change: Any) -> set[str]:
    """What the check finds wrong in a small layer, of both directions, with lengths and a state."""
    base = getattr(layers, kind)
    layer = type(f"Changed{kind}", (base,), {"kind": replace(base.kind, **change)})(2, 3, bidirectional=True)
    rng = np.random.default_rng(0)
    states = tuple(rng.standard_normal((2, 2, 3)) for _ in base.kind.states)
    state = states if len(states) == 2 else states[0]
    report = tg.check.layer(layer, rng.standard_normal((2, 3, 2)), state, np.array([2, 3]), contract=False, seeds=1)
    return {result.label.removeprefix("d") for result in report.tensors if not result.ok}


@pytest.mark.parametrize("kind, old, new, tensor", WRONG, ids=[f"{row[0]} {row[2]}" for row in WRONG])
def test_a_wrong_backward_is_found(kind: str, old: str, new: str, tensor: str) -> None:
    assert tensor in wrong_tensors(kind, backward=changed(kind, old, new))


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_the_right_ones_pass_where_the_wrong_ones_fail(kind: str) -> None:
    assert wrong_tensors(kind) == set()


# -- what a user can get wrong ----------------------------------------------------------------------------------------


def zeros(*shape: int, dtype: Any = "float32") -> Any:
    return np.zeros(shape, dtype=dtype)


CONFIG = [
    (lambda: LSTM(0, 3), "LSTM: input_size must be an integer >= 1, got 0"),
    (lambda: GRU(3, 0), "GRU: hidden_size must be an integer >= 1, got 0"),
    (lambda: GRU(3, -2.0), "GRU: hidden_size must be an integer >= 1, got -2.0"),
    (lambda: RNN(3, 3, num_layers=0), "RNN: num_layers must be an integer >= 1, got 0"),
    (lambda: LSTM(3, 3, dropout=1.5), "LSTM: dropout must be a number in [0, 1), got 1.5"),
    (lambda: LSTM(3, 3, dropout=-0.1), "LSTM: dropout must be a number in [0, 1), got -0.1"),
    (lambda: RNN(3, 3, nonlinearity="sigmoid"), "RNN: nonlinearity must be 'tanh' or 'relu', got 'sigmoid'"),
    (lambda: RNN(3, 3, nonlinearity="rel"), "got 'rel'. Did you mean 'relu'?"),
    (lambda: RNN(3, 3, nonlinearity=None), "RNN: nonlinearity must be 'tanh' or 'relu', got None"),
    (lambda: RNNCell(3, 3, nonlinearity="gelu"), "RNNCell: nonlinearity must be 'tanh' or 'relu', got 'gelu'"),
    (lambda: LSTMCell(3, True), "LSTMCell: hidden_size must be an integer >= 1, got True"),
]


@pytest.mark.parametrize("build, says", CONFIG, ids=[says for _, says in CONFIG])
def test_settings(build: Callable[[], Any], says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        build()


INPUTS = [
    (lambda: LSTM(6, 5)(zeros(2, 3, 7)), ShapeError, "LSTM: expected (batch, time, 6), got (2, 3, 7): the last axis"),
    (lambda: LSTM(6, 5)(zeros(3, 6)), ShapeError, "LSTM: expected (batch, time, 6), got (3, 6)"),
    (lambda: GRU(6, 5, batch_first=False)(zeros(3, 6)), ShapeError, "GRU: expected (time, batch, 6), got (3, 6)"),
    (lambda: GRU(6, 5)(zeros(2, 0, 6)), ShapeError, "GRU: the input has a time of 0, it is (2, 0, 6)"),
    (lambda: GRU(6, 5)(zeros(0, 2, 6)), ShapeError, "GRU: the input has a batch of 0, it is (0, 2, 6)"),
    (lambda: RNN(6, 5)(zeros(2, 3, 6, dtype="int64")), DtypeError, "RNN: expected floating-point numbers, got int64"),
    (lambda: GRU(6, 5)([[0.0] * 6]), DeviceError, "list"),
    (
        lambda: GRU(6, 5)(zeros(2, 3, 6), zeros(2, 5)),
        ShapeError,
        "GRU: the state must be (layers * directions, batch, 5), here (1, 2, 5), got (2, 5)",
    ),
    (
        lambda: GRU(6, 5, num_layers=2, bidirectional=True)(zeros(2, 3, 6), zeros(2, 2, 5)),
        ShapeError,
        "here (4, 2, 5), got (2, 2, 5)",
    ),
    (
        lambda: LSTM(6, 5)(zeros(2, 3, 6), zeros(1, 2, 5)),
        ShapeError,
        "LSTM: the state must be a pair of arrays (h, c), got ndarray",
    ),
    (
        lambda: LSTM(6, 5)(zeros(2, 3, 6), (zeros(1, 2, 5),)),
        ShapeError,
        "LSTM: the state must be a pair of arrays (h, c), got 1 arrays",
    ),
    (
        lambda: LSTM(6, 5)(zeros(2, 3, 6), (zeros(1, 2, 5), zeros(1, 2, 4))),
        ShapeError,
        "LSTM: c of the state must be (layers * directions, batch, 5), here (1, 2, 5), got (1, 2, 4)",
    ),
    (
        lambda: GRU(6, 5)(zeros(2, 3, 6), (zeros(1, 2, 5), zeros(1, 2, 5))),
        DtypeError,
        "GRU: the state must be an array, got tuple",
    ),
    (
        lambda: GRU(6, 5)(zeros(2, 3, 6), zeros(1, 2, 5, dtype="float64")),
        DtypeError,
        "GRU: the state must be float32, as the input is; got float64",
    ),
    (lambda: GRU(6, 5)(zeros(2, 3, 6), None, [3, 4]), RangeError, "GRU: lengths must be in 1 .. 3, the time of the"),
    (lambda: GRU(6, 5)(zeros(2, 3, 6), None, [3, 4]), RangeError, "got 4 for sequence 1"),
    (lambda: GRU(6, 5)(zeros(2, 3, 6), None, [0, 3]), RangeError, "got 0 for sequence 0"),
    (lambda: GRU(6, 5)(zeros(2, 3, 6), None, [3]), ShapeError, "GRU: lengths must be (batch,), here (2,), got (1,)"),
    (lambda: GRU(6, 5)(zeros(2, 3, 6), None, [3.0, 2.0]), DtypeError, "GRU: lengths must be integers, got float64"),
    (lambda: GRU(6, 5)(zeros(2, 3, 6), None, 3), DeviceError, "int"),
    (lambda: RNNCell(6, 5)(zeros(2, 3, 6)), ShapeError, "RNNCell: expected (batch, 6), got (2, 3, 6)"),
    (lambda: RNNCell(6, 5)(zeros(2, 6), zeros(1, 5)), ShapeError, "RNNCell: the state must be (batch, 5), here (2, 5)"),
    (lambda: LSTMCell(6, 5)(zeros(2, 6), zeros(2, 5)), ShapeError, "LSTMCell: the state must be a pair of arrays"),
]


@pytest.mark.parametrize("call, kind, says", INPUTS, ids=[says for *_, says in INPUTS])
def test_inputs(call: Callable[[], Any], kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=re.escape(says)):
        call()


def test_gradients_of_another_shape() -> None:
    layer = LSTM(6, 5, bidirectional=True)
    y, _ = layer(zeros(2, 3, 6))
    with pytest.raises(ShapeError, match=re.escape("LSTM.backward: the gradient of the output must be (2, 3, 10)")):
        layer.backward(y[:, :2])
    layer(zeros(2, 3, 6))
    with pytest.raises(ShapeError, match=re.escape("h of the gradient of the state must be (layers * directions,")):
        layer.backward(y, (zeros(1, 2, 5), None))
    cell = RNNCell(6, 5)
    cell(zeros(2, 6))
    with pytest.raises(ShapeError, match=re.escape("the gradient of the state must be (batch, 5), here (2, 5)")):
        cell.backward(zeros(3, 5))


def test_a_refused_forward_leaves_nothing_behind() -> None:
    layer = GRU(6, 5)
    with pytest.raises(RangeError):
        layer(zeros(2, 3, 6), None, [1, 9])
    with pytest.raises(BackwardError, match="no forward to go back through"):
        layer.backward(zeros(2, 3, 5))


def test_inference_keeps_nothing() -> None:
    layer = LSTM(6, 5, num_layers=2)
    with tg.inference():
        y, _ = layer(zeros(2, 3, 6))
    with pytest.raises(BackwardError):
        layer.backward(y)


def test_a_state_of_another_kind_of_layer_does_not_load() -> None:
    with pytest.raises(ShapeError) as error:
        LSTM(6, 5).load_state_dict(GRU(6, 5, num_layers=2).state_dict())
    for line in ("misshapen: weight_ih_l0 expected (20, 6), got (15, 6)", "unexpected: weight_ih_l1"):
        assert line in str(error.value)
