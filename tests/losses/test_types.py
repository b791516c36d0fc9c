"""Element types through the losses, and what NaN in an ignored row may do."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu.errors import DeviceError
from tinygrad_edu.layers import Dropout, LayerNorm, RMSNorm
from tinygrad_edu.losses import CrossEntropyLoss, MeanSquaredError, linear_cross_entropy

LOGITS = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)


def context(kernels: bool) -> Any:
    return nullcontext() if kernels else tg.reference_ops()


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint64"])
def test_targets_of_any_integer_type_mean_the_same(dtype: str, kernels: bool) -> None:
    loss = CrossEntropyLoss(label_smoothing=0.1)
    targets = np.array([0, 3, 1])
    with context(kernels):
        assert loss(LOGITS, targets.astype(dtype)) == loss(LOGITS, targets)
        assert np.array_equal(loss.backward(), loss.backward())


@pytest.mark.parametrize("kernels", [True, False])
def test_a_class_beyond_the_type_of_the_targets_is_predicted(kernels: bool) -> None:
    weight = np.zeros((300, 2), dtype=np.float32)
    weight[299] = 1
    with context(kernels):
        _, predicted = linear_cross_entropy(
            np.ones((2, 2), dtype=np.float32), weight, None, np.zeros(2, dtype=np.uint8), -100, 0.0
        )
    assert predicted.tolist() == [299, 299]


@pytest.mark.parametrize("kernels", [True, False])
def test_an_ignored_row_gives_no_gradient_whatever_it_holds(kernels: bool) -> None:
    logits = LOGITS.copy()
    logits[1, 2] = np.nan
    loss = CrossEntropyLoss()
    with context(kernels):
        assert np.isfinite(loss(logits, np.array([0, -100, 1])))
        dlogits = loss.backward()
    assert dlogits[1].tolist() == [0, 0, 0, 0]
    assert np.isfinite(dlogits).all()


def test_the_gradient_has_the_type_of_the_prediction() -> None:
    for loss in (MeanSquaredError(), MeanSquaredError("sum"), MeanSquaredError(weight=np.ones(3))):
        loss(np.ones(3, dtype=np.float32), np.zeros(3))  # a float64 target, as NumPy makes it
        assert loss.backward().dtype == np.float32


def test_lists_are_refused_by_name() -> None:
    with pytest.raises(DeviceError, match=r"expected a NumPy or CuPy array, got builtins\.list"):
        CrossEntropyLoss()(LOGITS, [0, 1, 2])
    with pytest.raises(DeviceError, match=r"expected a NumPy or CuPy array, got builtins\.list"):
        MeanSquaredError()([1.0], LOGITS)


@pytest.mark.parametrize("kernels", [True, False])
def test_numpy_numbers_as_settings_keep_float32(kernels: bool) -> None:
    with context(kernels):
        for layer in (Dropout(np.float64(0.5)), LayerNorm(4, np.float64(1e-5)), RMSNorm(4, np.float64(1e-5))):
            assert layer(LOGITS).dtype == layer.backward(LOGITS).dtype == np.float32
