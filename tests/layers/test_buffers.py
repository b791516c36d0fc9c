"""Buffers: state of a layer that is not learned, wherever parameters go."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu.backend import outline, to_host
from tinygrad_edu.check import contract
from tinygrad_edu.check.subject import LayerSubject
from tinygrad_edu.errors import BackwardError, CheckpointError, ConfigError, DtypeError, ShapeError
from tinygrad_edu.layers import Buffer, Layer, Linear, Parameter, Sequential, checkpoint_backward, checkpoint_forward
from tinygrad_edu.optim import AdamW, ExponentialMovingAverage
from tinygrad_edu.storage import load_checkpoint, save_checkpoint

X = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")


class Counting(Layer):
    """Adds how often it has run in training: its output depends on its buffers, its backward does not."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.count = Buffer(tg.backend.zeros(dtype="int64"))
        self.total = Buffer(tg.backend.zeros(width))
        self.weight = Parameter(tg.backend.ones(width))

    def forward(self, x: Any) -> Any:
        if self.training:
            self.count.data += 1
            self.total.data += x.mean(axis=0)
        self.save(x)
        return (x + self.total.data * float(self.count.data)) * self.weight.data

    def backward(self, dy: Any) -> Any:
        x = self.saved()
        self.weight.accumulate((dy * x).sum(axis=0))
        return dy * self.weight.data


def model() -> Sequential:
    return Sequential(Linear(3, 3, generator=tg.backend.Generator(1)), Counting(), Linear(3, 2, bias=False))


def values(layer: Layer) -> dict[str, np.ndarray]:
    return {name: np.array(to_host(array)) for name, array in layer.state_dict().items()}


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype and np.array_equal(a[name], b[name]) for name in a
    )


def test_names_are_torchs_and_in_its_order() -> None:
    assert list(model().state_dict()) == ["0.weight", "0.bias", "1.weight", "1.count", "1.total", "2.weight"]
    assert [name for name, _ in model().named_buffers()] == ["1.count", "1.total"]
    assert [name for name, _ in model().named_parameters()] == ["0.weight", "0.bias", "1.weight", "2.weight"]
    assert model().num_parameters() == 9 + 3 + 3 + 6
    assert repr(Counting().count) == "Buffer((), int64)"


def test_assigning_replaces_registers_anew_or_is_refused() -> None:
    layer = Counting()
    with pytest.raises(ConfigError, match=r"Counting\.total is a buffer: give a Buffer, .*got ndarray"):
        layer.total = np.zeros(3)  # type: ignore[assignment]
    layer.total = Parameter(tg.backend.zeros(3))  # type: ignore[assignment]
    assert list(layer.state_dict()) == ["weight", "total", "count"]
    layer.count = None  # type: ignore[assignment]
    del layer.total
    assert list(layer.state_dict()) == ["weight"]

    class Early(Layer):
        def __init__(self) -> None:
            self.count = Buffer(tg.backend.zeros(1))
            super().__init__()

    with pytest.raises(BackwardError, match=r"call super\(\)\.__init__\(\) first"):
        Early()


def test_a_shared_buffer_is_named_once() -> None:
    first, second = Counting(), Counting()
    second.total = first.total
    assert list(Sequential(first, second).state_dict()) == [
        "0.weight", "0.count", "0.total", "1.weight", "1.count",
    ]  # fmt: skip


def test_astype_casts_floats_alone_and_loses_nothing() -> None:
    layer = model()
    layer(X)
    before = values(layer)
    layer.astype("float64")
    assert {name: array.dtype.name for name, array in layer.state_dict().items()} == {
        **dict.fromkeys(before, "float64"), "1.count": "int64",
    }  # fmt: skip
    assert same(values(layer.astype("float32")), before)


def test_flatten_leaves_them_apart_and_the_optimizer_does_not_see_them() -> None:
    layer = model().flatten()
    assert layer.flat.holds(layer) and not any("count" in name or "total" in name for name in layer.flat.slices)
    optimizer = AdamW(layer, lr=0.1)
    layer(X)
    layer.backward(np.ones((4, 2), "float32"))
    before = layer[1].total.data.copy()
    optimizer.step()
    assert np.array_equal(layer[1].total.data, before) and not any("total" in run for run in optimizer.runs()[0].names)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_have_their_own(how: Callable[[Any], Any]) -> None:
    layer = model()
    layer(X)
    layer.clear_saved()
    twin = how(layer)
    assert same(values(twin), values(layer))
    twin(X)
    assert int(layer[1].count.data) == 1 and int(twin[1].count.data) == 2


