"""Gradient clipping, beside torch's, and what is never clipped."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu.errors import ConfigError, NonFiniteError
from tinygrad_edu.optim import clip_factor, clip_grad_norm_, clip_grad_value_, first_nonfinite

torch = pytest.importorskip("torch")


def gradients(pair: Any) -> dict[str, np.ndarray]:
    return {name: parameter.grad.copy() for name, parameter in pair.named.items()}


@pytest.mark.parametrize("flat", [True, False], ids=["flat", "apart"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("max_norm", [1e-3, 1.0, 1e6, math.inf])
def test_norm_clipping_is_that_of_torch(make_pair: Callable[..., Any], flat: bool, dtype: str, max_norm: float) -> None:
    pair = make_pair(dtype, flat)
    pair.draw(scale=3.0)
    before = gradients(pair)
    wanted = float(torch.nn.utils.clip_grad_norm_(list(pair.leaves.values()), max_norm))
    norm = clip_grad_norm_(pair.model, max_norm)
    assert norm == pytest.approx(wanted, rel=1e-13 if dtype == "float64" else 1e-6)
    for name, parameter in pair.named.items():
        # torch divides by norm + 1e-6, we by the norm
        np.testing.assert_allclose(parameter.grad, pair.leaves[name].grad.numpy(), rtol=2e-6, err_msg=name)
        exact = before[name] * min(1.0, max_norm / norm)
        np.testing.assert_allclose(parameter.grad, exact, rtol=1e-15 if dtype == "float64" else 2e-7)
    clipped = math.sqrt(sum(float((g.astype("float64") ** 2).sum()) for g in gradients(pair).values()))
    assert clipped <= max_norm * (1 + 1e-6)


@pytest.mark.parametrize("as_parameters", [True, False], ids=["parameters", "layer"])
def test_a_norm_within_the_limit_changes_no_bit(make_pair: Callable[..., Any], as_parameters: bool) -> None:
    pair = make_pair("float32", True)
    pair.draw()
    before = gradients(pair)
    norm = clip_grad_norm_(pair.model.parameters() if as_parameters else pair.model, 1e3)
    assert 0 < norm < 1e3
    for name, value in before.items():
        assert pair.named[name].grad.tobytes() == value.tobytes(), name


@pytest.mark.parametrize("flat", [True, False], ids=["flat", "apart"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_value_clipping_is_that_of_torch(make_pair: Callable[..., Any], flat: bool, dtype: str) -> None:
    pair = make_pair(dtype, flat)
    pair.draw(scale=2.0)
    torch.nn.utils.clip_grad_value_(list(pair.leaves.values()), 0.7)
    clip_grad_value_(pair.model, 0.7)
    for name, parameter in pair.named.items():
        np.testing.assert_array_equal(parameter.grad, pair.leaves[name].grad.numpy(), err_msg=name)
        assert np.abs(parameter.grad).max() == np.asarray(0.7, dtype)


@pytest.mark.parametrize("flat", [True, False], ids=["flat", "apart"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_norm_that_is_not_finite_never_clips(make_pair: Callable[..., Any], value: float, flat: bool) -> None:
    pair = make_pair("float32", flat)
    pair.draw()
    pair.named["0.bias"].grad[2] = value
    pair.named["1.weight"].grad[3] = value  # nearer to the loss, so the backward pass met it first
    before = gradients(pair)
    expected = "nan" if math.isnan(value) else "inf"
    with pytest.raises(NonFiniteError, match=f"the gradient norm is {expected}; first at parameter '1.weight'"):
        clip_grad_norm_(pair.model, 1.0)
    with pytest.raises(NonFiniteError, match=f"the gradient norm is {expected}$"):
        clip_grad_norm_(pair.model.parameters(), 1.0)
    norm = clip_grad_norm_(pair.model, 1.0, error_if_nonfinite=False)
    assert not math.isfinite(norm)
    for name, gradient in before.items():
        np.testing.assert_array_equal(pair.named[name].grad, gradient, err_msg=name)


def test_the_first_gradient_that_is_not_finite_in_backward_order(make_pair: Callable[..., Any]) -> None:
    pair = make_pair()
    pair.draw()
    assert first_nonfinite(pair.model) is None
    pair.named["0.weight"].grad[0, 0] = math.inf
    assert first_nonfinite(pair.model) == "0.weight"
    pair.named["2.weight"].grad[1, 1] = math.nan
    assert first_nonfinite(pair.model) == "2.weight"


@pytest.mark.parametrize("limit", [0, -1.0, math.nan])
@pytest.mark.parametrize(
    ("clip", "name"), [(clip_grad_norm_, "max_norm"), (clip_grad_value_, "clip_value")], ids=["norm", "value"]
)
def test_a_limit_that_is_not_positive_is_refused(clip: Any, name: str, limit: float) -> None:
    layer = tg.layers.Linear(2, 2)
    with pytest.raises(ConfigError, match=f"{clip.__name__}: {name} must be > 0, got {limit!r}"):
        clip(layer, limit)


@pytest.mark.parametrize(
    ("norm", "limit", "wanted"),
    [(4.0, 1.0, 0.25), (1.0, 1.0, 1.0), (0.5, 1.0, 1.0), (0.0, 1.0, 1.0), (9.0, None, 1.0), (9.0, math.inf, 1.0),
     (math.nan, 1.0, 1.0), (math.inf, 1.0, 1.0)],
)  # fmt: skip
def test_the_factor_of_clipping(norm: float, limit: float | None, wanted: float) -> None:
    assert clip_factor(norm, limit) == wanted


@pytest.mark.parametrize("limit", [0, -1.0, math.nan])
def test_no_factor_for_a_limit_that_is_not_positive(limit: float) -> None:
    with pytest.raises(ConfigError, match=f"max_norm must be > 0, got {limit!r}"):
        clip_factor(3.0, limit)


def test_zero_gradients_are_no_division_by_zero(make_pair: Callable[..., Any]) -> None:
    pair = make_pair()
    pair.model.zero_grad()
    assert clip_grad_norm_(pair.model, 1.0) == 0.0
