"""Layers of images: parity with torch over their settings, layouts, empty batches, single images, and memory."""

from __future__ import annotations

import contextlib
import itertools
import math
import tracemalloc
from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu.layers import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AvgPool1d,
    AvgPool2d,
    Conv1d,
    Conv2d,
    ConvTranspose1d,
    ConvTranspose2d,
    Layer,
    MaxPool1d,
    MaxPool2d,
    Upsample,
)
from tinygrad_edu.layers.pooling_ops import max_pool

RTOL = 1e-9


def channels_last(x: np.ndarray) -> np.ndarray:
    """The same values; in memory the channels of a pixel are neighbours."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def against_torch(mine: Layer, name: str, x: np.ndarray, *args: Any, forward: Any = None, **settings: Any) -> None:
    """Output and all gradients in float64, weights taken from torch."""
    import torch

    twin = getattr(torch.nn, name)(*args, **settings).double()
    mine.astype("float64").load_state_dict({key: value.numpy() for key, value in twin.state_dict().items()})
    forward = forward or {}
    x_torch = torch.tensor(x, requires_grad=True)
    y_torch = twin(x_torch, **forward)
    y = mine(x, **forward)
    assert y.shape == tuple(y_torch.shape)
    np.testing.assert_allclose(y, y_torch.detach(), rtol=RTOL, atol=1e-12)
    dy = np.random.default_rng(1).normal(size=y.shape)
    y_torch.backward(torch.tensor(dy))
    np.testing.assert_allclose(mine.backward(dy), x_torch.grad, rtol=RTOL, atol=1e-12)
    for key, parameter in twin.named_parameters():
        np.testing.assert_allclose(
            dict(mine.named_parameters())[key].grad, parameter.grad, rtol=RTOL, atol=1e-11, err_msg=key
        )


def image(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape)


# -- settings against torch ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("kernel", [1, 3, (2, 4)], ids=str)
@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")  # torch copies there, and says so
def test_convolution_with_all_settings(kernel: Any, mode: str) -> None:
    pytest.importorskip("torch")
    for stride, padding, dilation, groups in itertools.product(
        (1, 2, (2, 3)), (0, 1, (2, 1), "same"), (1, 2, (1, 3)), (1, 2)
    ):
        if padding != "same" or stride == 1:
            how = (4, 6, kernel, stride, padding, dilation, groups)
            against_torch(Conv2d(*how, padding_mode=mode), "Conv2d", image(2, 4, 11, 13), *how, padding_mode=mode)


@pytest.mark.parametrize("kernel", [1, 3, (2, 4)], ids=str)
def test_transposed_convolution_with_all_settings(kernel: Any) -> None:
    """Wherever torch takes them; wherever it does not, there is an error here too."""
    torch = pytest.importorskip("torch")
    taken = 0
    for stride, padding, output_padding, groups, dilation in itertools.product(
        (1, 2, (2, 3)), (0, 1, (2, 1)), (0, 1, (0, 2)), (1, 2), (1, 2, (1, 3))
    ):
        how = (4, 6, kernel, stride, padding, output_padding, groups, True, dilation)
        try:
            torch.nn.ConvTranspose2d(*how).double()(torch.zeros(1, 4, 2, 3).double())
        except RuntimeError:
            with pytest.raises(tg.errors.TinygradEduError):
                ConvTranspose2d(*how)(np.zeros((1, 4, 2, 3)))
            continue
        against_torch(ConvTranspose2d(*how), "ConvTranspose2d", image(2, 4, 2, 3), *how)
        taken += 1
    assert taken > 50


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("kernel", [1, 2, 3, (2, 5)], ids=str)
def test_max_pooling_with_all_settings(kernel: Any, ceil_mode: bool) -> None:
    torch = pytest.importorskip("torch")
    for stride, padding, dilation in itertools.product((None, 1, 2, (2, 3)), (0, 1, (2, 1)), (1, 2, (1, 3))):
        how = (kernel, stride, padding, dilation, False, ceil_mode)
        try:
            torch.nn.MaxPool2d(*how)(torch.zeros(1, 2, 11, 13))
        except RuntimeError:
            with pytest.raises(tg.errors.TinygradEduError):
                MaxPool2d(*how)(np.zeros((1, 2, 11, 13)))
            continue
        against_torch(MaxPool2d(*how), "MaxPool2d", image(2, 2, 11, 13), *how)


@pytest.mark.parametrize("divisor", [None, 5])
@pytest.mark.parametrize("kernel", [1, 2, 3, (5, 2)], ids=str)
def test_average_pooling_with_all_settings(kernel: Any, divisor: Any) -> None:
    torch = pytest.importorskip("torch")
    for stride, padding, ceil_mode, counted in itertools.product(
        (None, 1, 2, (2, 3)), (0, 1, (2, 1)), (False, True), (False, True)
    ):
        how = (kernel, stride, padding, ceil_mode, counted, divisor)
        try:
            torch.nn.AvgPool2d(*how)(torch.zeros(1, 2, 11, 13))
        except RuntimeError:
            with pytest.raises(tg.errors.TinygradEduError):
                AvgPool2d(*how)(np.zeros((1, 2, 11, 13)))
            continue
        against_torch(AvgPool2d(*how), "AvgPool2d", image(2, 2, 11, 13), *how)


@pytest.mark.parametrize("output", [1, 2, 5, (3, None), (11, 13), (14, 20)], ids=str)
def test_adaptive_pooling(output: Any) -> None:
    pytest.importorskip("torch")
    against_torch(AdaptiveAvgPool2d(output), "AdaptiveAvgPool2d", image(2, 2, 11, 13), output)


@pytest.mark.parametrize(
    "mode, align_corners", [("nearest", None), ("bilinear", None), ("bilinear", False), ("bilinear", True)]
)
def test_upsampling_with_all_settings(mode: str, align_corners: Any) -> None:
    pytest.importorskip("torch")
    sizes: list[dict[str, Any]] = [{"size": size} for size in (7, (22, 1), (22, 31), (11, 13))]
    for factor, again in itertools.product((2, 0.3, 2.5, (1.7, 0.9), 1, 3.3), (None, True, False)):
        sizes.append({"scale_factor": factor, "recompute_scale_factor": again})
    for how in sizes:
        how |= {"mode": mode, "align_corners": align_corners}
        against_torch(Upsample(**how), "Upsample", image(2, 2, 11, 13), **how)


def test_upsampling_volumes() -> None:
    pytest.importorskip("torch")
    against_torch(Upsample(scale_factor=2), "Upsample", image(2, 2, 3, 4, 3), scale_factor=2)


def test_an_output_size_chooses_among_those_that_are_possible() -> None:
    pytest.importorskip("torch")
    how = (4, 6, 3, 2, 1)
    for size in ([9, 17], [10, 18], (9, 18)):
        against_torch(ConvTranspose2d(*how), "ConvTranspose2d", image(2, 4, 5, 9), *how, forward={"output_size": size})
    against_torch(ConvTranspose1d(*how), "ConvTranspose1d", image(2, 4, 5), *how, forward={"output_size": [10]})
    assert ConvTranspose1d(*how)(image(2, 4, 5), 10).shape[2:] == (10,)  # torch wants a list; one number is clear


def test_initial_weights_have_the_bounds_of_torch() -> None:
    generator = tg.backend.Generator(0)
    for layer, fan_in in (
        (Conv2d(6, 40, (3, 5), groups=2, generator=generator), 3 * 15),
        (ConvTranspose2d(40, 6, (3, 5), groups=2, generator=generator), 3 * 15),
        (Conv1d(8, 40, 3, generator=generator), 24),
    ):
        bound = 1 / math.sqrt(fan_in)
        assert 0.98 * bound < np.abs(layer.weight.data).max() <= bound
        assert 0.7 * bound < np.abs(layer.bias.data).max() <= bound
        assert abs(layer.weight.data.mean()) < 0.1 * bound


def test_one_seed_one_layer() -> None:
    first, second = (Conv2d(3, 4, 3, generator=tg.backend.Generator(7)) for _ in range(2))
    assert np.array_equal(first.weight.data, second.weight.data)
    assert np.array_equal(first.bias.data, second.bias.data)


# -- what holds for all of them ------------------------------------------------------------------------------------

LAYERS = {
    "Conv2d": lambda: Conv2d(4, 6, 3, 2, 1),
    "Conv2d, same, reflect": lambda: Conv2d(4, 6, (3, 4), padding="same", padding_mode="reflect"),
    "Conv2d, groups": lambda: Conv2d(4, 6, 3, groups=2),
    "ConvTranspose2d": lambda: ConvTranspose2d(4, 6, 3, 2, 1, 1),
    "MaxPool2d": lambda: MaxPool2d(3, 2, 1),
    "AvgPool2d": lambda: AvgPool2d(3, 2, 1),
    "AdaptiveAvgPool2d": lambda: AdaptiveAvgPool2d((2, 3)),
    "Upsample": lambda: Upsample(scale_factor=2),
    "Upsample, bilinear": lambda: Upsample(scale_factor=1.5, mode="bilinear"),
}
every = pytest.mark.parametrize("build", LAYERS.values(), ids=LAYERS.keys())


def passes(layer: Layer, x: np.ndarray, dy: Any = None) -> list[np.ndarray]:
    """Output, input gradient, parameter gradients."""
    layer.zero_grad()
    y = layer(x)
    rng = np.random.default_rng(2)
    dx = layer.backward(rng.normal(size=y.shape).astype(x.dtype) if dy is None else dy(y))
    return [y, dx, *(parameter.grad.copy() for parameter in layer.parameters())]


@every
@pytest.mark.parametrize("dtype, rtol", [("float64", 1e-12), ("float32", 2e-5)])
def test_any_layout_of_image_and_gradient_gives_the_same(build: Any, dtype: str, rtol: float) -> None:
    layer = build().astype(dtype)
    x = image(2, 4, 9, 10).astype(dtype)
    dy = np.random.default_rng(2).normal(size=layer(x).shape).astype(dtype)
    layer.clear_saved()
    plain = passes(layer, x, lambda y: dy)
    for given_x, given_dy in itertools.product(
        (x, channels_last(x), x[:, ::-1].copy()[:, ::-1]), (dy, channels_last(dy))
    ):
        for found, wanted in zip(passes(layer, given_x, lambda y, dy=given_dy: dy), plain, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=rtol, atol=rtol)


@every
def test_an_empty_batch_gives_an_empty_batch(build: Any) -> None:
    for dtype in ("float64", "float32"):
        y, dx, *gradients = passes(build().astype(dtype), np.zeros((0, 4, 9, 10), dtype))
        assert y.shape[0] == 0 and y.shape[2:] == build().astype(dtype)(np.zeros((1, 4, 9, 10), dtype)).shape[2:]
        assert dx.shape == (0, 4, 9, 10)
        assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("name", [name for name in LAYERS if "Upsample" not in name])  # to which it is a sequence
def test_one_image_is_a_batch_of_one(name: str) -> None:
    layer = LAYERS[name]().astype("float64")
    x = image(1, 4, 9, 10)
    dy = np.random.default_rng(2).normal(size=layer(x).shape)
    layer.clear_saved()
    whole = passes(layer, x, lambda y: dy)
    alone = passes(layer, x[0], lambda y: dy[0])
    assert alone[0].ndim == alone[1].ndim == 3
    for found, wanted in zip(alone, whole, strict=True):
        np.testing.assert_array_equal(found.reshape(wanted.shape), wanted)


@every
def test_broken_numbers_are_not_hidden(build: Any) -> None:
    """A NaN in the middle of an image comes out again."""
    x = image(1, 4, 9, 10)
    x[0, :, 4, 5] = np.nan
    assert np.isnan(build().astype("float64")(x)).any()


@every
def test_repr_says_how_to_build_it(build: Any) -> None:
    layer = build()
    again = eval(repr(layer), {type(layer).__name__: type(layer)})
    assert repr(again) == repr(layer)
    assert again(np.zeros((1, 4, 9, 10), "float32")).shape == layer(np.zeros((1, 4, 9, 10), "float32")).shape


SEQUENCES = {
    "Conv1d": lambda: Conv1d(4, 6, 3, 2, 1),
    "ConvTranspose1d": lambda: ConvTranspose1d(4, 6, 3, 2, 1, 1),
    "MaxPool1d": lambda: MaxPool1d(3, 2, 1),
    "AvgPool1d": lambda: AvgPool1d(3, 2, 1),
    "AdaptiveAvgPool1d": lambda: AdaptiveAvgPool1d(2),
}


@pytest.mark.parametrize("build", SEQUENCES.values(), ids=SEQUENCES.keys())
def test_a_sequence_is_an_image_of_one_row(build: Any) -> None:
    layer = build().astype("float64")
    x = image(2, 4, 9)
    y = layer(x)
    assert y.shape == (2, *layer(x[0]).shape)
    np.testing.assert_array_equal(layer(x[1]), y[1])


# -- max pooling ---------------------------------------------------------------------------------------------------


def test_of_equal_values_the_first_gets_the_gradient() -> None:
    torch = pytest.importorskip("torch")
    for kernel, stride, padding in ((2, 2, 0), (3, 1, 1), (3, 2, 1)):
        x = np.random.default_rng(3).integers(0, 3, (2, 3, 8, 9)).astype("float64")
        layer = MaxPool2d(kernel, stride, padding)
        x_torch = torch.tensor(x, requires_grad=True)
        y_torch = torch.nn.MaxPool2d(kernel, stride, padding)(x_torch)
        dy = np.random.default_rng(4).normal(size=layer(x).shape)
        y_torch.backward(torch.tensor(dy))
        np.testing.assert_allclose(layer.backward(dy), x_torch.grad, rtol=1e-12)


def test_max_pooling_keeps_a_byte_a_window() -> None:
    layer = MaxPool2d(2)
    layer(np.zeros((2, 3, 8, 8), "float32"))
    winner, size = layer.saved()
    assert winner.dtype == np.uint8 and winner.shape == (2, 3, 4, 4) and size == (8, 8)
    y, winner = max_pool(np.arange(600.0).reshape(1, 1, 600), (300,), (300,), (0,), (1,), False)
    assert y.tolist() == [[[299, 599]]] and winner.tolist() == [[[299, 299]]]  # more taps than a byte can number


def test_a_window_of_nothing_but_minus_infinity() -> None:
    layer = MaxPool2d(2, 2, 1)
    y = layer(np.full((1, 1, 4, 4), -np.inf))
    assert np.isneginf(y).all()
    assert np.isfinite(layer.backward(np.ones_like(y))).all()


# -- memory --------------------------------------------------------------------------------------------------------

LARGE = {
    "Conv2d": (lambda: Conv2d(16, 16, 3, padding=1), 1.0),  # what forward keeps: x
    "Conv2d, reflect": (lambda: Conv2d(16, 16, 3, padding=1, padding_mode="reflect"), 1.0),
    "Conv2d, 7x7": (lambda: Conv2d(16, 16, 7, padding=3), 1.0),
    "ConvTranspose2d": (lambda: ConvTranspose2d(16, 16, 2, 2), 1.0),
    "MaxPool2d": (lambda: MaxPool2d(2), 0.0),
    "AvgPool2d": (lambda: AvgPool2d(2), 0.0),
    "AdaptiveAvgPool2d": (lambda: AdaptiveAvgPool2d(1), 0.0),
    "Upsample": (lambda: Upsample(scale_factor=2), 0.0),
    "Upsample, bilinear": (lambda: Upsample(scale_factor=2, mode="bilinear"), 0.0),
}


@pytest.mark.parametrize("build, keeps", LARGE.values(), ids=LARGE.keys())
@pytest.mark.parametrize("reference", [False, True], ids=["kernels", "textbook"])
def test_memory_is_at_most_twice_input_output_and_parameters(build: Any, keeps: float, reference: bool) -> None:
    """Beyond what is there before and what is returned; and what waits for backward is the input, or nothing."""
    layer = build()
    x = image(8, 16, 64, 64).astype("float32")
    dy = np.ones_like(passes(layer, x)[0])  # the kernels are compiled now
    limit = 2 * (x.nbytes + dy.nbytes + sum(parameter.data.nbytes for parameter in layer.parameters()))
    with tg.reference_ops() if reference else contextlib.nullcontext():
        tracemalloc.start()
        try:
            y = layer(x)
            held, peak = tracemalloc.get_traced_memory()
            assert peak - y.nbytes <= limit
            winners = dy.nbytes // 4 if isinstance(layer, MaxPool2d) else 0
            assert held - y.nbytes <= winners + 100_000  # x is the caller's
            kept = sum(value.nbytes for value in layer._saved[-1] if isinstance(value, np.ndarray))
            assert kept == keeps * x.nbytes + winners
            tracemalloc.reset_peak()
            dx = layer.backward(dy)
            assert tracemalloc.get_traced_memory()[1] - y.nbytes - dx.nbytes <= limit
        finally:
            tracemalloc.stop()
