"""Rows of the table for skip connections, steps of diffusion, and attention among pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..backend import asarray
from . import twins
from .case import HEADS, Case, Draw, Inputs, Library

CHANNELS, GROUPS, CONTEXT, STEPS = 8, 2, 5, 40


def _image(r: Draw, B: int, T: int) -> Inputs:
    """Height and width differ, and one of them is odd."""
    return (r.normal(B, CHANNELS, T + 2, T + 1),)


def _channels_last(r: Draw, B: int, T: int) -> Inputs:
    return (r.image(B, CHANNELS, T + 2, T + 1, channels_last=True),)


def _image_and_context(width: int, masked: bool = False) -> Callable[[Draw, int, int], Inputs]:
    def draw(r: Draw, B: int, T: int) -> Inputs:
        inputs = (r.normal(B, CHANNELS, T, T + 1), r.normal(B, T + 2, width))
        return (*inputs, r.mask(B, T + 2)) if masked else inputs

    return draw


def _nothing_to_see(r: Draw, B: int, T: int) -> Inputs:
    """The context of the last image is all padding."""
    x, context, mask = _image_and_context(CONTEXT, masked=True)(r, B, T)
    return x, context, mask & (asarray(np.arange(B)) < B - 1)[:, None]


def _torch_skip(*conv: Any, **settings: Any) -> Callable[[], Any]:
    """x beside a convolution of it, which torch cuts where more than nothing is padded away."""

    def build() -> Any:
        import torch

        def call(m: Any, x: Any) -> Any:
            z = m["inner"](x)
            rows, columns = (n - k for n, k in zip(x.shape[2:], z.shape[2:], strict=True))
            return torch.cat([x, torch.nn.functional.pad(z, (0, columns, 0, rows))], dim=1)

        return torch.nn.ModuleDict({"inner": torch.nn.Conv2d(*conv, **settings)}), call

    return build


def _torch_steps(dim: int, embed_dim: int, flip: bool = False, shift: float = 1.0) -> Callable[[], Any]:
    """Sines and cosines as the formula has them, number by number, through two maps."""

    def build() -> Any:
        import math

        import torch

        def code(t: int) -> list[float]:
            half = dim // 2
            angles = [t * 10000 ** (-i / (half - shift)) for i in range(half)]
            sines, cosines = [math.sin(a) for a in angles], [math.cos(a) for a in angles]
            return (cosines + sines if flip else sines + cosines) + [0.0] * (dim % 2)

        def call(m: Any, t: Any) -> Any:
            rows = torch.tensor([code(int(step)) for step in t], dtype=m["linear_1"].weight.dtype)
            return m["linear_2"](torch.nn.functional.silu(m["linear_1"](rows)))

        return twins.children(linear_1=("Linear", dim, embed_dim), linear_2=("Linear", embed_dim, embed_dim)), call

    return build


def _torch_attention(context: int | None = None) -> Callable[[], Any]:
    """torch's group norm and attention on the pixels laid in a row."""

    def build() -> Any:
        import torch

        module = twins.children(norm=("GroupNorm", GROUPS, CHANNELS, 1e-5))
        if context is not None and context != CHANNELS:
            module["to_width"] = torch.nn.Linear(context, CHANNELS, bias=False)
        module["attention"] = torch.nn.MultiheadAttention(CHANNELS, HEADS, batch_first=True)

        def call(m: Any, x: Any, context: Any = None, mask: Any = None) -> Any:
            tokens = m["norm"](x).flatten(2).transpose(1, 2)
            memory = tokens if context is None else m["to_width"](context) if "to_width" in m else context
            hidden = None if mask is None else ~mask
            y = m["attention"](tokens, memory, memory, key_padding_mask=hidden, need_weights=False)[0]
            return x + y.transpose(1, 2).reshape(x.shape)

        return module, call

    return build


def _skip(options: str, *conv: Any, inputs: Any = _image, **settings: Any) -> Case:
    def build(L: Library) -> Any:
        return L.SkipConnection(L.Conv2d(CHANNELS, *conv, **settings, generator=L.generator))

    return Case("SkipConnection", build, inputs, options, torch=_torch_skip(CHANNELS, *conv, **settings))


def _steps(options: str, dim: int, embed_dim: int, flip: bool = False, shift: float = 1.0) -> Case:
    def build(L: Library) -> Any:
        return L.TimestepEmbedding(
            dim, embed_dim, STEPS, flip_sin_to_cos=flip, downscale_freq_shift=shift, generator=L.generator
        )

    draw: Callable[[Draw, int, int], Inputs] = lambda r, B, T: (r.ids(STEPS, B),)  # noqa: E731
    return Case("TimestepEmbedding", build, draw, options, torch=_torch_steps(dim, embed_dim, flip, shift))


def _self(options: str = "", inputs: Any = _image, **settings: Any) -> Case:
    def build(L: Library) -> Any:
        return L.SpatialSelfAttention(CHANNELS, HEADS, GROUPS, generator=L.generator, **settings)

    return Case("SpatialSelfAttention", build, inputs, options, torch=None if settings else _torch_attention())


def _cross(options: str, width: int, inputs: Any, twin: bool = True, **settings: Any) -> Case:
    def build(L: Library) -> Any:
        return L.SpatialCrossAttention(CHANNELS, width, HEADS, GROUPS, generator=L.generator, **settings)

    return Case("SpatialCrossAttention", build, inputs, options, torch=_torch_attention(width) if twin else None)


VISION: list[Case] = [
    _skip("", 3, 3, padding=1),
    _skip("inner image smaller", 3, 2),
    _skip("inner image larger", 3, 3, padding=2),
    _skip("inner image less high and wider", 3, (2, 1), padding=(0, 1)),
    _skip("channels-last, inner image smaller", 3, 2, inputs=_channels_last),
    _steps("", 8, 6),
    _steps("odd width, cosines first, no shift", 7, 6, flip=True, shift=0.0),
    _self(),
    _self("channels-last", _channels_last),
    _self("dropout", dropout=0.3),
    _cross("", CONTEXT, _image_and_context(CONTEXT)),
    _cross("mask", CONTEXT, _image_and_context(CONTEXT, masked=True)),
    _cross("context as wide as the image has channels", CHANNELS, _image_and_context(CHANNELS)),
    _cross("an image without context", CONTEXT, _nothing_to_see, twin=False),
    _cross("dropout", CONTEXT, _image_and_context(CONTEXT), twin=False, dropout=0.3),
]
