"""Recurrent layers: carried states, lengths, both directions. Each row's gradients and torch are in test_table.py."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu import layers
from tinygrad_edu.backend import Generator
from tinygrad_edu.check.subject import to_list

KINDS = ("RNN", "LSTM", "GRU")
each_kind = pytest.mark.parametrize("kind", KINDS)
BATCH, TIME, INPUTS, WIDTH = 4, 9, 6, 5


def build(kind: str, dtype: str = "float64", **settings: Any) -> Any:
    return getattr(layers, kind)(INPUTS, WIDTH, generator=Generator(3), **settings).astype(dtype)


def normal(*shape: int, seed: int = 0, dtype: str = "float64") -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def state_of(kind: str, places: int = 1, batch: int = BATCH, seed: int = 5) -> Any:
    arrays = tuple(normal(places, batch, WIDTH, seed=seed + i) for i in range(2 if kind == "LSTM" else 1))
    return arrays if kind == "LSTM" else arrays[0]


def gradients(layer: Any) -> dict[str, np.ndarray]:
    return {name: parameter.grad.copy() for name, parameter in layer.named_parameters()}


def close(found: Any, wanted: Any, rtol: float = 1e-10) -> None:
    for a, b in zip(to_list(found), to_list(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-13)


# -- carried states -----------------------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("cuts", [(4,), (1, 2, 8), tuple(range(1, TIME))], ids=["two", "uneven", "step by step"])
def test_chunks_with_a_carried_state_are_the_whole(kind: str, cuts: tuple[int, ...]) -> None:
    """Forward; and backward too, when the gradient of the state is carried back over the cuts."""
    layer, x, dy = build(kind, num_layers=2), normal(BATCH, TIME, INPUTS), normal(BATCH, TIME, WIDTH, seed=1)
    state, dstate = state_of(kind, 2), state_of(kind, 2, seed=9)
    y, final = layer(x, state)
    dx, dstate0 = layer.backward(dy, dstate)
    wanted = gradients(layer)
    layer.zero_grad()
    bounds = list(zip((0, *cuts), (*cuts, TIME), strict=True))
    outputs = []
    for begin, end in bounds:
        part, state = layer(x[:, begin:end], state)
        outputs.append(part)
    close((np.concatenate(outputs, axis=1), state), (y, final))
    parts = []
    for begin, end in reversed(bounds):
        part, dstate = layer.backward(dy[:, begin:end], dstate)
        parts.append(part)
    close((np.concatenate(parts[::-1], axis=1), dstate), (dx, dstate0))
    for name, gradient in gradients(layer).items():
        np.testing.assert_allclose(gradient, wanted[name], rtol=1e-10, atol=1e-13, err_msg=name)


@each_kind
def test_truncation_leaves_out_what_crosses_the_cut_and_nothing_else(kind: str) -> None:
    layer, x, dy = build(kind), normal(BATCH, TIME, INPUTS), normal(BATCH, TIME, WIDTH, seed=1)
    first, second, dfirst, dsecond = x[:, :4], x[:, 4:], dy[:, :4], dy[:, 4:]
    layer(x)
    layer.backward(dy)
    whole = gradients(layer)
    layer.zero_grad()
    _, carried = layer(first)
    layer(second, carried)
    _, crossing = layer.backward(dsecond)
    layer.backward(dfirst)  # the gradient of the carried state is not given on: here it is cut
    truncated = gradients(layer)
    layer.zero_grad()
    layer(first)
    layer.backward(None, crossing)
    for name, gradient in gradients(layer).items():
        np.testing.assert_allclose(truncated[name] + gradient, whole[name], rtol=1e-10, atol=1e-13, err_msg=name)
        assert np.abs(gradient).max() > 1e-3 * np.abs(whole[name]).max(), "nothing crossed: the test shows nothing"


@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "textbook"])
@each_kind
def test_a_carried_state_does_not_keep_its_sequence_alive(kind: str, kernels: bool) -> None:
    layer = build(kind, "float32")
    with tg.inference():
        if kernels:
            _, state = layer(normal(BATCH, TIME, INPUTS, dtype="float32"))
        else:
            with tg.reference_ops():
                _, state = layer(normal(BATCH, TIME, INPUTS, dtype="float32"))
    assert all(array.base is None or array.base.size == array.size for array in to_list(state))


@each_kind
def test_cells_step_by_step_are_the_layer(kind: str) -> None:
    layer, cell = build(kind), getattr(layers, f"{kind}Cell")(INPUTS, WIDTH).astype("float64")
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in layer.state_dict().items()})
    x, dy = normal(BATCH, TIME, INPUTS), normal(BATCH, TIME, WIDTH, seed=1)
    y, _ = layer(x)
    dx = layer.backward(dy)
    state = None
    for t in range(TIME):
        state = cell(x[:, t], state)
        close(to_list(state)[0], y[:, t])
    parts, dstate = [], [np.zeros((BATCH, WIDTH))] * (2 if kind == "LSTM" else 1)
    for t in reversed(range(TIME)):
        dstate[0] = dstate[0] + dy[:, t]
        found = cell.backward(*dstate)
        part, carried = found if t else (found, None)  # the first step was given no state
        parts.append(part)
        dstate = list(carried) if isinstance(carried, tuple) else [carried]
    close(np.stack(parts[::-1], axis=1), dx)
    for name, gradient in gradients(cell).items():
        close(gradient, gradients(layer)[f"{name}_l0"])


# -- sequences of a batch -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@each_kind
def test_each_sequence_is_read_as_if_it_were_alone(kind: str, dtype: str) -> None:
    """Of a batch with padding: outputs, final states and gradients of x are those without batch and padding."""
    rtol = 1e-10 if dtype == "float64" else 2e-5
    layer = build(kind, dtype, num_layers=2, bidirectional=True)
    lengths = np.array([3, TIME, 1, 5])
    x, dy = normal(BATCH, TIME, INPUTS, dtype=dtype), normal(BATCH, TIME, 2 * WIDTH, seed=1, dtype=dtype)
    state, dstate = (tuple(array.astype(dtype) for array in to_list(state_of(kind, 4, seed=seed))) for seed in (5, 9))

    def form(arrays: Any) -> Any:
        return tuple(arrays) if kind == "LSTM" else arrays[0]

    y, final = layer(x, form(state), lengths)
    dx, dinitial = layer.backward(dy, form(dstate))
    whole = gradients(layer)
    layer.zero_grad()
    for b, length in enumerate(lengths):
        one = slice(b, b + 1)
        y_alone, final_alone = layer(x[one, :length], form([array[:, one] for array in state]))
        dx_alone, dinitial_alone = layer.backward(dy[one, :length], form([array[:, one] for array in dstate]))
        np.testing.assert_allclose(y[one, :length], y_alone, rtol=rtol, atol=rtol)
        np.testing.assert_allclose(dx[one, :length], dx_alone, rtol=rtol, atol=rtol)
        for found, alone in zip(
            [*to_list(final), *to_list(dinitial)], [*to_list(final_alone), *to_list(dinitial_alone)], strict=True
        ):
            np.testing.assert_allclose(found[:, one], alone, rtol=rtol, atol=rtol)
        assert not y[b, length:].any() and not dx[b, length:].any()
    for name, gradient in gradients(layer).items():
        np.testing.assert_allclose(gradient, whole[name], rtol=10 * rtol, atol=10 * rtol, err_msg=name)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@each_kind
def test_what_stands_in_the_padding_reaches_nothing(kind: str, dtype: str) -> None:
    layer = build(kind, dtype, num_layers=2, bidirectional=True)
    lengths = np.array([3, TIME, 1, 5])
    x, dy = normal(BATCH, TIME, INPUTS, dtype=dtype), normal(BATCH, TIME, 2 * WIDTH, seed=1, dtype=dtype)
    padding = np.arange(TIME) >= lengths[:, None]
    results = []
    for value in (0.0, np.nan):
        x[padding], dy[padding] = value, value
        layer.zero_grad()
        y, final = layer(x, None, lengths)
        results.append([y, *to_list(final), layer.backward(dy), *gradients(layer).values()])
    for clean, with_nan in zip(*results, strict=True):
        assert np.isfinite(clean).all()
        np.testing.assert_array_equal(with_nan, clean)


@each_kind
def test_full_lengths_are_no_lengths(kind: str) -> None:
    layer, x = build(kind, bidirectional=True), normal(BATCH, TIME, INPUTS)
    plain, final = layer(x)
    for lengths in ([TIME] * BATCH, (TIME,) * BATCH, np.full(BATCH, TIME, dtype="int32"), np.full(BATCH, TIME, "u1")):
        y, state = layer(x, None, lengths)
        np.testing.assert_array_equal(y, plain)
        close(state, final)


@each_kind
def test_without_batch_first_only_the_axes_are_turned(kind: str) -> None:
    first, second = build(kind, bidirectional=True), build(kind, bidirectional=True, batch_first=False)
    second.load_state_dict(first.state_dict())
    x, dy, lengths = normal(BATCH, TIME, INPUTS), normal(BATCH, TIME, 2 * WIDTH, seed=1), [2, TIME, 4, 1]
    y, final = first(x, None, lengths)
    turned, final_turned = second(x.swapaxes(0, 1).copy(), None, lengths)
    close((turned.swapaxes(0, 1), final_turned), (y, final))
    close(second.backward(dy.swapaxes(0, 1).copy()).swapaxes(0, 1), first.backward(dy))


# -- the rest of the contract ---------------------------------------------------------------------------------------


@each_kind
def test_only_the_state_may_have_a_gradient_or_only_the_output(kind: str) -> None:
    layer, x, dy, dstate = build(kind), normal(BATCH, TIME, INPUTS), normal(BATCH, TIME, WIDTH), state_of(kind)
    parts = []
    for given in ((dy, dstate), (dy, None), (None, dstate)):
        layer.zero_grad()
        layer(x)
        parts.append([layer.backward(*given), *gradients(layer).values()])
    for both, output, state in zip(*parts, strict=True):
        np.testing.assert_allclose(output + state, both, rtol=1e-10, atol=1e-13)


def test_the_gradient_of_an_lstm_s_cell_alone() -> None:
    layer, x, (dh, dc) = build("LSTM"), normal(BATCH, TIME, INPUTS), state_of("LSTM")
    found = []
    for dstate in ((dh, dc), (dh, None), (None, dc)):
        layer(x)
        found.append(layer.backward(None, dstate))
    np.testing.assert_allclose(found[1] + found[2], found[0], rtol=1e-10, atol=1e-13)


@each_kind
def test_names_shapes_and_order_of_the_parameters_are_torch_s(kind: str) -> None:
    torch = pytest.importorskip("torch")
    for settings in ({}, {"num_layers": 3, "bidirectional": True}, {"bias": False}):
        twin = getattr(torch.nn, kind)(INPUTS, WIDTH, **settings)
        wanted = [(name, tuple(parameter.shape)) for name, parameter in twin.named_parameters()]
        assert [(name, parameter.shape) for name, parameter in build(kind, **settings).named_parameters()] == wanted
        layer = build(kind, "float32", **settings)
        layer.load_state_dict(twin.state_dict())
        x = normal(BATCH, TIME, INPUTS, dtype="float32")
        twin.batch_first = True
        np.testing.assert_allclose(layer(x)[0], twin(torch.from_numpy(x))[0].detach(), rtol=1e-5, atol=1e-5)


@each_kind
def test_initial_weights(kind: str) -> None:
    layer = getattr(layers, kind)(40, 100, generator=Generator(0))
    for name, parameter in layer.named_parameters():
        assert np.abs(parameter.data).max() <= 0.1, name
        assert abs(parameter.data.std() - 0.1 / np.sqrt(3)) < 0.01, name
    again = getattr(layers, kind)(40, 100, generator=Generator(0))
    np.testing.assert_array_equal(again.weight_hh_l0.data, layer.weight_hh_l0.data)


@each_kind
def test_dropout_is_between_the_layers_and_only_while_training(kind: str) -> None:
    x = normal(BATCH, TIME, INPUTS)
    one = build(kind, dropout=0.9)
    np.testing.assert_array_equal(one(x)[0], one(x)[0])  # one layer has no between
    two = build(kind, num_layers=2, dropout=0.5)
    assert np.abs(two(x)[0] - two(x)[0]).max() > 0.01
    close(to_list(two(x)[1])[0][0], to_list(two(x)[1])[0][0])  # the first layer's state comes before it
    two.eval()
    np.testing.assert_array_equal(two(x)[0], two(x)[0])
    plain = build(kind, num_layers=2)
    plain.load_state_dict(two.state_dict())
    close(two(x), plain(x))


@each_kind
def test_copies_and_flat_buffers(kind: str) -> None:
    layer, x, dy = build(kind, num_layers=2), normal(BATCH, TIME, INPUTS), normal(BATCH, TIME, WIDTH)
    layer(x)
    layer.backward(dy)
    flat = copy.deepcopy(layer).flatten()
    flat.zero_grad()
    flat(x)
    flat.backward(dy)
    for name, gradient in gradients(flat).items():
        np.testing.assert_array_equal(gradient, gradients(layer)[name])


@each_kind
def test_a_layer_says_what_it_is(kind: str) -> None:
    assert repr(build(kind)) == f"{kind}(6, 5)"
    layer = build(kind, num_layers=2, dropout=0.1, bidirectional=True, batch_first=False, bias=False)
    assert repr(layer) == (
        f"{kind}(6, 5, num_layers=2, bias=False, batch_first=False, dropout=0.1, bidirectional=True)"
    )
    assert repr(layers.RNN(6, 5, nonlinearity="relu")) == "RNN(6, 5, nonlinearity='relu')"
    assert repr(getattr(layers, f"{kind}Cell")(6, 5, bias=False)) == f"{kind}Cell(6, 5, bias=False)"


# -- float32, where the kernels run ---------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("lengths", [False, True], ids=["full", "lengths"])
def test_float32_beside_torch(kind: str, lengths: bool) -> None:
    torch = pytest.importorskip("torch")
    from tinygrad_edu.check import twins

    settings: dict[str, Any] = {"num_layers": 2, "bidirectional": True}
    twin, call = twins.recurrent(kind, 33, 47, **settings)()
    layer = getattr(layers, kind)(33, 47, **settings)
    layer.load_state_dict(twin.state_dict())
    x, dy = normal(13, 21, 33, dtype="float32"), normal(13, 21, 94, dtype="float32")
    states = [normal(4, 13, 47, seed=i, dtype="float32") for i in range(2 if kind == "LSTM" else 1)]
    ends = np.random.default_rng(0).integers(1, 22, 13) if lengths else None
    leaves = [torch.from_numpy(array).requires_grad_() for array in (x, *states)]
    given = tuple(leaves[1:]) if kind == "LSTM" else leaves[1]
    y, final = call(twin, leaves[0], given, None if ends is None else torch.from_numpy(ends))
    y_ours, final_ours = layer(x, tuple(states) if kind == "LSTM" else states[0], ends)
    torch.testing.assert_close(torch.from_numpy(np.ascontiguousarray(y_ours)), y)
    for ours, theirs in zip(to_list(final_ours), to_list(final), strict=True):
        torch.testing.assert_close(torch.from_numpy(ours), theirs)
    y.backward(torch.from_numpy(dy))
    found = to_list(layer.backward(dy))
    names = [*map(str, range(len(found))), *dict(layer.named_parameters())]
    wanted = [*(leaf.grad for leaf in leaves), *(parameter.grad for parameter in twin.parameters())]
    for name, ours, theirs in zip(names, [*found, *gradients(layer).values()], wanted, strict=True):
        size = float(theirs.abs().max())  # sums over 273 steps round by the size of the largest
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5, atol=1e-5 * max(1.0, size), err_msg=name)


@each_kind
@pytest.mark.parametrize("size", [1e-30, 1e4, 1e30])
def test_extreme_inputs_saturate_and_do_not_break(kind: str, size: float) -> None:
    layer, x = build(kind, "float32"), normal(BATCH, TIME, INPUTS, dtype="float32") * np.float32(size)
    y, final = layer(x)
    with tg.reference_ops():
        wanted, final_wanted = layer(x)
    assert all(np.isfinite(array).all() for array in (y, *to_list(final)))
    for found, right in zip((y, *to_list(final)), (wanted, *to_list(final_wanted)), strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-6)
    assert np.isfinite(layer.backward(np.ones_like(y))).all()


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@each_kind
def test_nan_is_not_hidden(kind: str, nonlinearity: str) -> None:
    """A NaN in one sequence is in all its later states, and in no other sequence."""
    layer = build(kind, "float32", **({"nonlinearity": nonlinearity} if kind == "RNN" else {}))
    x = normal(BATCH, TIME, INPUTS, dtype="float32")
    x[1, 3, 2] = np.nan
    y, final = layer(x)
    assert np.isnan(y[1, 3:]).all() and np.isfinite(y[1, :3]).all() and np.isfinite(y[[0, 2, 3]]).all()
    assert all(np.isnan(array[0, 1]).all() for array in to_list(final))


@each_kind
def test_outputs_do_not_depend_on_the_number_of_threads(kind: str) -> None:
    numba = pytest.importorskip("numba")
    layer = getattr(layers, kind)(40, 70, bidirectional=True, generator=Generator(0))
    x, lengths = normal(21, 30, 40, dtype="float32"), np.random.default_rng(0).integers(1, 31, 21)
    before = numba.get_num_threads()
    results = []
    try:
        for threads in {1, before}:
            numba.set_num_threads(threads)
            y, final = layer(x, None, lengths)
            results.append((y, *to_list(final), layer.backward(y)))
    finally:
        numba.set_num_threads(before)
    for left, right in zip(results[0], results[-1], strict=True):
        np.testing.assert_array_equal(left, right)
