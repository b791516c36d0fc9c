"""What can be trained: batches as arguments, layers with a loss, and gradients accumulated over several batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu.errors import ConfigError, DataError
from tinygrad_edu.layers import GELU, Linear, Sequential
from tinygrad_edu.layers.base import Layer
from tinygrad_edu.losses import CrossEntropyLoss, MeanSquaredError
from tinygrad_edu.models import BaseLanguageModel, create_model
from tinygrad_edu.training import Callback, StepReport, Trainer, TrainingSection
from tinygrad_edu.training.trainable import Batch, LayerWithLoss, Trainable, as_trainable, mean_over, size_of

RNG = np.random.default_rng(0)
QUIET = {"eval_every": None, "save_every": None, "schedule": "constant", "warmup_steps": 0}


def small_model(**settings: Any) -> BaseLanguageModel:
    settings = {"vocab_size": 11, "max_seq_len": 16, "n_blocks": 1, "n_heads": 2, "d_model": 8, "d_ffn": 8, **settings}
    return create_model({"architecture": "custom_transformer", "dtype": "float64", **settings})


def net(seed: int = 0) -> Layer:
    generator = tg.backend.Generator(seed)
    return Sequential(Linear(4, 6, generator=generator), GELU(), Linear(6, 3, generator=generator)).astype("float64")


def gradients(model: Layer) -> dict[str, Any]:
    return {name: parameter.grad.copy() for name, parameter in model.named_parameters()}


class Keep(Callback):
    """Keeps each step's gradients and report."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, Any]] = []
        self.reports: list[StepReport] = []

    def on_start(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def on_gradients(self, step: int) -> None:
        self.gradients.append(gradients(self.trainer.model))

    def on_step(self, report: StepReport) -> None:
        self.reports.append(report)


def run(model: Layer, batches: list[Any], **settings: Any) -> Keep:
    kept = Keep()
    loss = settings.pop("loss", None)
    Trainer(model, batches, TrainingSection(**{**QUIET, **settings}), loss=loss, callbacks=[kept]).fit()
    return kept


def same(one: dict[str, Any], other: dict[str, Any], rtol: float = 1e-12) -> None:
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_allclose(values, other[name], rtol=rtol, atol=1e-15, err_msg=name)


# -- accumulated gradients -------------------------------------------------------------------------


def padded(lengths: list[int], width: int = 12) -> dict[str, Any]:
    """Sequences of these lengths; their targets are as many less one."""
    ids = RNG.integers(0, 11, (len(lengths), width))
    real = np.arange(width) < np.array(lengths)[:, None]
    return {"input_ids": ids, "labels": np.where(real, ids, -100), "attention_mask": real.astype(np.int64)}


PARTS = [padded([12, 3]), padded([2, 2]), padded([7, 9])]
WHOLE = {key: np.concatenate([part[key] for part in PARTS]) for key in PARTS[0]}


def test_accumulated_batches_are_one_large_batch() -> None:
    """With unequal numbers of targets: the gradient of the mean over all, not the mean of the gradients."""
    whole = run(small_model(), [WHOLE])
    parts = run(small_model(), PARTS, gradient_accumulation_steps=3)
    same(whole.gradients[0], parts.gradients[0])
    assert parts.reports[0].loss == pytest.approx(whole.reports[0].loss, rel=1e-12)
    assert parts.reports[0].tokens == whole.reports[0].tokens == sum([12, 3, 2, 2, 7, 9])
    assert len(parts.reports) == 1


def test_the_mean_of_the_batches_gradients_is_another() -> None:
    """The control: were the parts simply averaged, the test above would notice."""
    whole = run(small_model(), [WHOLE]).gradients[0]
    each = [run(small_model(), [part]).gradients[0] for part in PARTS]
    mean = {name: sum(gradient[name] for gradient in each) / 3 for name in whole}
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        same(whole, mean, rtol=1e-2)


WEIGHT = np.array([0.5, 2.0, 1.0])
LOSSES = {
    "cross entropy": lambda: CrossEntropyLoss(),
    "weighted cross entropy": lambda: CrossEntropyLoss(weight=WEIGHT),
    "smoothed cross entropy": lambda: CrossEntropyLoss(label_smoothing=0.2),
    "summed cross entropy": lambda: CrossEntropyLoss(reduction="sum"),
    "mean squares": lambda: MeanSquaredError(),
    "weighted mean squares": lambda: MeanSquaredError(weight=WEIGHT),
    "summed squares": lambda: MeanSquaredError(reduction="sum"),
}


def examples(loss: Layer, rows: int) -> tuple[Any, Any]:
    x = RNG.normal(size=(rows, 4))
    if isinstance(loss, MeanSquaredError):
        return x, RNG.normal(size=(rows, 3))
    targets = RNG.integers(0, 3, rows)
    targets[: rows // 3] = -100
    return x, targets


@pytest.mark.parametrize("kind", LOSSES)
def test_layers_accumulate_too(kind: str) -> None:
    make = LOSSES[kind]
    parts = [examples(make(), rows) for rows in (7, 2, 4)]
    whole = tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    one = run(net(), [whole], loss=make(), clip_norm=None)
    three = run(net(), parts, loss=make(), clip_norm=None, gradient_accumulation_steps=3)
    scale = 3 if "summed" in kind else 1  # the divisor of a sum is the number of batches: their mean
    same(one.gradients[0], {name: scale * values for name, values in three.gradients[0].items()})
    assert scale * three.reports[0].loss == pytest.approx(one.reports[0].loss, rel=1e-12)
    assert three.reports[0].tokens == 13


def test_groups_end_with_their_epoch() -> None:
    model = small_model()
    trainer = Trainer(model, PARTS, TrainingSection(**QUIET, num_epochs=2, gradient_accumulation_steps=2))
    assert (trainer.steps_per_epoch, trainer.total_steps) == (2, 4)
    kept = Keep()
    trainer.callbacks = (kept,)
    trainer.fit()
    assert [report.tokens for report in kept.reports] == [19, 16, 19, 16]
    assert trainer.state.tokens == 70 and trainer.epoch == 2


def test_a_step_without_targets_is_refused() -> None:
    nothing = {**PARTS[0], "labels": np.full_like(PARTS[0]["labels"], -100)}
    for number in (1, 2):
        with pytest.raises(ConfigError, match="nothing to learn from"):
            run(small_model(), [nothing] * number, gradient_accumulation_steps=number)
    run(small_model(), [nothing, PARTS[0]], gradient_accumulation_steps=2)  # together they have some


# -- batches ---------------------------------------------------------------------------------------


def test_a_batch_goes_by_position_or_by_name() -> None:
    ids = PARTS[0]["input_ids"]
    forms: list[Any] = [(ids, ids), [ids, ids], {"input_ids": ids, "labels": ids}, (ids,), {"input_ids": ids}]
    losses = {run(small_model(), [form]).reports[0].loss for form in forms}
    assert len(losses) == 1
    with pytest.raises(DataError, match=r"a batch is a ndarray, wanted a tuple such as \(inputs, targets\) or a map"):
        run(small_model(), [ids])


def test_what_is_counted_of_a_batch() -> None:
    ids = np.zeros((3, 5), np.int64)
    mask = np.array([[1, 1, 0, 0, 0]] * 3)
    assert size_of(Batch.of((ids, ids)), "tokens") == 15
    assert size_of(Batch.of({"labels": ids, "input_ids": ids[:2], "attention_mask": mask}), "tokens") == 6
    assert size_of(Batch.of({"labels": ids, "input_ids": ids[:2]}), "tokens") == 10
    assert size_of(Batch.of((ids, ids)), "examples") == 3
    assert size_of(Batch.of(([[1, 2], [3, 4]],)), "tokens") == 4


# -- layers with a loss ----------------------------------------------------------------------------


class TwoInputs(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = Linear(2, 3).astype("float64"), Linear(2, 3).astype("float64")

    def forward(self, a: Any, b: Any) -> Any:
        return self.left(a) + self.right(b)

    def backward(self, dy: Any) -> tuple[Any, Any]:
        return self.left.backward(dy), self.right.backward(dy)


def test_several_inputs_by_position_and_by_name() -> None:
    a, b, y = RNG.normal(size=(4, 2)), RNG.normal(size=(4, 2)), RNG.normal(size=(4, 3))
    layer = TwoInputs()
    found = []
    for batch in [(a, b, y), {"a": a, "b": b, "targets": y}, {"a": a, "b": b, "labels": y}]:
        layer.zero_grad()
        form = Batch.of(batch)
        loss = LayerWithLoss(layer, MeanSquaredError()).forward_backward(*form.args, **form.named)
        found.append((loss, gradients(layer)))
    assert found[0][0] == found[1][0] == found[2][0]
    same(found[0][1], found[1][1])
    same(found[0][1], found[2][1])


@pytest.mark.parametrize(
    ("batch", "found"),
    [
        (([1.0],), "1 arrays"),
        ({"x": [1.0]}, "0 arrays and x"),
        ({"x": [1.0], "labels": [1], "targets": [1]}, "0 arrays and x, labels, targets"),
    ],
)
def test_batches_without_targets_are_refused(batch: Any, found: str) -> None:
    with pytest.raises(DataError, match=rf"a batch is \(inputs, targets\) or a mapping with 'targets', got {found}$"):
        run(net(), [batch], loss=MeanSquaredError())


def test_a_layer_learns() -> None:
    x = RNG.normal(size=(64, 4))
    batches = [(x[at : at + 16], x[at : at + 16, :3].argmax(axis=1)) for at in range(0, 64, 16)]
    kept = run(net(), batches, loss=CrossEntropyLoss(), num_epochs=30, learning_rate=1e-2)
    assert kept.reports[-1].loss < 0.35 * kept.reports[0].loss


def test_what_a_loss_is_the_mean_over() -> None:
    targets = np.array([0, 2, -100, 1])
    assert mean_over(CrossEntropyLoss(), targets) == 3
    assert mean_over(CrossEntropyLoss(weight=WEIGHT), targets) == 3.5
    assert mean_over(CrossEntropyLoss(reduction="sum"), targets) == 1
    assert mean_over(MeanSquaredError(), np.zeros((2, 3))) == 6
    assert mean_over(MeanSquaredError(weight=WEIGHT), np.zeros((2, 3))) == 7

    class Other(Layer):
        reduction = "mean"

    assert mean_over(Other(), np.zeros((2, 3))) == 2


class OwnLoss(Layer):
    """A model that brings its own loss: the mean square of what it puts out."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = Linear(4, 3, generator=tg.backend.Generator(0)).astype("float64")

    def count_targets(self, x: Any) -> int:
        return len(x)

    def forward_backward(self, x: Any, divisor: float | None = None) -> float:
        y = self.linear(x)
        divisor = len(x) if divisor is None else divisor
        self.linear.backward(2 * y / divisor)
        return float((y**2).sum() / divisor)


def test_a_model_may_bring_its_own_loss() -> None:
    assert isinstance(OwnLoss(), Trainable) and isinstance(small_model(), Trainable)
    parts = [(RNG.normal(size=(rows, 4)),) for rows in (2, 5)]
    whole = [(np.concatenate([parts[0][0], parts[1][0]]),)]
    one, two = run(OwnLoss(), whole), run(OwnLoss(), parts, gradient_accumulation_steps=2)
    same(one.gradients[0], two.gradients[0])
    assert two.reports[0].tokens == 7


class Learned(MeanSquaredError):
    def __init__(self) -> None:
        super().__init__()
        self.scale = Linear(1, 1)


@pytest.mark.parametrize(
    ("model", "loss", "message"),
    [
        (lambda: net(), None, "loss: Sequential brings none of its own .* give one, such as loss=CrossEntropyLoss"),
        (lambda: small_model(), CrossEntropyLoss, "loss: CustomTransformerWrapper brings its own; leave it out"),
        (lambda: "net", CrossEntropyLoss, "model: must be a layer or a language model, got str"),
        (lambda: Sequential(GELU()), CrossEntropyLoss, "model: Sequential has no parameters to train"),
        (lambda: net(), lambda: "mse", r"loss: must be a loss layer such as CrossEntropyLoss\(\), got str"),
        (lambda: net(), lambda: MeanSquaredError("none"), "has reduction='none'; training wants one number"),
        (lambda: net(), Learned, "Learned has parameters, which would not be trained"),
    ],
)
def test_models_and_losses_that_do_not_go_together(model: Any, loss: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        as_trainable(model(), None if loss is None else loss())


@pytest.mark.parametrize(
    ("loader", "error", "message"),
    [
        ([], DataError, "loader: it has no batches"),
        (iter([(1, 2)]), ConfigError, r"loader: list_iterator has no len\(\) .* give list\(...\) of it"),
        (7, ConfigError, "loader: must be a loader or a list of batches, got int"),
        ({"x": 1}, ConfigError, "loader: must be a loader or a list of batches, got dict"),
    ],
)
def test_loaders_that_are_none(loader: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        Trainer(small_model(), loader, TrainingSection(**QUIET))


def test_labels_are_smoothed_where_there_are_some() -> None:
    model, loss = small_model(), CrossEntropyLoss()
    Trainer(model, PARTS, TrainingSection(**QUIET, label_smoothing=0.1))
    Trainer(net(), PARTS, TrainingSection(**QUIET, label_smoothing=0.2), loss=loss)
    assert (model.label_smoothing, loss.label_smoothing) == (0.1, 0.2)
    with pytest.raises(ConfigError, match="label_smoothing: 0.1, but MeanSquaredError has no labels to smooth"):
        Trainer(net(), PARTS, TrainingSection(**QUIET, label_smoothing=0.1), loss=MeanSquaredError())
