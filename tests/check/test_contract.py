"""Each promise of the contract, broken on purpose, is found and named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu import check, layers
from tinygrad_edu.check.contract import LAYER_PROMISES, adjoint_error
from tinygrad_edu.check.subject import OpSubject
from tinygrad_edu.errors import BackwardError


class _Tanh(layers.Tanh):
    """Right, and a place to break one promise at a time."""


class ChangesInput(_Tanh):
    def forward(self, x: Any) -> Any:
        y = super().forward(x)
        x *= 0.5
        return y


class ChangesUpstream(_Tanh):
    def backward(self, dy: Any) -> Any:
        y = self.saved()
        dy *= 1 - y * y
        return dy


class ChangesOutput(_Tanh):
    def backward(self, dy: Any) -> Any:
        y = self.saved()
        dx = dy * (1 - y * y)
        y *= 0
        return dx


class KeepsInAttribute(_Tanh):
    """The textbook way of most courses: one place for what forward saved."""

    def forward(self, x: Any) -> Any:
        self.y = np.tanh(x)
        return self.y

    def backward(self, dy: Any) -> Any:
        return dy * (1 - self.y**2)


class Queue(_Tanh):
    """First in, first out: right as long as forward runs once."""

    def backward(self, dy: Any) -> Any:
        return dy * (1 - self._saved.pop(0)[0] ** 2) if self._saved else self.saved()


class OverwritesGradient(layers.LearnedPositions):
    def backward(self, dy: Any) -> Any:
        start, length = self.saved()
        self.weight.grad[start : start + length] = dy.sum(axis=0)
        return dy


class LeavesBehind(_Tanh):
    def forward(self, x: Any) -> Any:
        self.save(x)
        return super().forward(x)


class RaisesAnother(_Tanh):
    def backward(self, dy: Any) -> Any:
        y = self._saved.pop()[0]  # IndexError where there is none
        return dy * (1 - y * y)


class SavesUnderInference(_Tanh):
    def forward(self, x: Any) -> Any:
        y = np.tanh(x)
        self._saved.append((y,))
        return y


class OtherUnderInference(_Tanh):
    def forward(self, x: Any) -> Any:
        y = super().forward(x)
        return y * 1.01 if tg.backend.is_inference() else y


class NoisyInEvaluation(layers.Dropout):
    def forward(self, x: Any) -> Any:
        seed = self.generator.draw_seed()
        self.save(seed)
        return self.apply(x, seed)


class WrongInEvaluation(layers.Dropout):
    def backward(self, dy: Any) -> Any:
        return super().backward(dy) * (1 if self.training else 2)


class KeepsChildTraining(layers.Sequential):
    def train(self, mode: bool = True) -> Any:
        self.training = mode
        return self


class ForgetsState(layers.Linear):
    def load_state_dict(self, state: dict[str, Any], strict: bool = True) -> None:
        super().load_state_dict({**state, "bias": state["bias"] * 0}, strict)


class Promotes(_Tanh):
    def backward(self, dy: Any) -> Any:
        return super().backward(dy) * np.float64(1)


class Unstable(_Tanh):
    """x + 1 - 1: nothing in float64, digits lost in float32."""

    def forward(self, x: Any) -> Any:
        self.save(x)
        return ((x + 30000.0) - 30000.0) * 2

    def backward(self, dy: Any) -> Any:
        self.saved()
        return dy * 2


class MixesExamples(_Tanh):
    def forward(self, x: Any) -> Any:
        return x - x.mean(axis=0)

    def backward(self, dy: Any) -> Any:
        return dy - dy.mean(axis=0)


X = np.random.default_rng(0).normal(size=(3, 4, 6))

BROKEN = [
    (ChangesInput(), "inputs unchanged", "forward changed x in place"),
    (ChangesUpstream(), "inputs unchanged", "backward changed the gradient it was given in place"),
    (ChangesOutput(), "inputs unchanged", "backward changed its own output in place"),
    (KeepsInAttribute(), "a stack", "is wrong when forward runs twice before backward; keep values with self.save"),
    (KeepsInAttribute(), "one backward a forward", "a second backward on one forward raised nothing"),
    (Queue(), "a stack", "the gradient of x is wrong when forward runs twice before backward"),
    (OverwritesGradient(9, 6), "gradients accumulate", "the gradient of weight did not double after a second pass"),
    (LeavesBehind(), "one backward a forward", "backward left saved values behind in the layer itself: memory grows"),
    (RaisesAnother(), "one backward a forward", "a second backward raised IndexError where BackwardError is wanted"),
    (SavesUnderInference(), "inference keeps nothing", "values were saved under inference() in the layer itself"),
    (NoisyInEvaluation(0.5), "train and eval", "two forwards after eval() differ: noise belongs to training alone"),
    (WrongInEvaluation(0.5), "train and eval", "the gradient is right in training and wrong after eval()"),
    (KeepsChildTraining(layers.Dropout(0.5)), "train and eval", "eval() did not reach every layer below"),
    (ForgetsState(6, 5), "state_dict", "bias is another after state_dict() and load_state_dict()"),
    (Promotes(), "float32", "backward gave float64 for float32: a NumPy float64 scalar or array promotes it"),
    (Unstable(), "float32", "an unstable formula?"),
    (
        MixesExamples(),
        "examples are independent",
        "the output for example 0 depends on the other examples of its batch",
    ),
]


@pytest.mark.parametrize(
    "layer, promise, says", BROKEN, ids=lambda value: type(value).__name__ if isinstance(value, layers.Layer) else None
)
def test_a_broken_promise_is_named(layer: layers.Layer, promise: str, says: str) -> None:
    report = check.layer(layer, X, batched=True)
    broken = {finding.name: finding.message for finding in report.findings if not finding.ok}
    assert says in broken[promise]
    assert not report.ok
    assert f"contract BROKEN: {', '.join(broken)}" in " ".join(str(report).split())
    with pytest.raises(check.GradientError, match="contract BROKEN"):
        report.raise_if_wrong()


def test_the_output_must_be_the_same_under_inference() -> None:
    """Numeric derivatives run under inference(), so there the gradient is wrong as well."""
    report = check.layer(OtherUnderInference(), X)
    assert "inference keeps nothing" in [finding.name for finding in report.findings if not finding.ok]


def test_every_promise_has_a_control() -> None:
    assert {promise for _, promise, _ in BROKEN} == {*LAYER_PROMISES, "examples are independent"}


def test_a_right_layer_keeps_all_promises() -> None:
    report = check.layer(layers.Tanh(), X, batched=True)
    assert report.ok
    assert [finding.name for finding in report.findings] == [*LAYER_PROMISES, "examples are independent"]


def test_contract_can_be_left_out() -> None:
    report = check.layer(KeepsInAttribute(), X, contract=False)
    assert report.ok
    assert not report.findings


def test_an_op_that_changes_its_input_is_found() -> None:
    def double(x: Any) -> Any:
        x *= 2
        return x

    report = check.op(double, lambda dy: 2 * dy, X)
    assert [f.message for f in report.findings if not f.ok] == [
        "forward changed x in place; compute into a new array instead"
    ]


def test_the_adjoint_of_a_wrong_backward_is_found() -> None:
    matrix = np.random.default_rng(1).normal(size=(6, 6))
    right = OpSubject(lambda x: x @ matrix, lambda dy: dy @ matrix.T, (X,), {})
    wrong = OpSubject(lambda x: x @ matrix, lambda dy: dy @ matrix, (X,), {})
    assert adjoint_error(right, "x", np.random.default_rng(0)) < 1e-14
    assert adjoint_error(wrong, "x", np.random.default_rng(0)) > 1e-3


def test_the_layer_itself_is_left_as_it_is() -> None:
    layer = layers.Sequential(layers.Linear(6, 6), layers.Dropout(0.5))
    layer(X.astype("float32"))
    saved, state = len(layer[0]._saved), {name: value.copy() for name, value in layer.state_dict().items()}
    noise = next(layer.generators()).get_state()
    default = tg.backend.default_generator().get_state()
    check.layer(layer, X).raise_if_wrong()
    assert len(layer[0]._saved) == saved
    assert all(np.array_equal(value, state[name]) for name, value in layer.state_dict().items())
    assert next(layer.parameters()).dtype == np.float32
    assert next(layer.generators()).get_state() == noise
    assert tg.backend.default_generator().get_state() == default


def test_backward_without_forward_says_so() -> None:
    with pytest.raises(BackwardError, match="Tanh.backward: no forward to go back through"):
        layers.Tanh().backward(X)
