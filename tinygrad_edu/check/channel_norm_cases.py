"""Rows of the tables for batch, group and instance normalisation.

Sizes grow from `T + 3`, as in `image_cases`; vectors (B, C) come in batches of `B + 2`, because one value has no
variance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..backend import asarray
from ..layers.base import Layer
from . import twins
from .case import Case, Draw, Inputs, Library
from .image_cases import CHANNELS, images, sequences
from .op_case import OpCase

_AXES: dict[int, dict[str, tuple[str, ...]]] = {
    0: {"x": ("batch", "channel"), "y": ("batch", "channel")},
    1: {"x": ("batch", "channel", "place"), "y": ("batch", "channel", "place")},
    2: {"x": ("batch", "channel", "height", "width"), "y": ("batch", "channel", "height", "width")},
}
_MEANS, _VARIANCES = np.linspace(-1, 2, CHANNELS), np.linspace(0.3, 3, CHANNELS)


def _vectors(r: Draw, B: int, T: int) -> Inputs:
    return (r.normal(B + 2, CHANNELS),)


def _volumes(r: Draw, B: int, T: int) -> Inputs:
    return (r.normal(B, CHANNELS, T, 2, 3),)


def _one_image(r: Draw, B: int, T: int) -> Inputs:
    return (r.normal(CHANNELS, T + 3, T + 4),)


def _row(
    name: str, options: str, *args: Any, inputs: Any = None, axes: int = 2, batched: bool = True, **settings: Any
) -> Case:
    return Case(
        name,
        lambda L: getattr(L, name)(*args, **settings),
        inputs or images(),
        options,
        torch=twins.module(name, *args, **settings),
        batched=batched,
        axes=_AXES.get(axes, {}),
    )


def _evaluated(name: str, options: str, inputs: Any = None, axes: int = 2, **settings: Any) -> Case:
    """A row in evaluation, with running statistics that are not those of a new layer."""

    def build(L: Library) -> Layer:
        layer: Layer = getattr(L, name)(CHANNELS, **settings)
        layer.load_state_dict({"running_mean": _MEANS, "running_var": _VARIANCES}, strict=False)
        return layer.eval()

    def torch() -> Any:
        module = twins.module(name, CHANNELS, **settings)()
        state = {"running_mean": _MEANS, "running_var": _VARIANCES}
        for key, values in state.items():
            getattr(module, key).data = getattr(module, key).new_tensor(values.tolist()).double()
        return module, lambda m, x: m.eval()(x)

    return Case(name, build, inputs or images(), options, torch=torch, axes=_AXES[axes])


CHANNEL_NORMS: list[Case] = [
    _row("BatchNorm1d", "vectors", CHANNELS, inputs=_vectors, axes=0),
    _row("BatchNorm1d", "", CHANNELS, inputs=sequences(), axes=1),
    _row("BatchNorm1d", "momentum=None, affine=False", CHANNELS, momentum=None, affine=False, inputs=sequences(),
         axes=1),
    _evaluated("BatchNorm1d", "vectors, eval", _vectors, 0),
    _row("BatchNorm2d", "", CHANNELS),
    _row("BatchNorm2d", "channels last", CHANNELS, inputs=images(channels_last=True)),
    _row("BatchNorm2d", "eps=0.5", CHANNELS, eps=0.5),
    _row("BatchNorm2d", "affine=False", CHANNELS, affine=False),
    _row("BatchNorm2d", "bias=False", CHANNELS, bias=False),
    _row("BatchNorm2d", "one channel", 1, inputs=images(1)),
    _row("BatchNorm2d", "track_running_stats=False", CHANNELS, track_running_stats=False, batched=False),
    _evaluated("BatchNorm2d", "eval"),
    _evaluated("BatchNorm2d", "eval, channels last", images(channels_last=True)),
    _evaluated("BatchNorm2d", "eval, eps=0.5, affine=False", eps=0.5, affine=False),
    _row("GroupNorm", "", 2, CHANNELS),
    _row("GroupNorm", "channels last", 2, CHANNELS, inputs=images(channels_last=True)),
    _row("GroupNorm", "one group, eps=0.5", 1, CHANNELS, eps=0.5),
    _row("GroupNorm", "groups of one channel", CHANNELS, CHANNELS),
    _row("GroupNorm", "affine=False", 2, CHANNELS, affine=False),
    # Of two values the variance may be tiny, and 1 / sqrt(eps) would let only rounding be compared.
    _row("GroupNorm", "vectors, eps=0.5", 2, CHANNELS, eps=0.5, inputs=_vectors, axes=0),
    _row("GroupNorm", "bias=False", 2, CHANNELS, bias=False),
    _row("GroupNorm", "volumes", 2, CHANNELS, inputs=_volumes, axes=3),
    _row("InstanceNorm1d", "", CHANNELS, inputs=sequences(), axes=1),
    _row("InstanceNorm1d", "affine=True", CHANNELS, affine=True, inputs=sequences(), axes=1),
    _row("InstanceNorm2d", "", CHANNELS),
    _row("InstanceNorm2d", "affine=True, channels last", CHANNELS, affine=True, inputs=images(channels_last=True)),
    _row("InstanceNorm2d", "track_running_stats=True", CHANNELS, track_running_stats=True),
    _row("InstanceNorm2d", "one image, no batch", CHANNELS, inputs=_one_image, batched=False),
    _evaluated("InstanceNorm2d", "eval, affine=True", affine=True, track_running_stats=True),
]  # fmt: skip


def _parameters(r: Draw) -> tuple[Any, Any]:
    return r.normal(CHANNELS), r.normal(CHANNELS)


def _normalised(channels_last: bool = False) -> Callable[[Draw, int, int], Inputs]:
    return lambda r, B, T: (*images(channels_last=channels_last)(r, B, T), *_parameters(r), 1e-5)


def _grouped(groups: int, channels_last: bool = False) -> Callable[[Draw, int, int], Inputs]:
    return lambda r, B, T: (*images(channels_last=channels_last)(r, B, T), groups, *_parameters(r), 1e-5)


def _given(r: Draw, B: int, T: int) -> Inputs:
    return (*images()(r, B, T), *_parameters(r), asarray(_MEANS), asarray(_VARIANCES), 1e-5)


def _batch_norm(x: Any, weight: Any, bias: Any, eps: float) -> Any:
    import torch

    return torch.nn.functional.batch_norm(x, None, None, weight, bias, True, 0.0, eps)


def _batch_norm_given(x: Any, weight: Any, bias: Any, mean: Any, var: Any, eps: float) -> Any:
    import torch

    return torch.nn.functional.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)


def _group_norm(x: Any, num_groups: int, weight: Any, bias: Any, eps: float) -> Any:
    import torch

    return torch.nn.functional.group_norm(x, num_groups, weight, bias, eps)


def _without_parameters(L: Library) -> Any:
    return lambda dy, x, weight, bias, eps, mean, var: L.batchnorm_backward(dy, x, weight, mean, var, eps)[0]


_AFFINE = ("weight", "bias")

CHANNEL_NORM_OPS: list[OpCase] = [
    OpCase("batchnorm", "batchnorm_backward", _normalised(), torch=lambda: _batch_norm, linear=_AFFINE),
    OpCase("batchnorm", "batchnorm_backward", _normalised(True), "channels last", torch=lambda: _batch_norm),
    OpCase("batchnorm", _without_parameters, lambda r, B, T: (*images()(r, B, T), None, None, 0.1),
           "no weight and bias", torch=lambda: _batch_norm),
    OpCase("batchnorm_inference", "batchnorm_inference_backward", _given, torch=lambda: _batch_norm_given,
           wrt=("x", *_AFFINE), linear=_AFFINE),
    OpCase("groupnorm", "groupnorm_backward", _grouped(2), torch=lambda: _group_norm, linear=_AFFINE),
    OpCase("groupnorm", "groupnorm_backward", _grouped(2, True), "channels last", torch=lambda: _group_norm),
    OpCase("groupnorm", "groupnorm_backward", _grouped(CHANNELS), "groups of one channel",
           torch=lambda: _group_norm),
]  # fmt: skip
