"""What attention, masks and positions mean, beyond that their gradients are right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu.backend import Generator
from tinygrad_edu.errors import DtypeError, ShapeError
from tinygrad_edu.layers import (
    KeyValueCache,
    LearnedPositions,
    MultiHeadAttention,
    RotaryPositions,
    SinusoidalPositions,
    TransformerBlock,
    create_causal_mask,
    create_combined_mask,
    create_padding_mask,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 5, 8)).astype("float32")


def attention(**settings: Any) -> MultiHeadAttention:
    return MultiHeadAttention(8, 2, generator=Generator(0), **settings)


def test_causal_attention_does_not_see_the_future() -> None:
    layer = attention()
    before = layer(X, causal=True)
    changed = X.copy()
    changed[:, 3:] += 1
    after = layer(changed, causal=True)
    np.testing.assert_allclose(after[:, :3], before[:, :3], rtol=1e-5, atol=1e-6)
    assert not np.allclose(after[:, 3:], before[:, 3:], rtol=1e-3)


def test_the_flag_and_the_mask_say_the_same() -> None:
    layer = attention()
    np.testing.assert_allclose(layer(X, mask=create_causal_mask(5)), layer(X, causal=True), rtol=1e-5, atol=1e-6)


def test_padding_does_not_matter() -> None:
    layer = attention()
    mask = create_padding_mask(np.array([[1, 2, 3, 0, 0], [1, 2, 3, 4, 5]]), pad_token_id=0)
    changed = X.copy()
    changed[0, 3:] = 100
    before, after = layer(X, mask=mask), layer(changed, mask=mask)
    np.testing.assert_allclose(after[0, :3], before[0, :3], rtol=1e-5, atol=1e-6)


def test_masks() -> None:
    ids = np.array([[5, 6, 0], [7, 0, 0]])
    padding = create_padding_mask(ids, 0)
    assert padding.shape == (2, 1, 1, 3) and padding.dtype == bool
    np.testing.assert_array_equal(padding[:, 0, 0], ids != 0)
    causal = create_causal_mask(3)
    assert causal.shape == (1, 1, 3, 3)
    np.testing.assert_array_equal(causal[0, 0], np.tril(np.ones((3, 3), dtype=bool)))
    np.testing.assert_array_equal(create_combined_mask(ids, 0), padding & causal)


@pytest.mark.parametrize("rotary", [False, True], ids=["plain", "rotary"])
@pytest.mark.parametrize("steps", [[1] * 5, [2, 3], [4, 1], [5]], ids=str)
def test_a_cache_gives_what_the_whole_sequence_gives(rotary: bool, steps: list[int]) -> None:
    layer = attention(rotary=RotaryPositions(9, 4) if rotary else None)
    whole = layer(X, causal=True)
    cache, start = KeyValueCache(9), 0
    with tg.inference():
        for step in steps:
            y = layer(X[:, start : start + step], causal=True, cache=cache)
            np.testing.assert_allclose(y, whole[:, start : start + step], rtol=1e-4, atol=1e-5)
            start += step
    assert cache.length == 5


def test_a_block_passes_its_cache_on() -> None:
    block = TransformerBlock(8, 2, 12, generator=Generator(0))
    whole, cache = block(X, causal=True), KeyValueCache(5)
    with tg.inference():
        rows = [block(X[:, t : t + 1], causal=True, cache=cache) for t in range(5)]
    np.testing.assert_allclose(np.concatenate(rows, axis=1), whole, rtol=1e-4, atol=1e-5)


def test_rotary_products_depend_on_distance_only() -> None:
    rotary = RotaryPositions(50, 6)
    q, k = (np.broadcast_to(RNG.normal(size=6), (40, 6)) for _ in range(2))
    products = np.einsum("td,sd->ts", rotary(q), rotary(k))
    for distance in (0, 1, 7):
        np.testing.assert_allclose(np.diagonal(products, -distance), products[distance, 0], rtol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(rotary(q), axis=-1), np.linalg.norm(q[0]))


@pytest.mark.parametrize(
    "build", [lambda: LearnedPositions(9, 8), lambda: SinusoidalPositions(9, 8), lambda: RotaryPositions(9, 8)]
)
def test_positions_from_a_start_are_the_rest_of_the_whole(build: Any) -> None:
    positions = build()
    whole = positions(X)
    np.testing.assert_array_equal(positions(X[:, 3:], start=3), whole[:, 3:])


def test_sinusoids_are_exact_far_out() -> None:
    far = SinusoidalPositions(100_001, 4)(np.zeros((1, 100_001, 4), dtype="float32"))[0, -1]
    np.testing.assert_allclose(far, [np.sin(1e5), np.cos(1e5), np.sin(1e3), np.cos(1e3)], atol=1e-6)


def test_dropout_of_attention_weights_is_off_in_evaluation() -> None:
    layer = attention(dropout=0.5)
    assert (layer(X) != layer(X)).any()
    layer.eval()
    np.testing.assert_array_equal(layer(X), layer(X))


def test_a_prefix_of_a_batch_of_one() -> None:
    layer = attention().eval()
    np.testing.assert_allclose(layer(X[:1]), layer(X)[:1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "heads, width, dtype, error, message",
    [
        (4, 3, "float32", ShapeError, r"it holds 2 heads of width 3, got 4 of width 3: each attention layer needs"),
        (2, 5, "float32", ShapeError, r"it holds 2 heads of width 3, got 2 of width 5"),
        (2, 3, "float64", DtypeError, r"it holds float32, got float64"),
    ],
)
def test_a_cache_refuses_heads_unlike_those_it_holds(heads, width, dtype, error, message) -> None:
    cache = KeyValueCache(9)
    first = np.ones((1, 2, 1, 3), dtype="float32")
    cache.extend(first, first)
    other = np.ones((1, heads, 1, width), dtype=dtype)
    with pytest.raises(error, match=message):
        cache.extend(other, other)
    assert cache.length == 1
