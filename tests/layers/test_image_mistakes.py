"""What a user can get wrong with layers of images: a typed error that names what was found and what is wanted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tinygrad_edu.errors import BackwardError, ConfigError, DeviceError, DtypeError, ShapeError
from tinygrad_edu.layers import (
    AdaptiveAvgPool2d,
    AvgPool1d,
    AvgPool2d,
    Conv1d,
    Conv2d,
    ConvTranspose2d,
    Flatten,
    MaxPool1d,
    MaxPool2d,
    Upsample,
)


def zeros(*shape: int) -> Any:
    return np.zeros(shape, dtype="float32")


CONFIG = [
    (lambda: Conv2d(0, 4, 3), "Conv2d: in_channels must be an integer >= 1, got 0"),
    (lambda: Conv2d(3, 4.0, 3), "Conv2d: out_channels must be an integer >= 1, got 4.0"),
    (lambda: Conv2d(3, 4, 0), "Conv2d: kernel_size must be an integer >= 1 or a tuple of 2, got 0"),
    (lambda: Conv2d(3, 4, (3, 3, 3)), r"Conv2d: kernel_size must be .* a tuple of 2, got \(3, 3, 3\)"),
    (lambda: Conv1d(3, 4, (3, 3)), r"Conv1d: kernel_size must be .* a tuple of one, got \(3, 3\)"),
    (lambda: Conv2d(3, 4, "3"), "Conv2d: kernel_size must be .*, got '3'"),
    (lambda: Conv2d(3, 4, 3, stride=0), "Conv2d: stride must be an integer >= 1 or a tuple of 2, got 0"),
    (lambda: Conv2d(3, 4, 3, stride=(1, True)), r"Conv2d: stride must be an integer >= 1 .*, got \(1, True\)"),
    (lambda: Conv2d(3, 4, 3, dilation=0), "Conv2d: dilation must be an integer >= 1 or a tuple of 2, got 0"),
    (lambda: Conv2d(3, 4, 3, padding=-1), "Conv2d: padding must be an integer >= 0 or a tuple of 2, got -1"),
    (lambda: Conv2d(3, 4, 3, padding="full"), "Conv2d: padding must be integers, 'same' or 'valid', got 'full'"),
    (lambda: Conv2d(3, 4, 3, 2, "same"), "Conv2d: padding='same' wants stride 1, got 2"),
    (lambda: Conv2d(3, 4, 3, groups=2), "Conv2d: in_channels must be divisible by groups, got 3 and 2"),
    (lambda: Conv2d(4, 3, 3, groups=2), "Conv2d: out_channels must be divisible by groups, got 3 and 2"),
    (lambda: Conv2d(4, 4, 3, groups=0), "Conv2d: groups must be an integer >= 1, got 0"),
    (
        lambda: Conv2d(4, 4, 3, padding_mode="mirror"),
        "Conv2d: padding_mode must be one of zeros, reflect, replicate, circular, got 'mirror'",
    ),
    (lambda: ConvTranspose2d(4, 4, 3, padding_mode="reflect"), "padding_mode must be 'zeros', got 'reflect'"),
    (
        lambda: ConvTranspose2d(4, 4, 3, 2, output_padding=2),
        "output_padding must be smaller than stride or dilation, got 2 with stride 2 and dilation 1",
    ),
    (lambda: ConvTranspose2d(4, 4, 3, 2, output_padding=-1), "output_padding must be an integer >= 0 .*, got -1"),
    (lambda: ConvTranspose2d(4, 4, 3, 2, "same"), "ConvTranspose2d: padding must be an integer >= 0 .*, got 'same'"),
    (lambda: ConvTranspose2d(4, 6, 3, groups=4), "out_channels must be divisible by groups, got 6 and 4"),
    (lambda: MaxPool2d(0), "MaxPool2d: kernel_size must be an integer >= 1 or a tuple of 2, got 0"),
    (lambda: MaxPool2d(2, 0), "MaxPool2d: stride must be an integer >= 1 or a tuple of 2, got 0"),
    (
        lambda: MaxPool2d(3, padding=2),
        "MaxPool2d: padding must be at most half of kernel_size, got 2 with kernel_size 3",
    ),
    (lambda: AvgPool2d((4, 3), padding=(2, 2)), r"at most half of kernel_size, got 2 with kernel_size \(4, 3\)"),
    (lambda: MaxPool1d(3, return_indices=True), "MaxPool1d: return_indices must be False, got True"),
    (lambda: AvgPool2d(3, divisor_override=0), "AvgPool2d: divisor_override must be an integer >= 1, got 0"),
    (lambda: AdaptiveAvgPool2d(0), "AdaptiveAvgPool2d: output_size must be an integer >= 1 .*, got"),
    (lambda: AdaptiveAvgPool2d((1, 2, 3)), r"output_size must be .* a tuple of 2, got \(1, 2, 3\)"),
    (lambda: Upsample(), "Upsample: give one of size and scale_factor, got size=None and scale_factor=None"),
    (lambda: Upsample(4, 2.0), "Upsample: give one of size and scale_factor, got size=4 and scale_factor=2.0"),
    (lambda: Upsample(0), "Upsample: size must be an integer >= 1, or a tuple of one for each axis, got 0"),
    (lambda: Upsample(2.0), "Upsample: size must be an integer >= 1, or a tuple of one for each axis, got 2.0"),
    (lambda: Upsample(scale_factor=0), "Upsample: scale_factor must be a finite number > 0, or .*, got 0"),
    (lambda: Upsample(scale_factor=float("nan")), "Upsample: scale_factor must be a finite number > 0, or .*, got nan"),
    (lambda: Upsample(scale_factor="2"), "Upsample: scale_factor must be a finite number > 0, or .*, got '2'"),
    (lambda: Upsample(scale_factor=()), r"Upsample: scale_factor must be a finite number > 0, or .*, got \(\)"),
    (lambda: Upsample(2, mode="cubic"), "Upsample: mode must be one of nearest, linear, bilinear, got 'cubic'"),
    (lambda: Upsample(2, align_corners=False), "align_corners is for linear and bilinear alone, got False"),
    (lambda: Upsample(2, recompute_scale_factor=True), "recompute_scale_factor wants scale_factor, not size"),
]


@pytest.mark.parametrize("build, message", CONFIG, ids=[message[:50] for _, message in CONFIG])
def test_settings(build: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()


def after_forward(layer: Any, shape: tuple[int, ...], dy: Any) -> Any:
    layer(zeros(*shape))
    return layer.backward(dy)


INPUTS = [
    (
        ShapeError,
        lambda: Conv2d(3, 4, 3)(zeros(2, 4, 8, 8)),
        r"Conv2d: expected \(batch, 3, height, width\), got .*: the image has 4 channels where 3 are wanted",
    ),
    (
        ShapeError,
        lambda: Conv2d(3, 4, 3)(zeros(8, 8)),
        r"Conv2d: expected \(batch, 3, height, width\), or \(3, height, width\) for a single image, got \(8, 8\)",
    ),
    (ShapeError, lambda: Conv2d(3, 4, 3)(zeros(1, 2, 3, 8, 8)), r"for a single image, got \(1, 2, 3, 8, 8\)"),
    (
        ShapeError,
        lambda: Conv2d(3, 4, 3)(zeros(2, 8, 9, 3)),
        r"8 channels where 3 are wanted; if channels are its last axis, give numpy.moveaxis\(x, -1, 1\)$",
    ),
    (ShapeError, lambda: Conv2d(3, 4, 3)(zeros(2, 4, 9, 8)), "4 channels where 3 are wanted$"),
    (ShapeError, lambda: Conv2d(3, 4, 3)(zeros(4, 8, 8)), r"got \(1, 4, 8, 8\): the image has 4 channels where 3"),
    (ShapeError, lambda: Conv1d(3, 4, 3)(zeros(2, 4, 8)), r"Conv1d: expected \(batch, 3, length\), got \(2, 4, 8\)"),
    (
        ShapeError,
        lambda: Conv2d(3, 4, 3)(zeros(2, 3, 8, 2)),
        r"Conv2d: the image, \(8, 2\) and with its padding \(8, 2\), is smaller than the kernel, .* over \(3, 3\)",
    ),
    (
        ShapeError,
        lambda: Conv2d(3, 4, 3, padding=1, dilation=4)(zeros(2, 3, 6, 9)),
        r"the image, \(6, 9\) and with its padding \(8, 11\), is smaller than the kernel, which reaches over \(9, 9\)",
    ),
    (ShapeError, lambda: Conv2d(3, 4, 3)(zeros(2, 3, 0, 8)), r"only the batch may be empty, got \(2, 3, 0, 8\)"),
    (
        ShapeError,
        lambda: Conv2d(3, 4, 3, padding=2, padding_mode="reflect")(zeros(2, 3, 2, 8)),
        r"padding_mode='reflect' can pad an image \(2, 8\) by at most \(1, 7\), padding is \(2, 2\)",
    ),
    (
        ShapeError,
        lambda: Conv2d(3, 4, 3, padding=3, padding_mode="circular")(zeros(2, 3, 2, 8)),
        r"padding_mode='circular' can pad an image \(2, 8\) by at most \(2, 8\), padding is \(3, 3\)",
    ),
    (
        DtypeError,
        lambda: Conv2d(3, 4, 3)(np.zeros((1, 3, 8, 8), "uint8")),
        r"Conv2d: x must hold floating-point numbers, got uint8; bytes become such by x.astype\('float32'\) / 255",
    ),
    (DtypeError, lambda: MaxPool2d(2)(np.zeros((1, 3, 8, 8), "int64")), "MaxPool2d: x must hold .*, got int64"),
    (DeviceError, lambda: Conv2d(3, 4, 3)([[1.0]]), "expected a NumPy or CuPy array, got builtins.list"),
    (DeviceError, lambda: Upsample(2)([[1.0]]), "expected a NumPy or CuPy array, got builtins.list"),
    (
        ShapeError,
        lambda: after_forward(Conv2d(3, 4, 3), (2, 3, 8, 8), zeros(2, 4, 8, 8)),
        r"Conv2d.backward: expected a gradient \(2, 4, 6, 6\), the output's shape, got \(2, 4, 8, 8\)",
    ),
    (
        ShapeError,
        lambda: after_forward(ConvTranspose2d(3, 4, 2, 2), (2, 3, 8, 8), zeros(2, 4, 8, 8)),
        r"ConvTranspose2d.backward: expected a gradient \(2, 4, 16, 16\), the output's shape, got \(2, 4, 8, 8\)",
    ),
    (
        ShapeError,
        lambda: after_forward(MaxPool2d(2), (2, 3, 8, 8), zeros(2, 3, 8, 8)),
        r"MaxPool2d.backward: expected a gradient \(2, 3, 4, 4\), .* got \(2, 3, 8, 8\)",
    ),
    (
        ShapeError,
        lambda: after_forward(AvgPool2d(2), (2, 3, 8, 8), zeros(2, 3, 8, 8)),
        r"AvgPool2d.backward: expected a gradient \(2, 3, 4, 4\), .* got \(2, 3, 8, 8\)",
    ),
    (
        ShapeError,
        lambda: after_forward(AdaptiveAvgPool2d(1), (2, 3, 8, 8), zeros(2, 3, 8, 8)),
        r"AdaptiveAvgPool2d.backward: expected a gradient \(2, 3, 1, 1\), .* got \(2, 3, 8, 8\)",
    ),
    (
        ShapeError,
        lambda: after_forward(AdaptiveAvgPool2d(1), (2, 3, 8, 8), zeros(3, 3, 1, 1)),
        r"AdaptiveAvgPool2d.backward: expected a gradient \(2, 3, 1, 1\), .* got \(3, 3, 1, 1\)",
    ),
    (
        ShapeError,
        lambda: after_forward(Upsample(scale_factor=2), (2, 3, 8, 8), zeros(2, 3, 8, 8)),
        r"Upsample.backward: expected a gradient \(2, 3, 16, 16\), .* got \(2, 3, 8, 8\)",
    ),
    (
        ShapeError,
        lambda: after_forward(Upsample(scale_factor=2), (2, 3, 8, 8), zeros(2, 1, 16, 16)),
        r"Upsample.backward: expected a gradient \(2, 3, 16, 16\), .* got \(2, 1, 16, 16\)",
    ),
    (ShapeError, lambda: Flatten()(zeros(3)), r"Flatten: expected \(batch, \*size\), got \(3,\)"),
    (DeviceError, lambda: Flatten()([[1.0]]), "expected a NumPy or CuPy array, got builtins.list"),
    (
        ShapeError,
        lambda: after_forward(Flatten(), (2, 3, 8, 8), zeros(2, 3, 8, 8)),
        r"Flatten.backward: expected a gradient \(2, 192\), the output's shape, got \(2, 3, 8, 8\)",
    ),
    (BackwardError, lambda: Conv2d(3, 4, 3).backward(zeros(2, 4, 6, 6)), "Conv2d.backward: no forward to go back"),
    (
        ShapeError,
        lambda: ConvTranspose2d(3, 4, 3, 2)(zeros(2, 3, 5, 5), [13, 12]),
        r"output_size must lie between \(11, 11\) and \(12, 12\) for an image \(5, 5\), got \(13, 12\)",
    ),
    (ShapeError, lambda: ConvTranspose2d(3, 4, 3, 2)(zeros(2, 3, 5, 5), 13), r"between \(11, 11\) and \(12, 12\)"),
    (ConfigError, lambda: ConvTranspose2d(3, 4, 3, 2)(zeros(2, 3, 5, 5), [12.0, 12]), "output_size must be an integer"),
    (ConfigError, lambda: ConvTranspose2d(3, 4, 3, 2)(zeros(2, 3, 5, 5), [12]), r"a tuple of 2, got \(12,\)"),
    (
        ShapeError,
        lambda: ConvTranspose2d(3, 4, 3, padding=2)(zeros(2, 3, 2, 5)),
        r"of an image \(2, 5\), padding 2 leaves an output \(0, 3\); every size must be at least 1",
    ),
    (
        ShapeError,
        lambda: MaxPool2d(4)(zeros(2, 3, 8, 3)),
        r"MaxPool2d: the image, \(8, 3\) and with its padding \(8, 3\), is smaller than the window, .* over \(4, 4\)",
    ),
    (ShapeError, lambda: AvgPool1d(4)(zeros(2, 3, 8, 3)), r"AvgPool1d: expected \(batch, channels, length\)"),
    (ShapeError, lambda: AdaptiveAvgPool2d(1)(zeros(2, 3, 0, 8)), "only the batch may be empty"),
    (ShapeError, lambda: Upsample((4, 4))(zeros(2, 3, 8)), r"Upsample: size has 2 numbers, an image \(8,\) wants 1"),
    (
        ShapeError,
        lambda: Upsample(scale_factor=(1.0, 2.0, 3.0))(zeros(2, 3, 8, 8)),
        r"Upsample: scale_factor has 3 numbers, an image \(8, 8\) wants 2",
    ),
    (
        ShapeError,
        lambda: Upsample(scale_factor=0.1)(zeros(2, 3, 8, 8)),
        r"Upsample: scale_factor 0.1 leaves nothing of an image \(8, 8\)",
    ),
    (
        ShapeError,
        lambda: Upsample(2, mode="bilinear")(zeros(2, 3, 8)),
        r"Upsample: expected \(batch, channels, height, width\), .* got \(2, 3, 8\)",
    ),
    (ShapeError, lambda: Upsample(2)(zeros(2, 3)), r"Upsample: expected \(batch, channels, length\), .* got \(2, 3\)"),
]


@pytest.mark.parametrize("error, call, message", INPUTS, ids=[f"{i} {row[2][:50]}" for i, row in enumerate(INPUTS)])
def test_inputs(error: Any, call: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_a_refused_input_leaves_nothing_behind() -> None:
    """Neither a saved array nor a gradient: the next forward and backward are as if it had not been."""
    layer = Conv2d(3, 4, 3)
    with pytest.raises(ShapeError):
        layer(zeros(2, 4, 8, 8))
    assert not layer._saved
    layer(zeros(2, 3, 8, 8))
    with pytest.raises(ShapeError):
        layer.backward(zeros(2, 4, 8, 8))
    assert not layer.weight.grad.any()
