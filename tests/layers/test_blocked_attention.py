"""Attention by blocks: the results of attention, and memory that grows with the length alone."""

from __future__ import annotations

import importlib
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_edu as tg
from tinygrad_edu.backend import Generator, random_uniform, to_device, to_host, uniform_at
from tinygrad_edu.errors import ConfigError
from tinygrad_edu.layers import MultiHeadAttention
from tinygrad_edu.layers.attention_ops import attention, attention_backward
from tinygrad_edu.layers.blocked_attention import attention_ops, blocked_attention, blocked_attention_backward

RNG = np.random.default_rng(0)


def heads(batch: int, count: int, time: int, dim: int, dtype: str = "float64") -> Any:
    return RNG.normal(size=(batch, count, time, dim)).astype(dtype)


def results(forward: Any, backward: Any, dy: Any, q: Any, k: Any, v: Any, mask: Any, *how: Any) -> list[Any]:
    y, lse = forward(q, k, v, mask, *how)
    return [y, lse, *backward(dy, q, k, v, mask, y, lse, *how)]


@given(data=st.data())
def test_it_is_attention(data: st.DataObject) -> None:
    """Of any lengths, blocks, masks and noise; rows that see nothing, and more queries than keys, are among them."""
    batch, count, dim = (data.draw(st.integers(1, 3)) for _ in range(3))
    time, keys, block = (data.draw(st.integers(1, 12)) for _ in range(3))
    q, dy = heads(batch, count, time, dim), heads(batch, count, time, dim)
    k, v = heads(batch, count, keys, dim), heads(batch, count, keys, dim)
    shape = data.draw(st.sampled_from([None, (), (keys,), (time, 1), (batch, 1, 1, keys), (batch, count, time, keys)]))
    mask = None if shape is None else np.asarray(RNG.random(shape) < data.draw(st.sampled_from([0.0, 0.5, 0.9])))
    dropout, seed = data.draw(st.sampled_from([(0.0, 0), (0.3, 5), (0.5, 2**63 - 1)]))
    how = (data.draw(st.booleans()), data.draw(st.sampled_from([0.1, 1.0])), dropout, seed)
    with tg.reference_ops():
        wanted = results(attention, attention_backward, dy, q, k, v, mask, *how)
        found = results(blocked_attention, blocked_attention_backward, dy, q, k, v, mask, *how, block)
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-12)


def test_the_noise_of_a_place_is_that_of_the_whole() -> None:
    whole = random_uniform(np.empty((7, 11), dtype="float64"), 12345)
    places = np.arange(77, dtype=np.uint64).reshape(7, 11)[2:5, 3:9]
    np.testing.assert_array_equal(uniform_at(places, 12345), whole[2:5, 3:9])


@pytest.mark.parametrize("causal", [False, True])
def test_large_scores_do_not_overflow(causal: bool) -> None:
    """The largest score of a row comes in its last block, and one of -1e4 in its first."""
    q = np.ones((1, 1, 6, 1))
    k = np.array([-1e4, 0, 700, -3, 710, 1e4]).reshape(1, 1, 6, 1)
    v = np.arange(6.0).reshape(1, 1, 6, 1)
    with tg.reference_ops(), np.errstate(over="raise", invalid="raise"):
        wanted = attention(q, k, v, None, causal, 1.0)
        found = blocked_attention(q, k, v, None, causal, 1.0, 0.0, 0, 2)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_nan_is_not_hidden() -> None:
    q = np.ones((1, 1, 5, 2))
    broken = q.copy()
    broken[0, 0, 3] = np.nan
    assert np.isnan(blocked_attention(q, broken, q, None, False, 1.0, 0.0, 0, 2)[0]).all()
    y = blocked_attention(broken, q, q, None, False, 1.0, 0.0, 0, 2)[0]
    assert np.isnan(y[0, 0, 3]).all() and not np.isnan(y[0, 0, [0, 1, 2, 4]]).any()


def test_blocks_that_are_masked_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("tinygrad_edu.layers.blocked_attention")
    made: list[tuple[slice, slice]] = []
    scores = module._block_scores
    monkeypatch.setattr(module, "_block_scores", lambda *args: made.append(args[-2:]) or scores(*args))
    q = heads(1, 1, 12, 2)
    blocked_attention(q, q, q, None, True, 1.0, 0.0, 0, 3)
    assert len(made) == 4 * 5 // 2
    assert all(cols.start < rows.stop for rows, cols in made)


