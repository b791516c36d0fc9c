"""What check.layer, check.op and check.loss take, what their reports say, and how they look."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu import check, layers, losses
from tinygrad_edu.check import numeric
from tinygrad_edu.check.diagnose import Context, explain
from tinygrad_edu.errors import ConfigError, DeviceError, ShapeError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 4, 6))


class HalfGradient(layers.Tanh):
    def backward(self, dy: Any) -> Any:
        return super().backward(dy) * 0.5


def test_a_right_layer() -> None:
    report = check.layer(layers.LayerNorm(6), X)
    assert report.ok
    assert report.first_wrong is None
    assert [(t.name, t.kind, t.shape) for t in report.tensors] == [
        ("y", "output", (3, 4, 6)),
        ("weight", "parameter", (6,)),
        ("bias", "parameter", (6,)),
        ("x", "input", (3, 4, 6)),
    ]
    for tensor in report.tensors[1:]:
        assert tensor.yours == pytest.approx(tensor.numeric, rel=1e-7)
        assert tensor.torch is None
    assert report.error < 1e-9
    assert report.raise_if_wrong() is report
    assert str(report).splitlines()[0] == "LayerNorm   forward ok   backward ok"


def test_the_three_columns_agree_with_torch() -> None:
    torch = pytest.importorskip("torch")
    report = check.layer(layers.LayerNorm(6), X, torch=torch.nn.LayerNorm(6))
    for tensor in report.tensors[1:]:
        assert tensor.torch == pytest.approx(tensor.yours, rel=1e-10)


def test_torch_is_not_imported_without_a_twin() -> None:
    import subprocess
    import sys

    code = (
        "import sys, numpy as np, tinygrad_edu as tg; assert tg.check.layer(tg.layers.Tanh(), np.ones((2, 3))).ok; "
        "import tinygrad_edu.check.cases, tinygrad_edu.check.op_cases; assert 'torch' not in sys.modules; print('fine')"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "fine\n"


def test_a_wrong_layer_in_a_terminal_and_a_notebook() -> None:
    report = check.layer(HalfGradient(), X)
    wrong = report.first_wrong
    assert wrong is not None
    assert (wrong.name, wrong.label, wrong.side) == ("x", "dx", "backward")
    assert wrong.yours == pytest.approx(wrong.numeric / 2, rel=1e-6)
    assert list(wrong.worst) == ["batch", "time", "channel"]
    text = str(report)
    assert text.startswith("HalfGradient   forward ok   backward WRONG in dx")
    assert "It is 0.5 times the right gradient: a constant factor is missing or there twice." in text
    assert f"batch={wrong.worst['batch']} time={wrong.worst['time']}" in text
    page = report._repr_html_()
    assert "backward WRONG in dx" in page and "<table>" in page and "color:#cf222e" in page
    with pytest.raises(check.GradientError, match="backward WRONG in dx"):
        report.raise_if_wrong()
    with pytest.raises(AssertionError):  # so that a test of one's own fails in the usual way
        report.raise_if_wrong()


def test_html_is_escaped() -> None:
    assert "<script>" not in check.Report("<script>", failure="<script>")._repr_html_()


def test_a_narrow_terminal_cuts_no_number() -> None:
    import io

    from rich.console import Console

    stream = io.StringIO()
    report = check.layer(HalfGradient(), X)
    Console(file=stream, width=80, color_system=None).print(report)
    assert f"{report.tensors[-1].yours:.5g}" in stream.getvalue()
    assert "…" not in stream.getvalue()


def test_names_and_axes_of_ones_own() -> None:
    report = check.layer(HalfGradient(), X, names=["pixels"], axes={"pixels": ("image", "row", "column")})
    wrong = report.first_wrong
    assert wrong is not None and wrong.name == "pixels" and list(wrong.worst) == ["image", "row", "column"]


def test_inputs_by_name_and_constants() -> None:
    attention = layers.MultiHeadAttention(6, 2)
    mask = np.ones((3, 1, 4, 5), dtype=bool)
    report = check.layer(attention, X, memory=RNG.normal(size=(3, 5, 6)), mask=mask).raise_if_wrong()
    assert {t.name for t in report.tensors if t.kind == "input"} == {"query", "memory"}


def test_a_layer_without_float_inputs() -> None:
    report = check.layer(layers.Embedding(5, 3), np.array([[0, 1, 1]])).raise_if_wrong()
    assert [t.name for t in report.tensors] == ["y", "weight"]


def test_a_loss() -> None:
    report = check.loss(losses.CrossEntropyLoss(), RNG.normal(size=(4, 5)), np.array([0, 1, 2, 4])).raise_if_wrong()
    assert [t.name for t in report.tensors] == ["y", "logits"]
    report = check.loss(losses.MeanSquaredError(), X, X * 0.5).raise_if_wrong()
    assert [t.name for t in report.tensors] == ["y", "prediction"]


def test_a_loss_whose_backward_takes_nothing() -> None:
    class Mine(layers.Layer):
        def forward(self, prediction: Any, target: Any) -> Any:
            self.save(prediction, target)
            return float(((prediction - target) ** 2).sum())

        def backward(self) -> Any:
            prediction, target = self.saved()
            return 2 * (prediction - target)

    check.loss(Mine(), X, X * 0.5).raise_if_wrong()


def test_two_outputs_and_two_inputs() -> None:
    class Polar(layers.Layer):
        def forward(self, x: Any, y: Any) -> Any:
            self.save(x, y)
            return x * y, x + 2 * y

        def backward(self, dp: Any, ds: Any) -> Any:
            x, y = self.saved()
            return dp * y + ds, dp * x + 2 * ds

    report = check.layer(Polar(), X, X * 0.3 + 1).raise_if_wrong()
    assert [t.name for t in report.tensors] == ["y0", "y1", "x", "y"]


def test_dropout_has_the_same_noise_at_every_evaluation() -> None:
    check.layer(layers.Sequential(layers.Dropout(0.5), layers.Linear(6, 6), layers.Dropout(0.5)), X).raise_if_wrong()


def test_noise_that_cannot_be_repeated_is_named() -> None:
    class Noisy(layers.Tanh):
        def forward(self, x: Any) -> Any:
            return super().forward(x + np.random.default_rng().normal(size=x.shape))

    report = check.layer(Noisy(), X)
    assert str(report).startswith("Noisy   forward FAILED")
    assert "forward gave two different results for one input" in report.failure


def test_values_that_are_not_finite_are_named() -> None:
    report = check.op(lambda x: x / np.where(x > 0, 1, np.inf) * np.inf, lambda dy, x: dy, np.ones((2, 3)))
    assert report.failure == "forward gave 6 values that are not finite, of 6"
    assert report.stage == "forward"


def test_a_kink_at_the_input_is_no_wrong_backward() -> None:
    report = check.layer(layers.ReLU(), np.array([[0.0, 1.0, -1.0]]))
    wrong = report.first_wrong
    assert wrong is not None and wrong.side == "unknown"
    assert "The forward has a kink or a tie at this input" in wrong.verdict
    assert str(report).startswith("ReLU   forward ok   no derivative to compare with in dx")


def test_a_slope_of_zero_is_no_kink() -> None:
    report = check.op(lambda x: x * x, lambda dy, x: dy * (2 * x + 1), np.zeros((2, 3)))
    wrong = report.first_wrong
    assert wrong is not None and wrong.side == "backward"
    assert wrong.relation == "It should be zero everywhere."


def test_a_kink_near_the_input_does_no_harm() -> None:
    check.layer(layers.ReLU(), np.array([[1e-4, -2e-4, 1.0]])).raise_if_wrong()


def test_a_jump_near_the_input_is_named() -> None:
    report = check.op(lambda x: np.floor(x * 1e7), lambda dy, x: dy * 0, np.full((2, 3), 0.3))
    assert report.first_wrong is not None
    assert report.first_wrong.side == "unknown"


def test_a_large_tensor_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numeric, "MAX_ENTRIES", 10)
    report = check.layer(HalfGradient(), X, contract=False)
    assert report.first_wrong is not None
    assert "It is 0.5 times the right gradient" in report.first_wrong.relation


def test_backward_that_raises_says_where() -> None:
    class Breaks(layers.Tanh):
        def backward(self, dy: Any) -> Any:
            return dy + np.ones((5, 5))

    report = check.layer(Breaks(), X)
    assert report.headline() == "Breaks   backward FAILED"
    assert report.failure.startswith("backward raised ValueError: operands could not be broadcast")
    assert "test_report.py, line " in report.failure and report.failure.endswith("in backward)")
    with pytest.raises(check.GradientError, match="backward FAILED"):
        report.raise_if_wrong()


@pytest.mark.parametrize(
    "returned, says",
    [
        (lambda dy: None, "backward returned nothing; wanted 1, the gradient of x"),
        (lambda dy: (dy, dy), "backward returned 2 arrays; wanted 1, the gradient of x"),
        (lambda dy: (None,), "backward returned None for the gradient of x"),
    ],
)
def test_backward_that_returns_the_wrong_number(returned: Any, says: str) -> None:
    class Returns(layers.Tanh):
        def backward(self, dy: Any) -> Any:
            self.saved()
            return returned(dy)

    assert check.layer(Returns(), X).failure == says


def test_backward_of_the_wrong_shape() -> None:
    report = check.op(lambda x, b: x + b, lambda dy, x, b: (dy, dy), X, np.ones(6))
    wrong = report.first_wrong
    assert wrong is not None and wrong.name == "b"
    assert wrong.relation == "The shape is (3, 4, 6), wanted (6,): the sum over batch and time is missing."


def test_forward_that_raises_comes_through() -> None:
    with pytest.raises(ShapeError, match=r"LayerNorm: expected \(..., 5\), got \(3, 4, 6\)"):
        check.layer(layers.LayerNorm(5), X)


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: check.layer(np.tanh, X), "check.layer: expected a Layer, got ufunc"),
        (
            lambda: check.layer(layers.Tanh(), X, X),
            r"Tanh: forward\(x: 'Array'\) -> 'Array' does not take what was given",
        ),
        (
            lambda: check.layer(layers.Tanh(), X, wrt=["z"]),
            r"wrt: Tanh has no floating-point input named 'z'; has \['x'\]",
        ),
        (lambda: check.layer(layers.Tanh(), X, seeds=0), "seeds must be an integer >= 1, got 0"),
        (lambda: check.layer(layers.Tanh(), X, names=["a", "b"]), "names: Tanh got 1 inputs by position, 2 names"),
        (lambda: check.op(lambda x: x, lambda dy, q: dy, X), "cannot tell what backward's parameter 'q' is"),
    ],
)
def test_arguments_that_do_not_fit(call: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        call()


def test_a_twin_that_is_none() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(ConfigError, match="expected a module, a function or a pair"):
        check.layer(layers.Tanh(), X, torch="Tanh")
    with pytest.raises(ConfigError) as caught:
        check.layer(layers.Linear(6, 5), X, torch=torch.nn.Linear(6, 4, bias=False))
    assert str(caught.value).splitlines() == [
        "torch: the module is no twin of Linear:",
        "  only the layer has bias",
        "  weight is (5, 6) here and (4, 6) in torch",
    ]


def test_an_unknown_device() -> None:
    with pytest.raises(DeviceError, match="device must be 'cpu' or 'cuda', got 'tpu'"):
        check.layer(layers.Tanh(), X, device="tpu")


def test_wrong_by_a_hair_is_wrong() -> None:
    for factor in (1 + 1e-5, 1 + 1e-6, 1 - 1e-6):
        report = check.op(np.tanh, lambda dy, x, factor=factor: dy * (1 - np.tanh(x) ** 2) * factor, X)
        assert not report.ok


def test_a_zero_gradient_that_is_right() -> None:
    """A sum over softmax is one whatever x is: under it a backward that returns zeros is right, so it is not used."""
    total = check.op(lambda x: tg.layers.Softmax()(x).sum(axis=-1), lambda dy, x: x * 0, X)
    assert total.ok
    assert not check.op(lambda x: tg.layers.Softmax()(x), lambda dy, x: x * 0, X).ok


RIGHT = RNG.normal(size=(3, 4, 6))
NAMES = ("batch", "time", "channel")


@pytest.mark.parametrize(
    "yours, says",
    [
        (RIGHT * 0, "It is zero everywhere"),
        (-RIGHT, "The sign is wrong."),
        (RIGHT * 4, "It is 4 times the right gradient, 4 being the length of `time`"),
        (RIGHT / 6, "1/6, the length of `channel`"),
        (RIGHT * 6**0.5, "the square root of the length of `channel` (6)"),
        (RIGHT * 2, "It is 2 times the right gradient: a constant factor is missing or there twice."),
        (
            RIGHT + RIGHT.sum(axis=1, keepdims=True),
            "The error is constant along `time`: a mean over that axis is missing.",
        ),
        (np.broadcast_to(RIGHT.mean(axis=0), RIGHT.shape), "It was averaged over `batch` and spread out again"),
        (
            np.broadcast_to(RIGHT.sum(axis=1, keepdims=True), RIGHT.shape),
            "It was summed over `time` and spread out again",
        ),
        (np.where(np.arange(6) == 5, 0, RIGHT), "It is wrong only at channel=5, the last."),
        (np.where(np.arange(4)[:, None] == 0, 0, RIGHT), "It is wrong only at time=0, the first."),
        (RIGHT * (1 + 1e-4 * RIGHT), "The error is small"),
        (RIGHT**3, "No simple relation was found"),
        (np.where(RIGHT > 0, np.nan, RIGHT), "entries are not finite"),
        (RIGHT[0], "The shape is (4, 6), wanted (3, 4, 6)."),
    ],
)
def test_relations(yours: np.ndarray, says: str) -> None:
    lengths = {"`batch`": 3, "`time`": 4, "`channel`": 6}
    assert says in explain(np.asarray(yours), RIGHT, Context(NAMES, lengths=lengths))


def test_relations_of_matrices() -> None:
    square = RNG.normal(size=(5, 5))
    assert explain(square.T, square, Context(("out", "in"))) == "It is transposed."
    wide = RNG.normal(size=(5, 3))
    assert explain(wide.T, wide, Context(("out", "in"))) == "The shape is (3, 5), wanted (5, 3): it is transposed."
    assert "the axes are swapped" in explain(wide.T * 2, wide, Context(("out", "in")))
    assert "It should be zero everywhere." in explain(wide, wide * 0, Context(("out", "in")))
    assert explain(wide[::-1], wide, Context(("out", "in"))) == "It is reversed along `out`."
    assert explain(wide[:, ::-1], wide, Context(("out", "in"))) == "It is reversed along `in`."
    assert explain(wide[::-1, ::-1], wide, Context(("out", "in"))) == "It is reversed along `out` and `in`."
