"""What a user can get wrong with layers: a typed error that names what was found and what is wanted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu import layers
from tinygrad_edu.errors import BackwardError, ConfigError, DeviceError, DtypeError, RangeError, ShapeError
from tinygrad_edu.layers import (
    Dropout,
    Embedding,
    FeedForward,
    KeyValueCache,
    LayerNorm,
    LearnedPositions,
    Linear,
    MultiHeadAttention,
    Parameter,
    Residual,
    RMSNorm,
    RotaryPositions,
    Sequential,
    SinusoidalPositions,
    Softmax,
    TransformerBlock,
)


def zeros(*shape: int) -> Any:
    return np.zeros(shape, dtype="float32")


CONFIG = [
    (lambda: Linear(0, 3), "Linear: in_features must be an integer >= 1, got 0"),
    (lambda: Linear(3, 2.5), "Linear: out_features must be an integer >= 1, got 2.5"),
    (lambda: Linear(3, True), "Linear: out_features must be an integer >= 1, got True"),
    (lambda: Embedding(-1, 3), "Embedding: num_embeddings must be an integer >= 1, got -1"),
    (lambda: LayerNorm(0), "LayerNorm: dim must be an integer >= 1, got 0"),
    (lambda: LayerNorm(3, eps=-1), "LayerNorm: eps must be >= 0, got -1"),
    (lambda: RMSNorm(3, eps=float("nan")), "RMSNorm: eps must be >= 0, got nan"),
    (lambda: Dropout(1.5), r"Dropout: p must be a number in \[0, 1\], got 1.5"),
    (lambda: Dropout(-0.1), r"Dropout: p must be a number in \[0, 1\], got -0.1"),
    (lambda: Dropout("0.1"), r"Dropout: p must be a number in \[0, 1\], got '0.1'"),
    (lambda: layers.GELU("erf"), "GELU: approximate must be 'none' or 'tanh', got 'erf'"),
    (lambda: Softmax(2)(zeros(2, 3)), "Softmax: dim 2 is out of range for an array with 2 axes"),
    (lambda: MultiHeadAttention(6, 4), "embed_dim must be divisible by num_heads, got 6 and 4"),
    (lambda: MultiHeadAttention(6, 0), "MultiHeadAttention: num_heads must be an integer >= 1, got 0"),
    (lambda: MultiHeadAttention(6, 2, dropout=1), r"MultiHeadAttention: dropout must be a number in \[0, 1\), got 1"),
    (
        lambda: MultiHeadAttention(8, 2, rotary=RotaryPositions(9, 8)),
        "rotary must have the width of a head, 4, it has 8",
    ),
    (lambda: RotaryPositions(9, 5), "RotaryPositions: dim must be even, got 5"),
    (lambda: RotaryPositions(9, 4, base=1), "RotaryPositions: base must be > 1, got 1"),
    (lambda: SinusoidalPositions(0, 4), "SinusoidalPositions: max_len must be an integer >= 1, got 0"),
    (lambda: LearnedPositions(0, 4), "must be an integer >= 1, got 0"),
    (lambda: FeedForward(4, 8, activation="gelo"), "activation must be one of relu, gelu, .*, got 'gelo'"),
    (lambda: FeedForward(4, 8, dropout=2), "Dropout: p must be a number in"),
    (lambda: TransformerBlock(4, 2, 8, norm_placement="mid"), "norm_placement must be 'pre' or 'post', got 'mid'"),
    (lambda: layers.create_causal_mask(0), "create_causal_mask: length must be an integer >= 1, got 0"),
    (lambda: tg.backend.Generator(-1), "seed must be an integer >= 0 or None, got -1"),
]


@pytest.mark.parametrize("build, message", CONFIG, ids=lambda value: value[:40] if isinstance(value, str) else "")
def test_settings(build: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()


def attend(**changes: Any) -> Any:
    given = {"query": zeros(2, 3, 6), **changes}
    return MultiHeadAttention(6, 2)(**given)


INPUTS = [
    (
        ShapeError,
        lambda: Linear(3, 2)(zeros(4, 5)),
        r"Linear: expected \(..., 3\), got \(4, 5\): the last axis must have length 3",
    ),
    (ShapeError, lambda: Linear(3, 2)(zeros()), r"Linear: expected \(..., 3\), got \(\)"),
    (ShapeError, lambda: LayerNorm(3)(zeros(3, 4)), r"LayerNorm: expected \(..., 3\), got \(3, 4\)"),
    (ShapeError, lambda: RMSNorm(3)(zeros(3, 4)), r"RMSNorm: expected \(..., 3\), got \(3, 4\)"),
    (
        RangeError,
        lambda: Embedding(5, 2)(np.array([[0, -1]])),
        r"Embedding: ids must be in \[0, 5\), got -1 at position \(0, 1\)",
    ),
    (
        RangeError,
        lambda: Embedding(5, 2)(np.array([0, 5, 7])),
        r"Embedding: ids must be in \[0, 5\), got 5 at position \(1,\)",
    ),
    (DtypeError, lambda: Embedding(5, 2)(np.array([0.0, 1.0])), "Embedding: ids must be integers, got float64"),
    (DtypeError, lambda: Embedding(5, 2)(np.array([True])), "Embedding: ids must be integers, got bool"),
    (DeviceError, lambda: Embedding(5, 2)([0, 1]), "expected a NumPy or CuPy array, got builtins.list"),
    (
        ShapeError,
        lambda: LearnedPositions(4, 3)(zeros(2, 5, 3)),
        "LearnedPositions: sequence of length 5 is longer than max_len 4",
    ),
    (ShapeError, lambda: LearnedPositions(4, 3)(zeros(2, 2, 3), 3), "sequence of length 5 is longer than max_len 4"),
    (ShapeError, lambda: LearnedPositions(4, 3)(zeros(2, 2, 4)), r"expected \(batch, time, 3\), got \(2, 2, 4\)"),
    (
        ShapeError,
        lambda: SinusoidalPositions(4, 3)(zeros(2, 5, 3)),
        "SinusoidalPositions: sequence of length 5 is longer than max_len 4",
    ),
    (ShapeError, lambda: SinusoidalPositions(4, 3)(zeros(5, 3)), r"expected \(batch, time, 3\), got \(5, 3\)"),
    (
        ShapeError,
        lambda: RotaryPositions(4, 2)(zeros(2, 5, 2)),
        "RotaryPositions: sequence of length 5 is longer than max_len 4",
    ),
    (
        ShapeError,
        lambda: RotaryPositions(4, 2)(zeros(2, 5, 4)),
        r"RotaryPositions: expected \(..., time, 2\), got \(2, 5, 4\)",
    ),
    (ShapeError, lambda: attend(query=zeros(3, 6)), r"query must be \(batch, time, 6\), got \(3, 6\)"),
    (ShapeError, lambda: attend(query=zeros(2, 3, 5)), r"query must be \(batch, time, 6\), got \(2, 3, 5\)"),
    (ShapeError, lambda: attend(memory=zeros(2, 3, 5)), r"key and value must be \(batch, time, 6\), got \(2, 3, 5\)"),
    (ShapeError, lambda: attend(memory=zeros(1, 3, 6)), "query has batch 2, key and value have batch 1"),
    (DtypeError, lambda: attend(mask=zeros(2, 1, 3, 3)), "mask must be bool, True where a query may look; got float32"),
    (
        ShapeError,
        lambda: attend(mask=np.ones((2, 1, 3, 4), dtype=bool)),
        r"mask must be broadcastable to \(batch, heads, queries, keys\), here \(2, 2, 3, 3\), got \(2, 1, 3, 4\)",
    ),
    (
        ShapeError,
        lambda: Residual(Linear(3, 2))(zeros(4, 3)),
        r"Residual: the inner layer must keep the shape \(4, 3\), it gave \(4, 2\)",
    ),
    (
        ShapeError,
        lambda: layers.create_padding_mask(np.zeros(3, dtype=int), 0),
        r"create_padding_mask: expected \(batch, time\) ids, got \(3,\)",
    ),
    (BackwardError, lambda: attend(cache=KeyValueCache(4)), "a key/value cache has no backward; use tg.inference()"),
    (
        ShapeError,
        lambda: Parameter(zeros(3)).accumulate(zeros(2, 3)),
        r"expected a gradient \(3,\), the parameter's shape, got \(2, 3\); sum it over the leading axes first",
    ),
    (
        ShapeError,
        lambda: Parameter(zeros(3)).accumulate(zeros(1)),
        r"expected a gradient \(3,\), the parameter's shape, got \(1,\)$",
    ),
]


@pytest.mark.parametrize("error, call, message", INPUTS, ids=lambda value: value[:40] if isinstance(value, str) else "")
def test_inputs(error: type[Exception], call: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_a_cache_that_is_full_or_of_another_batch() -> None:
    attention, cache = MultiHeadAttention(6, 2), KeyValueCache(4)
    with tg.inference():
        attention(zeros(2, 3, 6), cache=cache)
        with pytest.raises(ShapeError, match="KeyValueCache: sequence of length 5 is longer than max_len 4"):
            attention(zeros(2, 2, 6), cache=cache)
        with pytest.raises(ShapeError, match="KeyValueCache: it holds a batch of 2, got one of 1"):
            attention(zeros(1, 1, 6), cache=cache)
    assert cache.length == 3  # what failed left nothing behind


def test_an_array_of_another_library_is_named() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(DeviceError, match="expected a NumPy or CuPy array, got torch.Tensor"):
        Linear(3, 2)(torch.zeros(4, 3))


def test_arrays_of_two_devices(strict_cuda: Any) -> None:
    there = tg.backend.to_device(zeros(4, 3), "cuda")
    for layer, x in (
        (Linear(3, 2), there),
        (LayerNorm(3), there),
        (RMSNorm(3), there),
        (Linear(3, 2).to("cuda"), zeros(4, 3)),
    ):
        with pytest.raises(DeviceError, match="arrays of two devices met"):
            layer(x)
    with pytest.raises(DeviceError, match="arrays of two devices met"):
        Embedding(5, 2)(tg.backend.to_device(np.array([0, 1]), "cuda"))
    with pytest.raises(DeviceError, match="arrays of two devices met"):
        LearnedPositions(5, 3)(tg.backend.to_device(zeros(2, 4, 3), "cuda"))
    with pytest.raises(DeviceError, match="arrays of two devices met"):
        attention = MultiHeadAttention(6, 2).to("cuda")
        attention(tg.backend.to_device(zeros(2, 3, 6), "cuda"), mask=np.ones((2, 1, 1, 3), dtype=bool))


@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "textbook"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_query_that_may_look_nowhere_gives_zeros(kernels: bool, dtype: str) -> None:
    """And no NaN anywhere, in either pass: its output is the bias, its gradient nothing."""
    import contextlib

    rng = np.random.default_rng(0)
    attention = MultiHeadAttention(6, 2).astype(dtype)
    x = rng.normal(size=(2, 3, 6)).astype(dtype)
    mask = np.ones((2, 1, 3, 3), dtype=bool)
    mask[0, :, 1] = False
    mask[1] = False
    with contextlib.nullcontext() if kernels else tg.reference_ops():
        y = attention(x, mask=mask)
        np.testing.assert_array_equal(y[0, 1], attention.out_proj.bias.data)
        np.testing.assert_array_equal(y[1], np.broadcast_to(attention.out_proj.bias.data, (3, 6)))
        dx = attention.backward(rng.normal(size=y.shape).astype(dtype))
    assert np.isfinite(dx).all()
    assert not dx[1].any()
    assert all(np.isfinite(parameter.grad).all() for parameter in attention.parameters())


EMPTY = [
    (lambda: Linear(3, 2), (3,)),
    (lambda: LayerNorm(3), (3,)),
    (lambda: RMSNorm(3), (3,)),
    (lambda: layers.GELU(), (3,)),
    (lambda: layers.SiLU(), (3,)),
    (lambda: Softmax(), (3,)),
    (lambda: Dropout(0.5), (3,)),
    (lambda: FeedForward(3, 4), (3,)),
    (lambda: LearnedPositions(5, 3), (3,)),
]


@pytest.mark.parametrize("build, tail", EMPTY)
@pytest.mark.parametrize("head", [(0, 4), (2, 0)], ids=["empty batch", "no time"])
@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "textbook"])
def test_nothing_in_gives_nothing_out(build: Any, tail: tuple[int, ...], head: tuple[int, ...], kernels: bool) -> None:
    """A layer is a function of each row: of no rows it gives none, and its parameters a gradient of zero."""
    import contextlib

    layer = build()
    with contextlib.nullcontext() if kernels else tg.reference_ops():
        y = layer(zeros(*head, *tail))
        dx = layer.backward(y)
    assert dx.shape == (*head, *tail)
    assert all(not parameter.grad.any() for parameter in layer.parameters())


@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "textbook"])
@pytest.mark.parametrize("shape, message", [((0, 4, 6), r"empty batch"), ((2, 0, 6), r"empty sequence")])
def test_attention_over_nothing(kernels: bool, shape: tuple[int, ...], message: str) -> None:
    import contextlib

    with contextlib.nullcontext() if kernels else tg.reference_ops(), pytest.raises(ShapeError, match=message):
        MultiHeadAttention(6, 2)(zeros(*shape))


def test_loading_lists_all_that_is_wrong() -> None:
    layer = Sequential(Linear(3, 2), LayerNorm(2))
    state = {"0.weight": zeros(3, 2), "0.bais": zeros(2), "1.weight": zeros(2)}
    with pytest.raises(ShapeError) as caught:
        layer.load_state_dict(state)
    assert str(caught.value).splitlines() == [
        "the state does not fit Sequential:",
        "  missing: 0.bias (2,)",
        "  missing: 1.bias (2,)",
        "  unexpected: 0.bais Did you mean '0.bias'?",
        "  misshapen: 0.weight expected (2, 3), got (3, 2)",
    ]
    assert not (layer[1].weight.data == 0).any()  # and nothing was changed


def test_super_init_forgotten() -> None:
    class Mine(layers.Layer):
        def __init__(self) -> None:
            self.weight = Parameter(zeros(3))

    with pytest.raises(
        BackwardError, match=r"call super\(\).__init__\(\) first in Mine.__init__, before assigning 'weight'"
    ):
        Mine()


def test_too_many_forwards_without_a_backward_warn() -> None:
    tanh = layers.Tanh()
    for _ in range(999):
        tanh(zeros(1))
    with pytest.warns(UserWarning, match="Tanh: forward ran 1000 times without a backward and holds the memory"):
        tanh(zeros(1))


def test_ids_beyond_float_precision_and_of_any_integer_type() -> None:
    table = Embedding(300, 2)
    for dtype in ("uint8", "int16", "int32", "uint16", "int64"):
        np.testing.assert_array_equal(
            table(np.array([1, 255 if dtype == "uint8" else 299], dtype=dtype))[0], table.weight.data[1]
        )


def test_a_gradient_of_the_wrong_width() -> None:
    linear = Linear(3, 2)
    linear(zeros(4, 3))
    with pytest.raises(ShapeError, match=r"Linear: expected \(..., 2\), got \(4, 3\)"):
        linear.backward(zeros(4, 3))
