"""Skips, steps and attention among pixels: what a user can get wrong, and facts that no row of the table shows."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from tinygrad_edu.errors import ConfigError, DeviceError, DtypeError, RangeError, ShapeError
from tinygrad_edu.layers import (
    Conv2d,
    MaxPool2d,
    Sequential,
    SkipConnection,
    SpatialCrossAttention,
    SpatialSelfAttention,
    TimestepEmbedding,
    Upsample,
)
from tinygrad_edu.layers.base import Layer
from tinygrad_edu.layers.skip import cut_or_fill
from tinygrad_edu.layers.spatial_attention import to_image, to_tokens
from tinygrad_edu.layers.timestep import timestep_table


def zeros(*shape: int, dtype: str = "float32") -> Any:
    return np.zeros(shape, dtype)


def images(*shape: int) -> Any:
    return np.random.default_rng(1).normal(size=shape)


CONFIG = [
    (lambda: TimestepEmbedding(0), "TimestepEmbedding: dim must be an integer >= 1, got 0"),
    (lambda: TimestepEmbedding(8, num_steps=0), "TimestepEmbedding: num_steps must be an integer >= 1, got 0"),
    (lambda: TimestepEmbedding(2), "dim // 2 must be at least 1 and larger than downscale_freq_shift, got dim 2 and"),
    (lambda: TimestepEmbedding(1, downscale_freq_shift=0), "dim // 2 must be at least 1"),
    (lambda: TimestepEmbedding(8, max_period=0), "TimestepEmbedding: max_period must be > 0, got 0"),
    (lambda: SpatialSelfAttention(6, 1, 4), "GroupNorm: num_channels must be divisible by num_groups, got 6 and 4"),
    (lambda: SpatialSelfAttention(6, 4, 2), "embed_dim must be divisible by num_heads, got 6 and 4"),
    (lambda: SpatialCrossAttention(6, 0, 1, 2), "SpatialCrossAttention: context_dim must be an integer >= 1, got 0"),
]


@pytest.mark.parametrize("build, message", CONFIG)
def test_settings(build: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        build()


class Flat(Layer):
    def forward(self, x: Any) -> Any:
        return x.reshape(len(x), -1)


STEPS, PIXELS = TimestepEmbedding(8, num_steps=10), SpatialSelfAttention(6, 2, 3)
CROSS = SpatialCrossAttention(6, 5, 2, 3)
SKIP = SkipConnection(Conv2d(6, 2, 3, padding=1))
IMAGE, CONTEXT, MASK = zeros(2, 6, 4, 3), zeros(2, 7, 5), np.ones((2, 7), bool)


def through_a_skip(dy: Any) -> None:
    SKIP(IMAGE)
    SKIP.backward(dy)


INPUTS: list[tuple[Any, type[Exception], str]] = [
    (lambda: SkipConnection(Flat())(IMAGE), ShapeError, "must keep the batch and the number of axes of its input"),
    (lambda: SkipConnection(Flat())(zeros(2, 3)), ShapeError, "expected (batch, channels, *size), got (2, 3)"),
    (lambda: SkipConnection(Flat())([[1.0]]), DeviceError, "expected a NumPy or CuPy array, got builtins.list"),
    (lambda: through_a_skip(zeros(2, 8, 1, 3)), ShapeError,
     "SkipConnection.backward: expected a gradient (2, 8, 4, 3), the output's shape, got (2, 8, 1, 3)"),
    (lambda: through_a_skip(zeros(2, 7, 4, 3)), ShapeError, "output's shape, got (2, 7, 4, 3)"),
    (lambda: STEPS(np.array([0, 10])), RangeError, "TimestepEmbedding: t must be in [0, 10), got 10"),
    (lambda: STEPS(np.array([3, -2])), RangeError, "TimestepEmbedding: t must be in [0, 10), got -2"),
    (lambda: STEPS(np.array([0.5])), DtypeError, "t must be integers, the numbers of steps, got float64"),
    (lambda: STEPS(np.array([[1]])), ShapeError, "t must be an array (batch,), a step for each example, got (1, 1)"),
    (lambda: STEPS(4), ShapeError, "t must be an array (batch,), a step for each example, got int"),
    (lambda: PIXELS(zeros(2, 5, 4, 3)), ShapeError, "the image has 5 channels where 6 are wanted"),
    (lambda: PIXELS(zeros(6, 4)), ShapeError, "expected (batch, 6, height, width), or (6, height, width)"),
    (lambda: PIXELS(zeros(2, 6, 4, 3, dtype="int64")), DtypeError, "x must hold floating-point numbers, got int64"),
    (lambda: PIXELS(zeros(2, 6, 0, 3)), ShapeError, "only the batch may be empty, got (2, 6, 0, 3)"),
    (lambda: CROSS(IMAGE[0], CONTEXT), ShapeError, "expected (batch, 6, height, width), got (6, 4, 3)"),
    (lambda: CROSS(IMAGE, CONTEXT[:1]), ShapeError,
     "context must be (2, length, 5), for images (2, 6, 4, 3), got (1, 7, 5)"),
    (lambda: CROSS(IMAGE, CONTEXT[..., 1:]), ShapeError, "context must be (2, length, 5)"),
    (lambda: CROSS(IMAGE, CONTEXT.astype(int)), DtypeError, "context must hold floating-point numbers, got int64"),
    (lambda: CROSS(IMAGE, [[1.0]]), DeviceError, "expected a NumPy or CuPy array, got builtins.list"),
    (lambda: CROSS(IMAGE, CONTEXT[:, 0]), ShapeError, "context must be (2, length, 5)"),
    (lambda: CROSS(IMAGE, CONTEXT, MASK[:, 1:]), ShapeError, "mask must be (batch, length), here (2, 7), got (2, 6)"),
    (lambda: CROSS(IMAGE, CONTEXT, MASK * 1), DtypeError, "mask must be bool, False at padding, got int64"),
]  # fmt: skip


@pytest.mark.parametrize("call, error, message", INPUTS, ids=[row[2] for row in INPUTS])
def test_inputs(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()


# -- skips -----------------------------------------------------------------------------------------------


def test_cutting_and_filling_are_each_others_transposes() -> None:
    z, other = images(2, 3, 4, 7), images(2, 3, 6, 5)
    there, back = cut_or_fill(z, (6, 5)), cut_or_fill(other, (4, 7))
    assert (there * other).sum() == pytest.approx((z * back).sum(), rel=1e-12)
    np.testing.assert_array_equal(there[:, :, :4, :5], z[:, :, :, :5])
    assert not there[:, :, 4:].any()
    assert cut_or_fill(z, (4, 7)) is z  # the usual case costs nothing


def test_filling_keeps_the_memory_layout() -> None:
    last = images(2, 4, 7, 3).transpose(0, 3, 1, 2)
    assert cut_or_fill(last, (5, 8)).transpose(0, 2, 3, 1).flags.c_contiguous


def test_halving_and_doubling_stays_where_it_was() -> None:
    """Each pixel of an odd image meets the pixel that it became, and the last row and column meet zeros."""
    x = np.arange(1.0, 36).reshape(1, 1, 5, 7)
    y = SkipConnection(Sequential(MaxPool2d(2), Upsample(scale_factor=2)))(x)
    assert y.shape == (1, 2, 5, 7)
    np.testing.assert_array_equal(y[:, :1], x)
    np.testing.assert_array_equal(y[0, 1, :4, :6], x[0, 0, 1::2, 1::2].repeat(2, 0).repeat(2, 1))
    assert not y[0, 1, 4].any() and not y[0, 1, :, 6].any()


def test_a_skip_keeps_no_image() -> None:
    skip = SkipConnection(Conv2d(3, 4, 3, padding=1))
    skip(images(1, 3, 8, 8).astype("float32"))
    assert not any(hasattr(value, "dtype") for value in skip._saved[0])


# -- steps -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [8, 33, 128])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("period", [10000, 100])
def test_the_table_is_that_of_diffusers(dim: int, flip: bool, shift: int, period: int) -> None:
    torch = pytest.importorskip("torch")
    embeddings = pytest.importorskip("diffusers.models.embeddings")
    wanted = embeddings.get_timestep_embedding(torch.arange(1000), dim, flip, shift, max_period=period)
    ours = timestep_table(1000, dim, period, flip, shift)
    np.testing.assert_allclose(
        ours, wanted.numpy(), rtol=0, atol=2e-4
    )  # theirs is of float32, whose 999 rounds by 3e-5


def test_the_embedding_is_that_of_diffusers() -> None:
    torch = pytest.importorskip("torch")
    embeddings = pytest.importorskip("diffusers.models.embeddings")
    ours = TimestepEmbedding(8, 12)
    theirs = embeddings.TimestepEmbedding(8, 12)
    theirs.load_state_dict({name: torch.tensor(values) for name, values in ours.state_dict().items()})
    t = np.array([0, 1, 500, 999])
    wanted = theirs(embeddings.Timesteps(8, flip_sin_to_cos=False, downscale_freq_shift=1)(torch.tensor(t)))
    np.testing.assert_allclose(ours(t), wanted.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_rows_of_the_table_are_all_different() -> None:
    table = timestep_table(1000, 16)
    distance = np.linalg.norm(table[:, None] - table[None], axis=-1) + 9 * np.eye(1000)
    assert distance.min() > 1e-2


# -- pixels ----------------------------------------------------------------------------------------------


def test_tokens_are_pixels_in_row_order() -> None:
    x = images(2, 3, 4, 5)
    tokens = to_tokens(x)
    np.testing.assert_array_equal(tokens[1, 7], x[1, :, 1, 2])
    np.testing.assert_array_equal(to_image(tokens, (4, 5)), x)
    last = images(2, 4, 5, 3).transpose(0, 3, 1, 2)
    assert np.shares_memory(to_tokens(last), last)


def test_one_image_is_a_batch_of_one() -> None:
    layer = SpatialSelfAttention(6, 2, 3).astype("float64")
    x, dy = images(6, 4, 3), images(6, 4, 3)
    y, dx = layer(x), layer.backward(dy)
    np.testing.assert_allclose(y, layer(x[None])[0], rtol=1e-12)
    np.testing.assert_allclose(dx, layer.backward(dy[None])[0], rtol=1e-12)


def test_pixels_have_no_places() -> None:
    """Attention among pixels that are moved about gives the same pixels moved about."""
    layer = SpatialSelfAttention(6, 2, 3).astype("float64")
    x = images(1, 6, 4, 3)
    np.testing.assert_allclose(layer(x[:, :, ::-1]), layer(x)[:, :, ::-1], rtol=1e-9, atol=1e-12)