@pytest.mark.parametrize("block", [0, -1, 2.0, True])
def test_wrong_blocks(block: Any) -> None:
    q = heads(1, 1, 3, 2)
    with pytest.raises(ConfigError, match=r"block must be an integer >= 1"):
        blocked_attention(q, q, q, None, False, 1.0, block=block)
    with pytest.raises(ConfigError, match=r"block must be an integer >= 1"):
        blocked_attention_backward(q, q, q, q, None, q, q[..., :1], False, 1.0, block=block)


def chosen(time: int, keys: int, dtypes: str = "ddd") -> str:
    arrays = [
        np.empty((1, 1, length, 2), dtype=dtype) for length, dtype in zip((time, keys, keys), dtypes, strict=True)
    ]
    forward, backward = attention_ops(*arrays)
    assert backward.name == f"{forward.name}_backward"
    return forward.name


def test_it_is_chosen_where_it_pays() -> None:
    assert chosen(511, 512) == "attention" and chosen(512, 512) == "blocked_attention"
    assert chosen(1, 100_000) == "attention"  # a generated token
    assert chosen(4096, 4096, "ffd") == "blocked_attention"  # of two types, so no kernel stands in
    with tg.reference_ops():
        assert chosen(4096, 4096, "fff") == "blocked_attention"
    if attention.kernel_for("cpu", "float32") is not None:
        assert chosen(4096, 4096, "fff") == "attention"


def test_it_is_chosen_on_another_device(strict_cuda: Any) -> None:
    q = to_device(np.empty((1, 1, 512, 2), dtype="float32"), "cuda")
    assert attention_ops(q, q, q)[0] is blocked_attention


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_the_layer_gives_the_same_either_way(dropout: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A length of which neither is a multiple of the blocks."""
    x, dy = RNG.normal(size=(2, 1, 530, 8))

    def run() -> list[Any]:
        layer = MultiHeadAttention(8, 2, dropout, generator=Generator(0)).astype("float64")
        y = layer(x, causal=True)
        return [y, layer.backward(dy), *(parameter.grad for parameter in layer.parameters())]

    by_blocks = run()
    module = importlib.import_module("tinygrad_edu.layers.attention")
    monkeypatch.setattr(module, "attention_ops", lambda *_: (attention, attention_backward))
    for one, other in zip(by_blocks, run(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_on_a_strict_stand_in_for_cupy(strict_cuda: Any) -> None:
    layer = MultiHeadAttention(4, 1, 0.2, generator=Generator(0)).astype("float64")
    x, dy = RNG.normal(size=(2, 1, 520, 4))
    layer.generator = Generator(1)
    here = [layer(x, causal=True), layer.backward(dy)]
    layer.to("cuda").generator = Generator(1)
    there = [layer(to_device(x, "cuda"), causal=True), layer.backward(to_device(dy, "cuda"))]
    for one, other in zip(there, here, strict=True):
        np.testing.assert_allclose(to_host(one), other, rtol=1e-9, atol=1e-12)


def peak(time: int, dtype: str, causal: bool) -> int:
    """Bytes that forward and backward of the layer need at most, for one sequence of this length."""
    layer = MultiHeadAttention(8, 2, generator=Generator(0)).astype(dtype)
    x = RNG.normal(size=(1, time, 8)).astype(dtype)
    layer.backward(layer(x))  # compiles what is not compiled yet
    tracemalloc.start()
    try:
        layer.backward(layer(x, causal=causal))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def growth(dtype: str, causal: bool, time: int = 1024) -> float:
    """What two lengths more bring to what one length brings: 2 if memory grows with the length, 4 with its square."""
    small, middle, large = (peak(length, dtype, causal) for length in (time, 2 * time, 4 * time))
    return (large - middle) / (middle - small)


@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize("how", ["textbook", "kernel"])
def test_memory_grows_with_the_length_alone(how: str, causal: bool) -> None:
    if how == "kernel" and attention.kernel_for("cpu", "float32") is None:
        pytest.skip("the kernels are off")
    assert 1.8 < growth("float64" if how == "textbook" else "float32", causal) < 2.2


def test_memory_of_all_weights_grows_with_its_square(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same measurement tells the two apart."""
    module = importlib.import_module("tinygrad_edu.layers.attention")
    monkeypatch.setattr(module, "attention_ops", lambda *_: (attention, attention_backward))
    assert growth("float64", False, 512) > 3.5
