"""What the feed-forward part keeps for its backward pass, and what it computes again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu.layers import Dropout, FeedForward, Linear, Sequential
from tinygrad_edu.layers.activation import ACTIVATIONS, make_activation

DIM, HIDDEN = 6, 24
X, DY = np.random.default_rng(0).standard_normal((2, 3, 5, DIM), dtype=np.float32)


def kept(layer: Any) -> list[np.ndarray]:
    """Every array that `layer` and its children hold for their backward pass, each once."""
    found = [value for child in layer.layers() for values in child._saved for value in values]
    return list({id(array): array for array in found if isinstance(array, np.ndarray)}.values())


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_tells_what_it_keeps(name: str) -> None:
    layer = make_activation(name)
    y = layer(X)
    (array,) = kept(layer)
    assert array is (X if layer.saves_input else y)


@pytest.mark.parametrize("rate", [0.0, 0.4], ids=["plain", "dropout"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_its_gradients_are_bit_for_bit_those_of_its_parts_in_a_row(name: str, rate: float) -> None:
    """Forward twice, then backward twice: what is made again must be that of the right forward."""
    layer = FeedForward(DIM, HIDDEN, rate, name, generator=tg.backend.Generator(3))
    chain = Sequential(
        Linear(DIM, HIDDEN), make_activation(name), Dropout(rate, tg.backend.Generator(3)), Linear(HIDDEN, DIM)
    )
    chain[0].load_state_dict(layer.linear1.state_dict())
    chain[3].load_state_dict(layer.linear2.state_dict())
    chain[2].generator.set_state(layer.dropout.generator.get_state())
    for x in (X, 2 * X):
        np.testing.assert_array_equal(layer(x), chain(x))
    for dy in (DY, DY - 1):
        np.testing.assert_array_equal(layer.backward(dy), chain.backward(dy))
    ours, theirs = dict(layer.named_parameters()), dict(chain.named_parameters())
    for own, other in zip(
        ("linear1.weight", "linear2.weight", "linear2.bias"), ("0.weight", "3.weight", "3.bias"), strict=True
    ):
        assert np.abs(ours[own].grad).max() > 0
        np.testing.assert_array_equal(ours[own].grad, theirs[other].grad, err_msg=own)
    assert not kept(layer)


@pytest.mark.parametrize("rate", [0.0, 0.4], ids=["plain", "dropout"])
@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "silu"])
def test_one_wide_array_is_kept_not_two(name: str, rate: float) -> None:
    layer = FeedForward(DIM, HIDDEN, rate, name)
    layer(X)
    assert sorted(array.shape[-1] for array in kept(layer)) == [DIM, HIDDEN]
    layer.clear_saved()
    with tg.inference():
        layer(X)
    assert not kept(layer)
