"""Losses on maps and masks: what they promise beyond their gradients, and what a user can get wrong."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu.errors import ConfigError, DtypeError, RangeError, ShapeError
from tinygrad_edu.losses import (
    BCELoss,
    BCEWithLogitsLoss,
    CompositeLoss,
    CrossEntropyLoss,
    DiceLoss,
    MeanSquaredError,
    SmoothL1Loss,
    Term,
    design_loss,
)

RNG = np.random.default_rng(0)


def logits(*shape: int) -> Any:
    return RNG.normal(size=shape).astype("float32")


def masks(*shape: int) -> Any:
    return RNG.random(shape) < 0.3


def ids(high: int, *shape: int) -> Any:
    return RNG.integers(0, high, shape)


def channels_last(x: Any) -> Any:
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def design(colours: int = 5, size: int = 6, batch: int = 2) -> tuple[Any, Any]:
    """A prediction and a target, with class ids as floats."""
    target = np.concatenate(
        [
            masks(batch, 2, size, size).astype("float32"),
            ids(colours, batch, 1, size, size).astype("float32"),
            RNG.random((batch, 1, size, size)).astype("float32"),
        ],
        axis=1,
    )
    return logits(batch, 2 + colours + 1, size, size), target


BAD = [
    (
        ShapeError,
        lambda: CrossEntropyLoss()(logits(2, 5, 4, 3), ids(5, 2, 3, 4)),
        r"logits \(batch, classes, ...\) and targets \(batch, ...\) must agree, got \(2, 5, 4, 3\) and \(2, 3, 4\)",
    ),
    (
        ShapeError,
        lambda: CrossEntropyLoss()(logits(2, 4, 3, 5), ids(5, 2, 4, 3)),
        "must agree.*; if classes are on axis 3, say class_axis=3",
    ),
    (
        ShapeError,
        lambda: CrossEntropyLoss()(logits(2, 5, 4), ids(5, 2, 4)),
        r"logits \(..., classes\).*; if classes are on axis 1, say class_axis=1",
    ),
    (
        ShapeError,
        lambda: CrossEntropyLoss(class_axis=4)(logits(2, 5, 4, 3), ids(5, 2, 4, 3)),
        r"class_axis 4 is not among the axes of logits \(2, 5, 4, 3\)",
    ),
    (ConfigError, lambda: CrossEntropyLoss(class_axis=1.0), "class_axis must be an integer or None, got 1.0"),
    (
        RangeError,
        lambda: CrossEntropyLoss()(logits(1, 5, 2, 2), np.array([[[0, 1], [2, 9]]])),
        r"got 9 at position \(0, 1, 1\)",
    ),
    (
        ShapeError,
        lambda: BCEWithLogitsLoss()(logits(2, 1, 4, 4), masks(2, 4, 4)),
        r"BCEWithLogitsLoss: prediction and target must have one shape, got \(2, 1, 4, 4\) and \(2, 4, 4\)",
    ),
    (
        ConfigError,
        lambda: BCEWithLogitsLoss()(logits(2, 4), np.array([[0, 255, 0, 255]] * 2)),
        r"BCEWithLogitsLoss: target must be in \[0, 1\], got values from 0 to 255",
    ),
    (
        ConfigError,
        lambda: BCELoss()(np.array([0.5, 3.0]), np.array([0, 1])),
        r"BCELoss: prediction, a probability, must be in \[0, 1\], got values from 0.5 to 3",
    ),
    (
        DtypeError,
        lambda: BCEWithLogitsLoss()(logits(2), np.array(["a", "b"])),
        "BCEWithLogitsLoss: target must be numbers or booleans, got <U1",
    ),
    (
        ShapeError,
        lambda: BCEWithLogitsLoss(pos_weight=np.ones(3))(logits(2, 2), masks(2, 2)),
        r"BCEWithLogitsLoss: pos_weight \(3,\) does not broadcast to \(2, 2\)",
    ),
    (
        ShapeError,
        lambda: BCELoss(weight=np.ones(3))(np.full((2, 2), 0.5), masks(2, 2)),
        r"BCELoss: weight \(3,\) does not broadcast to \(2, 2\)",
    ),
    (ShapeError, lambda: BCEWithLogitsLoss()(logits(0, 2), masks(0, 2)), r"nothing to take the mean of"),
    (ConfigError, lambda: BCEWithLogitsLoss(reduction="avg"), "BCEWithLogitsLoss: reduction must be"),
    (ConfigError, lambda: SmoothL1Loss(beta=0), "SmoothL1Loss: beta must be a finite number > 0, got 0"),
    (ConfigError, lambda: DiceLoss("tanh"), "DiceLoss: activation must be 'sigmoid', 'softmax' or None, got 'tanh'"),
    (ConfigError, lambda: DiceLoss(smooth=0), "DiceLoss: smooth must be a finite number > 0, got 0"),
    (ConfigError, lambda: DiceLoss(smooth=float("nan")), "smooth must be a finite number > 0, got nan"),
    (ConfigError, lambda: DiceLoss(reduction="avg"), "DiceLoss: reduction must be"),
    (
        ShapeError,
        lambda: DiceLoss()(logits(2, 3), masks(2, 3)),
        r"DiceLoss: prediction must be \(batch, classes, ...\), with at least one axis of pixels, got \(2, 3\)",
    ),
    (
        ShapeError,
        lambda: DiceLoss()(logits(2, 3, 4, 4), masks(2, 4, 4)),
        r"DiceLoss: prediction and target must have one shape, got \(2, 3, 4, 4\) and \(2, 4, 4\)",
    ),
    (ShapeError, lambda: DiceLoss()(logits(2, 3, 0, 4), masks(2, 3, 0, 4)), r"prediction is \(2, 3, 0, 4\)"),
    (
        ConfigError,
        lambda: DiceLoss(None)(logits(2, 3, 4) * 5, masks(2, 3, 4)),
        r"DiceLoss: prediction, a probability \(activation=None\), must be in \[0, 1\]",
    ),
    (
        ConfigError,
        lambda: DiceLoss()(logits(2, 3, 4), masks(2, 3, 4) * 2.0),
        r"DiceLoss: target must be in \[0, 1\], got values from 0 to 2",
    ),
    (ConfigError, lambda: CompositeLoss([]), "CompositeLoss: terms must be at least one, got none"),
    (
        ConfigError,
        lambda: CompositeLoss([Term("a", DiceLoss(), slice(0, 1), 0)] * 2),
        "CompositeLoss: two terms are named 'a'",
    ),
    (
        ConfigError,
        lambda: CompositeLoss([Term("a", DiceLoss(reduction="sum"), slice(0, 1), slice(0, 1))]),
        "term 'a': loss must have reduction='mean', got 'sum'",
    ),
    (
        ConfigError,
        lambda: CompositeLoss([Term("a", abs, slice(0, 1), slice(0, 1))]),  # type: ignore[arg-type]
        r"term 'a': loss must be a loss layer such as DiceLoss\(\), got builtin_function_or_method",
    ),
    (
        ConfigError,
        lambda: CompositeLoss([Term("a", DiceLoss(), slice(0, 1), slice(0, 1), -1.0)]),
        "term 'a': weight must be a finite number >= 0, got -1.0",
    ),
    (
        ConfigError,
        lambda: CompositeLoss([Term("a", DiceLoss(), slice(-2, None), slice(0, 1))]),
        r"term 'a': prediction must be channels such as slice\(0, 2\), got slice\(-2, None",
    ),
    (
        ConfigError,
        lambda: CompositeLoss([Term("a", DiceLoss(), slice(0, 2), -1)]),
        r"term 'a': target must be channels such as slice\(0, 2\), got -1",
    ),
    (
        ConfigError,
        lambda: CompositeLoss([Term("a", DiceLoss(), slice(1, 2), slice(0, 1))]),
        r"no term reads channels \[0\] of the prediction",
    ),
    (ConfigError, lambda: design_loss(1), "design_loss: n_colours must be an integer >= 2, got 1"),
    (ConfigError, lambda: design_loss(8, (1.0, 0.5)), "weights must be three"),  # type: ignore[arg-type]
    (
        ShapeError,
        lambda: design_loss(6)(*design(5)),
        r"CompositeLoss: prediction must be \(batch, 9, ...\), as its terms read it, got \(2, 8, 6, 6\)",
    ),
    (
        ShapeError,
        lambda: design_loss(5)(design(5)[0], design(5)[1][:, :3]),
        r"CompositeLoss: target must be \(batch, 4, ...\), as its terms read it, got \(2, 3, 6, 6\)",
    ),
    (
        ShapeError,
        lambda: design_loss(5)(design(5)[0], design(5, size=7)[1]),
        r"must agree in all but their channels, got \(2, 8, 6, 6\) and \(2, 4, 7, 7\)",
    ),
    (
        DtypeError,
        lambda: design_loss(5)(design(5)[0], design(5)[1] * 0 + 0.5),
        "CompositeLoss: term 'colour': class ids must be whole numbers, got 0.5",
    ),
    (
        DtypeError,
        lambda: design_loss(5)(design(5)[0], np.where(np.arange(4)[:, None, None] == 2, np.nan, design(5)[1])),
        "CompositeLoss: term 'colour': class ids must be whole numbers, got nan",
    ),
    (
        RangeError,
        lambda: design_loss(5)(design(5)[0], design(9)[1]),
        r"CompositeLoss, term 'colour': .*targets must be in \[0, 5\)",
    ),
    (
        ConfigError,
        lambda: CompositeLoss([Term("a", DiceLoss(), slice(0, 1), slice(0, 1), "x")]),  # type: ignore[arg-type]
        "term 'a': weight must be a finite number >= 0, got 'x'",
    ),
    (ConfigError, lambda: DiceLoss(smooth="x"), "DiceLoss: smooth must be a finite number > 0, got 'x'"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("error, call, message", BAD, ids=lambda value: value[:50] if isinstance(value, str) else "")
def test_bad_inputs(error: type[Exception], call: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        call()


LOSSES = {
    "cross-entropy": (CrossEntropyLoss(), lambda: (logits(2, 5, 4, 3), ids(5, 2, 4, 3))),
    "binary, logits": (BCEWithLogitsLoss(), lambda: (logits(2, 3, 4, 4), masks(2, 3, 4, 4))),
    "binary": (BCELoss(), lambda: (RNG.random((2, 3, 4, 4)).astype("float32"), masks(2, 3, 4, 4))),
    "dice": (DiceLoss("softmax", squared=True), lambda: (logits(2, 3, 4, 4), masks(2, 3, 4, 4))),
    "designs": (design_loss(5), design),
}
each_loss = pytest.mark.parametrize("loss, inputs", LOSSES.values(), ids=LOSSES.keys())
kernels = pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "textbook"])


def context(kernels: bool) -> Any:
    return nullcontext() if kernels else tg.reference_ops()


@each_loss
@kernels
def test_channels_last_memory_changes_nothing(loss: Any, inputs: Any, kernels: bool) -> None:
    prediction, target = inputs()
    with context(kernels):
        plain, dplain = loss(prediction, target), loss.backward()
        flat, dflat = loss(channels_last(prediction), target), loss.backward()
        mixed, dmixed = (
            loss(channels_last(prediction), channels_last(target) if target.ndim == 4 else target),
            loss.backward(),
        )
    assert plain == pytest.approx(flat, rel=1e-5) == pytest.approx(mixed, rel=1e-5)
    np.testing.assert_allclose(dplain, dflat, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(dplain, dmixed, rtol=1e-5, atol=1e-8)


@each_loss
@kernels
def test_float32_stays_float32_whatever_the_target_is(loss: Any, inputs: Any, kernels: bool) -> None:
    prediction, target = inputs()
    target = target.astype("float64") if target.dtype.kind == "f" else target
    with context(kernels):
        loss(prediction, target)
        assert loss.backward().dtype == np.float32


@each_loss
def test_a_nan_is_not_hidden(loss: Any, inputs: Any) -> None:
    """Training stops at a loss that is not finite; a loss that swallowed it would go on with broken weights."""
    for with_kernels in (True, False):
        prediction, target = inputs()
        prediction[1, 0, 2, 1] = np.nan
        with context(with_kernels):
            assert np.isnan(loss(prediction, target))
            assert np.isnan(loss.backward()).any()


def test_channels_last_logits_are_not_copied() -> None:
    """Rows of pixels are a view of them, and so is what backward gives."""
    z = channels_last(logits(2, 5, 4, 3))
    loss = CrossEntropyLoss()
    loss(z, ids(5, 2, 4, 3))
    rows = loss._saved[-1][2]
    assert np.shares_memory(rows, z)
    assert loss.backward().strides == z.strides


def test_large_logits_cost_what_they_should() -> None:
    for dtype, size in (("float32", 1e30), ("float64", 1e300)):
        z = np.array([size, -size, size, -size], dtype=dtype)
        t = np.array([1, 0, 0, 1])
        for with_kernels in (True, False):
            with context(with_kernels):
                loss = BCEWithLogitsLoss(reduction="none")
                np.testing.assert_array_equal(loss(z, t), np.array([0, 0, size, size], dtype=dtype))
                np.testing.assert_array_equal(loss.backward(), [0, 0, 1, -1])


def test_small_losses_keep_their_digits() -> None:
    """log(1 + e^-z) for large z: taken of a rounded sum it would be 0."""
    z = np.array([10.0, 20.0, 40.0, 80.0], dtype="float32")
    for with_kernels in (True, False):
        with context(with_kernels):
            found = BCEWithLogitsLoss(reduction="none")(z, np.ones(4))
        np.testing.assert_allclose(found, np.log1p(np.exp(-z.astype("float64"))), rtol=2e-6)


def test_probabilities_of_zero_and_one_cost_a_hundred() -> None:
    """As torch has it, to the gradient."""
    torch = pytest.importorskip("torch")
    for dtype in ("float32", "float64"):
        p = np.array([0, 1, 0, 1, 1e-30, 0.5], dtype=dtype)
        t = np.array([0, 1, 1, 0, 1, 0], dtype=dtype)
        loss = BCELoss(reduction="none")
        theirs = torch.tensor(p, requires_grad=True)
        losses = torch.nn.functional.binary_cross_entropy(theirs, torch.tensor(t), reduction="none")
        losses.sum().backward()
        np.testing.assert_allclose(loss(p, t), losses.detach().numpy(), rtol=1e-6)
        np.testing.assert_allclose(loss.backward(), theirs.grad.numpy(), rtol=1e-6)


def test_dice_of_sets_is_the_coefficient_of_dice() -> None:
    """Without softness: twice what they share over the sum of their sizes, and squares change nothing."""
    p, g = masks(3, 2, 8, 8), masks(3, 2, 8, 8)
    shared, sizes = (p & g).sum((2, 3)), p.sum((2, 3)) + g.sum((2, 3))
    for squared in (False, True):
        found = DiceLoss(None, smooth=1e-9, squared=squared, reduction="none")(p.astype("float64"), g)
        np.testing.assert_allclose(found, 1 - 2 * shared / sizes, rtol=1e-7)


def test_dice_of_masks_that_are_empty_or_equal_is_zero() -> None:
    empty, g = np.zeros((1, 1, 4, 4)), masks(1, 1, 4, 4)
    assert DiceLoss(None)(empty, empty) == 0
    assert DiceLoss(None)(g.astype("float64"), g) == 0
    assert DiceLoss(None, smooth=1e-6)(1.0 - g, g) == pytest.approx(1, abs=1e-6)


def test_the_gradient_of_dice_does_not_depend_on_the_size_of_the_image() -> None:
    """That of the mean cross-entropy does: a small mask drowns in its background."""

    def slope(loss: Any, size: int) -> float:
        z, g = np.full((1, 1, size, size), -30.0), np.zeros((1, 1, size, size))
        z[..., :4, :4], g[..., :4, :4] = 0.0, 1.0  # inside the mask undecided, outside rightly sure
        loss(z, g)
        return float(loss.backward()[0, 0, 0, 0])

    assert slope(DiceLoss(), 64) == pytest.approx(slope(DiceLoss(), 8), rel=1e-6)
    assert slope(BCEWithLogitsLoss(), 64) == pytest.approx(slope(BCEWithLogitsLoss(), 8) / 64, rel=1e-6)


def test_the_parts_of_a_composite_loss_are_reported() -> None:
    prediction, target = design(5)
    loss = design_loss(5, weights=(2.0, 0.25, 3.0))
    total = loss(prediction, target)
    assert list(loss.parts) == ["masks", "colour", "hierarchy"]
    assert loss.parts["masks"] == pytest.approx(DiceLoss()(prediction[:, :2], target[:, :2]))
    assert loss.parts["colour"] == pytest.approx(CrossEntropyLoss()(prediction[:, 2:7], target[:, 2].astype(int)))
    assert loss.parts["hierarchy"] == pytest.approx(MeanSquaredError()(prediction[:, 7:], target[:, 3:]))
    assert total == pytest.approx(2 * loss.parts["masks"] + 0.25 * loss.parts["colour"] + 3 * loss.parts["hierarchy"])
    assert isinstance(total, float)


def test_the_weights_of_designs_are_those_of_the_plan() -> None:
    assert [term.weight for term in design_loss(5).terms] == [1.0, 0.5, 1.0]


def test_losses_are_means_that_batches_can_be_put_together_by() -> None:
    """A batch in two unequal parts, each weighed by what its mean is over, gives the gradient of the whole."""
    from tinygrad_edu.training.trainable import mean_over

    weighted = CrossEntropyLoss(weight=np.array([0.5, 1, 2, 1, 3]), ignore_index=1)
    binary = BCEWithLogitsLoss(weight=np.array([1.0, 2, 3, 4]), pos_weight=np.full(1, 3.0))
    for loss, (prediction, target) in (
        (binary, (logits(5, 3, 4, 4), masks(5, 3, 4, 4))),
        (weighted, (logits(5, 5, 4, 4), ids(5, 5, 4, 4))),
        (SmoothL1Loss(), (logits(5, 3), logits(5, 3))),
        (DiceLoss(), (logits(5, 3, 4, 4), masks(5, 3, 4, 4))),
        (design_loss(5), design(5, batch=5)),
    ):  # fmt: skip
        whole = loss(prediction, target)
        dwhole = loss.backward()
        total, pieces, value = mean_over(loss, target), [], 0.0
        for part in (slice(0, 2), slice(2, 5)):
            share = mean_over(loss, target[part]) / total
            value += loss(prediction[part], target[part]) * share
            pieces.append(loss.backward(share))
        assert value == pytest.approx(whole, rel=1e-5)
        np.testing.assert_allclose(np.concatenate(pieces), dwhole, rtol=1e-5, atol=1e-9)
