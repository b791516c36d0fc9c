"""What a user can get wrong with losses: a typed error that names what was found and what is wanted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu.errors import ConfigError, DtypeError, RangeError, ShapeError
from tinygrad_edu.losses import CrossEntropyLoss, MeanSquaredError


def logits(*shape: int) -> Any:
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def ids(*values: int) -> Any:
    return np.array(values)


BAD = [
    (
        ConfigError,
        lambda: CrossEntropyLoss(reduction="avg"),
        "CrossEntropyLoss: reduction must be 'mean', 'sum' or 'none', got 'avg'",
    ),
    (
        ConfigError,
        lambda: CrossEntropyLoss(label_smoothing=1.5),
        r"CrossEntropyLoss: label_smoothing must be in \[0, 1\], got 1.5",
    ),
    (
        ConfigError,
        lambda: CrossEntropyLoss(label_smoothing=float("nan")),
        r"label_smoothing must be in \[0, 1\], got nan",
    ),
    (
        ConfigError,
        lambda: MeanSquaredError("avg"),
        "MeanSquaredError: reduction must be 'mean', 'sum' or 'none', got 'avg'",
    ),
    (
        ShapeError,
        lambda: CrossEntropyLoss()(logits(3, 5), ids(1, 2)),
        r"logits \(..., classes\) and targets \(...\) must agree, got \(3, 5\) and \(2,\)",
    ),
    (
        ShapeError,
        lambda: CrossEntropyLoss()(logits(2, 4, 5), np.zeros((2, 3), dtype=int)),
        r"got \(2, 4, 5\) and \(2, 3\)",
    ),
    (ShapeError, lambda: CrossEntropyLoss()(logits(3, 5), np.zeros((3, 5), dtype=int)), r"got \(3, 5\) and \(3, 5\)"),
    (
        RangeError,
        lambda: CrossEntropyLoss()(logits(3, 5), ids(1, 5, 2)),
        r"targets must be in \[0, 5\) or ignore_index -100, got 5 at position \(1,\)",
    ),
    (RangeError, lambda: CrossEntropyLoss()(logits(3, 5), ids(1, 2, -1)), r"got -1 at position \(2,\)"),
    (
        RangeError,
        lambda: CrossEntropyLoss(ignore_index=-1)(logits(3, 5), ids(1, -1, -100)),
        "ignore_index -1, got -100",
    ),
    (
        DtypeError,
        lambda: CrossEntropyLoss()(logits(3, 5), np.ones(3)),
        "CrossEntropyLoss: targets must be integers, got float64",
    ),
    (
        ShapeError,
        lambda: CrossEntropyLoss(weight=np.ones(4))(logits(3, 5), ids(1, 2, 3)),
        r"CrossEntropyLoss: weight must be \(5,\), got \(4,\)",
    ),
    (
        ShapeError,
        lambda: CrossEntropyLoss()(logits(0, 5), np.zeros(0, dtype=int)),
        r"nothing to take the mean of, targets is \(0,\)",
    ),
    (
        ShapeError,
        lambda: CrossEntropyLoss()(logits(2, 0, 5), np.zeros((2, 0), dtype=int)),
        r"nothing to take the mean of, targets is \(2, 0\)",
    ),
    (
        ShapeError,
        lambda: MeanSquaredError()(logits(3, 5), logits(3, 4)),
        r"must have one shape, got \(3, 5\) and \(3, 4\)",
    ),
    (
        ShapeError,
        lambda: MeanSquaredError()(logits(0, 5), logits(0, 5)),
        r"nothing to take the mean of, prediction is \(0, 5\)",
    ),
    (
        ShapeError,
        lambda: MeanSquaredError(weight=np.ones(4))(logits(3, 5), logits(3, 5)),
        r"MeanSquaredError: weight \(4,\) does not broadcast to \(3, 5\)",
    ),
]


@pytest.mark.parametrize("error, call, message", BAD, ids=lambda value: value[:50] if isinstance(value, str) else "")
def test_bad_inputs(error: type[Exception], call: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("weight", [None, np.ones(5, dtype="float32")], ids=["plain", "weights"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_all_targets_ignored(weight: Any, smoothing: float) -> None:
    """Loss zero and gradient zero, with a warning: the mean of nothing would be NaN and poison the weights."""
    loss = CrossEntropyLoss(weight=weight, label_smoothing=smoothing)
    with pytest.warns(
        UserWarning, match="CrossEntropyLoss: every target is ignore_index; the mean of nothing is taken as 0"
    ):
        value = loss(logits(3, 5), np.full(3, -100))
    assert value == 0
    np.testing.assert_array_equal(loss.backward(), np.zeros((3, 5)))


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_all_targets_ignored_without_a_mean(reduction: str) -> None:
    loss = CrossEntropyLoss(reduction=reduction)
    assert not np.any(loss(logits(3, 5), np.full(3, -100)))
    assert not loss.backward().any()


def test_nothing_at_all_without_a_mean() -> None:
    loss = CrossEntropyLoss(reduction="sum")
    assert loss(logits(0, 5), np.zeros(0, dtype=int)) == 0
    assert loss.backward().shape == (0, 5)


def test_large_logits_neither_overflow_nor_underflow() -> None:
    for dtype, size in (("float32", 1e4), ("float64", 1e300)):
        big = np.array([[size, 0, -size], [-size, -size, size]], dtype=dtype)
        for kernels in (True, False):
            with tg.inference() if kernels else tg.reference_ops():
                value = CrossEntropyLoss(reduction="sum")(big, ids(0, 2))
            assert value == 0


def test_the_reduction_is_of_what_counts() -> None:
    z, targets = logits(4, 5), ids(1, -100, 3, 0)
    each = CrossEntropyLoss(reduction="none")(z, targets)
    assert each[1] == 0
    assert CrossEntropyLoss()(z, targets) == pytest.approx(each.sum() / 3, rel=1e-6)
