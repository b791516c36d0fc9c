"""What the layers of images share: arguments with a number for each axis, checks, and one image as a batch of one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from ..backend import Array, namespace
from ..errors import ConfigError, DtypeError, ShapeError, format_shape
from .base import Layer

Size = tuple[int, ...]  # a number for each axis of the image

AXES: dict[int, tuple[str, ...]] = {0: (), 1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}


def per_axis(layer: str, name: str, value: Any, axes: int, least: int = 1) -> Size:
    """An argument that is one integer for all axes of the image, or one for each, as a tuple.

    Raises
    ------
    ConfigError
        If it is neither, or an integer is below `least`.
    """
    values = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,) * axes
    if len(values) != axes or any(isinstance(v, bool) or not isinstance(v, int) or v < least for v in values):
        many = f"a tuple of {axes}" if axes > 1 else "a tuple of one"
        raise ConfigError(f"{layer}: {name} must be an integer >= {least} or {many}, got {value!r}")
    return values


def short(values: Sequence[Any]) -> str:
    """``3`` for (3, 3), ``(3, 5)`` for (3, 5): how ``repr`` shows an argument for each axis."""
    return str(values[0]) if len(set(values)) == 1 else str(tuple(values))


def check_image(layer: Layer, x: Array, axes: int, channels: int | None = None) -> None:
    """Raise unless `x` is a batch of images (B, C, *size) of floats, no size being 0.

    Parameters
    ----------
    axes : how many sizes an image has
    channels : how many channels it must have, where the layer minds
    """
    name, wanted = type(layer).__name__, ("batch", channels or "channels", *AXES[axes])
    if x.ndim != axes + 2:
        raise ShapeError(
            f"{name}: expected {format_shape(wanted)}, or {format_shape(wanted[1:])} for a single image, "
            f"got {format_shape(tuple(x.shape))}"
        )
    if channels is not None and x.shape[1] != channels:
        turned = "; if channels are its last axis, give numpy.moveaxis(x, -1, 1)" if x.shape[-1] == channels else ""
        raise ShapeError(
            f"{name}: expected {format_shape(wanted)}, got {format_shape(tuple(x.shape))}: "
            f"the image has {x.shape[1]} channels where {channels} are wanted{turned}"
        )
    if 0 in x.shape[1:]:
        raise ShapeError(f"{name}: only the batch may be empty, got {format_shape(tuple(x.shape))}")
    if x.dtype.kind != "f":
        raise DtypeError(
            f"{name}: x must hold floating-point numbers, got {x.dtype}; bytes become such by x.astype('float32') / 255"
        )


def check_gradient(layer: Layer, dy: Array, shape: Sequence[int]) -> None:
    """Raise ShapeError unless `dy` has the `shape` of the output."""
    if tuple(dy.shape) != tuple(shape):
        raise ShapeError(
            f"{type(layer).__name__}.backward: expected a gradient {format_shape(tuple(shape))}, "
            f"the output's shape, got {format_shape(tuple(dy.shape))}"
        )


def batched(method: Callable[..., Array]) -> Callable[..., Array]:
    """Let forward or backward of a layer with `axes` also take one image, (C, *size): it is a batch of one."""

    @functools.wraps(method)
    def run(self: Any, x: Array, *args: Any, **kwargs: Any) -> Array:
        namespace(x)  # an error for what is no array
        if x.ndim == self.axes + 1:
            return method(self, x[None], *args, **kwargs)[0]
        return method(self, x, *args, **kwargs)

    return run
