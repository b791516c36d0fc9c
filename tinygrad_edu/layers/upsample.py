"""Images made larger (or smaller) by reading them at other places: the nearest pixel, or between pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..backend import Array, namespace, op
from ..errors import ConfigError, ShapeError, format_shape
from .base import Layer
from .images import AXES, Size, check_gradient, check_image, short
from .padding_ops import along_axes

Steps = tuple[float, ...]  # for each axis, how many pixels of x lie between two neighbouring pixels of y
_MODES = {"nearest": None, "linear": 1, "bilinear": 2}  # how many axes an image must have


def _nearest(xp: Any, length: int, output: int, step: float) -> Array:
    """For each pixel of y the number of the pixel of x that it shows."""
    return xp.minimum(xp.floor(xp.arange(output) * step), length - 1).astype(int)


@op
def upsample_nearest(x: Array, output: Size, steps: Steps) -> Array:
    r"""Image of another size, each pixel a copy of the one that lies there: :math:`y_i = x_{\lfloor i\,s \rfloor}`.

    Parameters
    ----------
    x : (B, C, *size)
    output : sizes of the result
    steps : s, for each axis of `size`: 0.5 makes the image twice as large

    Returns
    -------
    y : (B, C, *output)
    """
    xp = namespace(x)
    for axis, (m, step) in enumerate(zip(output, steps, strict=True), start=2):
        x = xp.take(x, _nearest(xp, x.shape[axis], m, step), axis=axis)
    return x


@op
def upsample_nearest_backward(dy: Array, size: Size, steps: Steps) -> Array:
    r"""Gradient of :func:`upsample_nearest`: each pixel gets the sum over its copies.

    .. math:: dx_j = \sum_{i \,:\, \lfloor i\,s \rfloor = j} dy_i

    Parameters
    ----------
    dy : (B, C, *output)
    size : of the image

    Returns
    -------
    dx : (B, C, *size)
    """
    xp = namespace(dy)
    shows = [
        _nearest(xp, n, m, step) == xp.arange(n)[:, None]  # (n, m)
        for n, m, step in zip(size, dy.shape[2:], steps, strict=True)
    ]
    return along_axes(dy, shows)


def _hats(xp: Any, length: int, output: int, step: float, align_corners: bool) -> Array:
    """(output, length): row i holds what the pixels of x weigh in pixel i of y, never more than two of them."""
    i = xp.arange(output)
    place = i * ((length - 1) / max(output - 1, 1)) if align_corners else (i + 0.5) * step - 0.5
    place = xp.clip(place, 0, length - 1)
    return xp.maximum(0, 1 - abs(place[:, None] - xp.arange(length)))


@op
def upsample_linear(x: Array, output: Size, steps: Steps, align_corners: bool) -> Array:
    r"""Image of another size, read by linear interpolation along each axis: in two dimensions, bilinear.

    Pixel i of y lies at the place :math:`u_i = (i + \tfrac12)\,s - \tfrac12` of x (its centre: a pixel has a width),
    moved into the image if it is outside, and the pixels beside it weigh the more the nearer they are:

    .. math:: Y = A_h\,X A_w^\top, \qquad A_{ij} = \max(0, 1 - |u_i - j|)

    Parameters
    ----------
    x : (B, C, *size)
    output : sizes of the result
    steps : s, for each axis of `size`: 0.5 makes the image twice as large
    align_corners : whether the outermost pixels of x and y lie upon each other, :math:`u_i = i\,(n - 1)/(m - 1)`, in
        place of the borders of the images; `steps` are then not used

    Returns
    -------
    y : (B, C, *output)
    """
    xp = namespace(x)
    sizes = zip(x.shape[2:], output, steps, strict=True)
    return along_axes(x, [_hats(xp, n, m, step, align_corners) for n, m, step in sizes])


@op
def upsample_linear_backward(dy: Array, size: Size, steps: Steps, align_corners: bool) -> Array:
    r"""Gradient of :func:`upsample_linear`: the transposed matrices, :math:`dX = A_h^\top dY\,A_w`.

    Parameters
    ----------
    dy : (B, C, *output)
    size : of the image

    Returns
    -------
    dx : (B, C, *size)
    """
    xp = namespace(dy)
    sizes = zip(size, dy.shape[2:], steps, strict=True)
    return along_axes(dy, [_hats(xp, n, m, step, align_corners).T for n, m, step in sizes])


def _numbers(argument: str, value: Any) -> tuple[Any, ...] | None:
    """Sizes, or factors: one number or several, as a tuple."""
    if value is None:
        return None
    values = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
    kind, wanted = (int, "an integer >= 1") if argument == "size" else (int | float, "a finite number > 0")
    good = (isinstance(v, kind) and not isinstance(v, bool) and 0 < v < math.inf for v in values)
    if not (values and all(good)):
        raise ConfigError(f"Upsample: {argument} must be {wanted}, or a tuple of one for each axis, got {value!r}")
    return values


def _spread(argument: str, values: tuple[Any, ...], size: Size) -> tuple[Any, ...]:
    """One number for each axis of an image."""
    if len(values) not in (1, len(size)):
        raise ShapeError(
            f"Upsample: {argument} has {len(values)} numbers, an image {format_shape(size)} wants {len(size)}"
        )
    return values * (len(size) // len(values))


class Upsample(Layer):
    """Images of another size, as torch.nn.Upsample: (B, C, *size) to (B, C, *output). It keeps nothing of them.

    Parameters
    ----------
    size : of the output, one integer or one for each axis
    scale_factor : in place of `size`, how many times as large the output is, one number or one for each axis; sizes
        that come out broken are rounded down
    mode : ``"nearest"``, ``"linear"`` for sequences (B, C, L), ``"bilinear"`` for images (B, C, H, W)
    align_corners : for the linear modes, whether the centres of the outermost pixels stay where they are, and not
        the borders of the image; None is False
    recompute_scale_factor : whether pixels are read at a distance of old size / new size where `scale_factor` is
        given, and not of 1 / scale_factor; the two differ where sizes were rounded

    Raises
    ------
    ConfigError
        If neither or both of `size` and `scale_factor` are given, or a setting is not allowed.
    ShapeError
        By forward, if the input has not the axes of the mode, or nothing would be left of it.
    """

    def __init__(
        self,
        size: int | Sequence[int] | None = None,
        scale_factor: float | Sequence[float] | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
    ):
        super().__init__()
        if (size is None) == (scale_factor is None):
            raise ConfigError(
                f"Upsample: give one of size and scale_factor, got size={size!r} and scale_factor={scale_factor!r}"
            )
        if mode not in _MODES:
            raise ConfigError(f"Upsample: mode must be one of {', '.join(_MODES)}, got {mode!r}")
        if align_corners is not None and mode == "nearest":
            raise ConfigError(f"Upsample: align_corners is for linear and bilinear alone, got {align_corners!r}")
        if recompute_scale_factor and size is not None:
            raise ConfigError("Upsample: recompute_scale_factor wants scale_factor, not size")
        self.size = _numbers("size", size)
        self.scale_factor = _numbers("scale_factor", scale_factor)
        self.mode, self.align_corners = mode, align_corners
        self.recompute_scale_factor = recompute_scale_factor

    def _plan(self, size: Size) -> tuple[Size, Steps]:
        """Size of the output, and how far apart its pixels lie in the image."""
        if self.size is not None:
            output = _spread("size", self.size, size)
        else:
            factors = _spread("scale_factor", self.scale_factor or (), size)
            output = tuple(math.floor(n * factor) for n, factor in zip(size, factors, strict=True))
            if 0 in output:
                raise ShapeError(
                    f"Upsample: scale_factor {short(factors)} leaves nothing of an image {format_shape(size)}"
                )
            if not self.recompute_scale_factor:
                return output, tuple(1 / factor for factor in factors)
        return output, tuple(n / m for n, m in zip(size, output, strict=True))

    def forward(self, x: Array) -> Array:  # (B, C, *size) -> (B, C, *output)
        axes = _MODES[self.mode]
        namespace(x)
        check_image(self, x, axes or min(max(x.ndim - 2, 1), max(AXES)))
        output, steps = self._plan(tuple(x.shape[2:]))
        self.save(tuple(x.shape))
        if self.mode == "nearest":
            return upsample_nearest(x, output, steps)
        return upsample_linear(x, output, steps, bool(self.align_corners))

    def backward(self, dy: Array) -> Array:
        batch, channels, *sizes = self.saved()
        size = tuple(sizes)
        output, steps = self._plan(size)
        check_gradient(self, dy, (batch, channels, *output))
        if self.mode == "nearest":
            return upsample_nearest_backward(dy, size, steps)
        return upsample_linear_backward(dy, size, steps, bool(self.align_corners))

    def extra_repr(self) -> str:
        name = "size" if self.scale_factor is None else "scale_factor"
        shown = f"{name}={short(getattr(self, name))}, mode={self.mode!r}"
        return shown if self.align_corners is None else f"{shown}, align_corners={self.align_corners}"
