"""Rows of the table for layers of images: convolution, transposed convolution, pooling and enlargement.

Images are (B, C, T + 3, T + 4): what is time elsewhere makes their height and width, one odd and one even.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import twins
from .case import Case, Draw, Inputs

CHANNELS, FILTERS = 4, 6

_IMAGE_AXES = {
    "x": ("batch", "channel", "height", "width"),
    "y": ("batch", "channel", "height", "width"),
    "weight": ("filter", "channel", "row", "column"),
}
_SEQUENCE_AXES = {
    "x": ("batch", "channel", "place"),
    "y": ("batch", "channel", "place"),
    "weight": ("filter", "channel", "tap"),
}


def images(channels: int = CHANNELS, channels_last: bool = False) -> Callable[[Draw, int, int], Inputs]:
    """Draws (B, C, H, W)."""
    return lambda r, B, T: (r.image(B, channels, T + 3, T + 4, channels_last=channels_last),)


def sequences(channels: int = CHANNELS) -> Callable[[Draw, int, int], Inputs]:
    """Draws (B, C, L)."""
    return lambda r, B, T: (r.image(B, channels, T + 4),)


def _distinct(*extra: int, channels_last: bool = False) -> Callable[[Draw, int, int], Inputs]:
    """Images, or sequences, whose values are apart, so that no other wins when they are moved a little."""

    def draw(r: Draw, B: int, T: int) -> Inputs:
        x = r.distinct(B, 2, *(T + n for n in extra))
        return (x.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2) if channels_last else x,)

    return draw


def _one_image(r: Draw, B: int, T: int) -> Inputs:
    return (r.normal(CHANNELS, T + 3, T + 4),)


def _row(name: str, options: str, *args: Any, inputs: Any = None, batched: bool = True, **settings: Any) -> Case:
    """A row for a layer with parameters and its twin in torch, which take the same arguments."""
    flat = name.endswith("1d")
    return Case(
        name,
        lambda L: getattr(L, name)(*args, **settings, generator=L.generator),
        inputs or (sequences() if flat else images()),
        options,
        torch=twins.module(name, *args, **settings),
        batched=batched,
        axes=_SEQUENCE_AXES if flat else _IMAGE_AXES,
    )


def _plain(name: str, options: str, *args: Any, inputs: Any, batched: bool = True, **settings: Any) -> Case:
    """A row for a layer without parameters."""
    return Case(
        name,
        lambda L: getattr(L, name)(*args, **settings),
        inputs,
        options,
        torch=twins.module(name, *args, **settings),
        batched=batched,
        axes=_IMAGE_AXES if name.endswith("2d") else {},
    )


_CONVOLUTIONS = [
    _row("Conv2d", "", CHANNELS, FILTERS, 3),
    _row("Conv2d", "channels last", CHANNELS, FILTERS, 3, padding=1, inputs=images(channels_last=True)),
    _row("Conv2d", "one by one", CHANNELS, FILTERS, 1),
    _row("Conv2d", "stride=2, padding=1", CHANNELS, FILTERS, 3, 2, 1),
    _row("Conv2d", "stride=2, channels last", CHANNELS, FILTERS, 2, 2, inputs=images(channels_last=True)),
    _row("Conv2d", "stride=3 skips pixels", CHANNELS, FILTERS, 2, 3),
    _row("Conv2d", "dilation=2, padding=2", CHANNELS, FILTERS, 3, padding=2, dilation=2),
    _row("Conv2d", "axes differ", CHANNELS, FILTERS, (2, 3), (2, 1), (1, 2), (3, 2)),
    _row("Conv2d", "padding='same'", CHANNELS, FILTERS, (3, 5), padding="same"),
    _row("Conv2d", "padding='valid'", CHANNELS, FILTERS, 2, 2, padding="valid"),
    _row("Conv2d", "groups=2", CHANNELS, FILTERS, 3, padding=1, groups=2),
    _row("Conv2d", "depthwise, stride=2", CHANNELS, CHANNELS, 3, 2, 1, groups=CHANNELS),
    _row("Conv2d", "bias=False", CHANNELS, FILTERS, 3, padding=1, bias=False),
    _row("Conv2d", "one channel", 1, 1, 3, padding=1, inputs=images(1)),
    _row("Conv2d", "square", CHANNELS, CHANNELS, 3, padding=1),
    _row("Conv2d", "one image, no batch", CHANNELS, FILTERS, 3, inputs=_one_image, batched=False),
    *(
        _row("Conv2d", f"padding_mode={mode!r}", CHANNELS, FILTERS, 3, padding=(2, 3), padding_mode=mode)
        for mode in ("reflect", "replicate", "circular")
    ),
    _row("Conv1d", "", CHANNELS, FILTERS, 3),
    _row("Conv1d", "stride, padding, dilation, groups", CHANNELS, FILTERS, 3, 2, 2, 2, 2),
    _row("Conv1d", "padding='same', reflect", CHANNELS, FILTERS, 5, padding="same", padding_mode="reflect"),
]

_TRANSPOSED = [
    _row("ConvTranspose2d", "", CHANNELS, FILTERS, 3),
    _row("ConvTranspose2d", "stride=2", CHANNELS, FILTERS, 2, 2),
    _row("ConvTranspose2d", "channels last", CHANNELS, FILTERS, 3, 2, 1, inputs=images(channels_last=True)),
    _row("ConvTranspose2d", "output_padding=1", CHANNELS, FILTERS, 3, 2, 1, 1),
    _row("ConvTranspose2d", "stride=3 leaves gaps", CHANNELS, FILTERS, 2, 3),
    _row("ConvTranspose2d", "axes differ", CHANNELS, FILTERS, (2, 3), (3, 1), (1, 0), (2, 0), dilation=(1, 2)),
    _row("ConvTranspose2d", "output_padding above stride", CHANNELS, FILTERS, 2, 1, 2, 2, dilation=3),
    _row("ConvTranspose2d", "groups=2", CHANNELS, FILTERS, 3, 2, groups=2),
    _row("ConvTranspose2d", "bias=False", CHANNELS, FILTERS, 3, bias=False),
    _row("ConvTranspose2d", "one channel", 1, 1, 2, 2, inputs=images(1)),
    _row("ConvTranspose2d", "one image, no batch", CHANNELS, FILTERS, 2, 2, inputs=_one_image, batched=False),
    _row("ConvTranspose1d", "", CHANNELS, FILTERS, 3),
    _row("ConvTranspose1d", "stride=2, output_padding=1", CHANNELS, FILTERS, 3, 2, 1, 1),
]

_POOLING = [
    _plain("MaxPool2d", "", 2, inputs=_distinct(3, 4)),
    _plain("MaxPool2d", "windows overlap", 3, 2, 1, inputs=_distinct(3, 4)),
    _plain("MaxPool2d", "channels last", 3, 2, 1, inputs=_distinct(3, 4, channels_last=True)),
    _plain("MaxPool2d", "ceil_mode", 3, 2, ceil_mode=True, inputs=_distinct(3, 4)),
    _plain("MaxPool2d", "axes differ", (2, 3), (1, 2), (1, 0), (2, 1), inputs=_distinct(3, 4)),
    _plain("MaxPool2d", "one image, no batch", 2, inputs=lambda r, B, T: (r.distinct(2, T + 3, T + 4),), batched=False),
    _plain("MaxPool1d", "", 3, 2, inputs=_distinct(4)),
    _plain("AvgPool2d", "", 2, inputs=images()),
    _plain("AvgPool2d", "windows overlap", 3, 2, 1, inputs=images()),
    _plain("AvgPool2d", "channels last", 2, inputs=images(channels_last=True)),
    _plain("AvgPool2d", "count_include_pad=False", 3, 2, 1, count_include_pad=False, inputs=images()),
    _plain("AvgPool2d", "ceil_mode", 3, 2, 1, ceil_mode=True, inputs=images()),
    _plain("AvgPool2d", "ceil_mode, count_include_pad=False", 3, 2, 1, True, False, inputs=images()),
    _plain("AvgPool2d", "divisor_override=5", 2, divisor_override=5, inputs=images()),
    _plain("AvgPool1d", "", 3, 2, 1, inputs=sequences()),
    _plain("AdaptiveAvgPool2d", "", 1, inputs=images()),
    _plain("AdaptiveAvgPool2d", "channels last", 1, inputs=images(channels_last=True)),
    _plain("AdaptiveAvgPool2d", "windows share pixels", (3, 2), inputs=images()),
    _plain("AdaptiveAvgPool2d", "larger than the image", (9, None), inputs=images()),
    _plain("AdaptiveAvgPool1d", "", 3, inputs=sequences()),
]

_UPSAMPLING = [
    _plain("Upsample", "scale_factor=2", scale_factor=2, inputs=images()),
    _plain("Upsample", "channels last", scale_factor=2, inputs=images(channels_last=True)),
    _plain("Upsample", "scale_factor=(1.7, 0.6)", scale_factor=(1.7, 0.6), inputs=images()),
    _plain("Upsample", "size=(5, 9)", (5, 9), inputs=images()),
    _plain("Upsample", "a sequence", scale_factor=3, inputs=sequences()),
    _plain("Upsample", "linear, a sequence", scale_factor=2.5, mode="linear", inputs=sequences()),
    _plain("Upsample", "bilinear", scale_factor=2, mode="bilinear", inputs=images()),
    _plain("Upsample", "bilinear, channels last", None, 2, "bilinear", inputs=images(channels_last=True)),
    _plain("Upsample", "bilinear, scale_factor=(1.7, 0.6)", None, (1.7, 0.6), "bilinear", inputs=images()),
    _plain("Upsample", "bilinear, recomputed", None, 1.7, "bilinear", None, True, inputs=images()),
    _plain("Upsample", "bilinear, align_corners", (9, 3), None, "bilinear", True, inputs=images()),
]

_FLATTEN = [
    _plain("Flatten", "", inputs=images()),
    _plain("Flatten", "channels last", inputs=images(channels_last=True)),
    _plain("Flatten", "a sequence", inputs=sequences()),
]

IMAGES: list[Case] = [*_CONVOLUTIONS, *_TRANSPOSED, *_POOLING, *_UPSAMPLING, *_FLATTEN]