def test_an_outline_has_them() -> None:
    with outline():
        layer = model().astype("float64")
    assert layer[1].total.dtype == np.float64 and layer[1].count.data.shape == ()


def test_loading_lists_all_that_does_not_fit() -> None:
    state = values(model())
    del state["1.count"]
    state["1.total"] = np.zeros(4, "float32")
    state["1.totl"] = np.zeros(3, "float32")
    layer = model()
    with pytest.raises(ShapeError) as found:
        layer.load_state_dict(state)
    message = str(found.value)
    assert "missing: 1.count ()" in message and "misshapen: 1.total expected (3,), got (4,)" in message
    assert "unexpected: 1.totl" in message and "1.total" in message
    layer.load_state_dict({"1.total": np.full(3, 2.0)}, strict=False)
    assert layer[1].total.data.tolist() == [2, 2, 2] and layer[1].total.dtype == np.float32


def test_an_integer_takes_whole_numbers_alone() -> None:
    layer, state = model(), values(model())
    with pytest.raises(DtypeError, match=r"1\.count must be whole numbers \(int64\), got 1\.5"):
        layer.load_state_dict(state | {"1.count": np.float32(1.5)})
    layer.load_state_dict(state | {"1.count": np.float32(7)})  # torch's half() casts it too
    assert layer[1].count.data == 7 and layer[1].count.dtype == np.int64


def test_files_keep_them(tmp_path: Path) -> None:
    layer = model()
    layer(X)
    save_checkpoint(tmp_path, 1, {"model": layer.state_dict()})
    other = model()
    other.load_state_dict(load_checkpoint(tmp_path).arrays["model"])
    assert same(values(other), values(layer))


def test_checkpointing_takes_each_batch_in_once_and_computes_the_same_again() -> None:
    plain, checkpointed = model(), model()
    checkpointed.load_state_dict(plain.state_dict())
    dys = [np.full((4, 2), n + 1, "float32") for n in range(2)]
    for layer, forward, backward in (
        (plain, Layer.__call__, lambda layer, dy: layer.backward(dy)),
        (checkpointed, checkpoint_forward, checkpoint_backward),
    ):
        for n in range(2):  # twice before the first backward
            forward(layer, X * (n + 1))
        for dy in reversed(dys):
            backward(layer, dy)
    assert same(values(checkpointed), values(plain)) and int(checkpointed[1].count.data) == 2
    for (name, mine), (_, theirs) in zip(checkpointed.named_parameters(), plain.named_parameters(), strict=True):
        np.testing.assert_array_equal(mine.grad, theirs.grad, err_msg=name)


@pytest.mark.parametrize("flat", [False, True])
def test_averaged_weights_go_with_the_buffers_as_they_are(flat: bool) -> None:
    layer = model().flatten() if flat else model()
    average = ExponentialMovingAverage(layer, 0.5)
    layer(X)
    layer.clear_saved()
    layer[0].weight.data[...] += 1
    average.update()
    state = average.state_dict()["arrays"]
    assert state.keys() == layer.state_dict().keys()
    assert np.array_equal(state["1.total"], layer[1].total.data) and int(state["1.count"]) == 1
    assert not np.array_equal(state["0.weight"], layer[0].weight.data)
    other = model()
    before = values(other)
    with average.applied(other):
        assert same(values(other), {name: np.array(array) for name, array in state.items()})
    assert same(values(other), before)
    again = ExponentialMovingAverage(other, 0.5)
    again.load_state_dict(average.state_dict())
    np.testing.assert_array_equal(again.state_dict()["arrays"]["0.weight"], state["0.weight"])
    assert same(values(other), before)  # the buffers are loaded with the model, not with its average
    with pytest.raises(CheckpointError, match=r"unexpected: 1\.nothing"):
        again.load_state_dict({"updates": 1, "arrays": state | {"1.nothing": np.zeros(1)}})


class ChangedByBackward(Counting):
    def backward(self, dy: Any) -> Any:
        self.count.data += 1
        return super().backward(dy)


class ChangedInEvaluation(Counting):
    def forward(self, x: Any) -> Any:
        self.total.data += 1
        return super().forward(x)


@pytest.mark.parametrize(
    "layer, promise, says",
    [
        (ChangedByBackward(), contract._inputs_unchanged, "backward changed count in place"),
        (ChangedInEvaluation(), contract._evaluation, "two forwards after eval|forward after eval\\(\\) changed total"),
    ],
)
def test_a_layer_that_changes_buffers_when_it_may_not_is_found(layer: Layer, promise: Any, says: str) -> None:
    subject = LayerSubject(layer, (X,), {})
    with pytest.raises(contract.BrokenPromise, match=says):
        promise(subject, [np.ones((4, 3))])
