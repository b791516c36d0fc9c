"""Pooling layers, in one and two dimensions. Their ops are in `pooling_ops`."""

from __future__ import annotations

from collections.abc import Sequence

from ..backend import Array
from ..errors import ConfigError, ShapeError, format_shape
from .base import Layer, check_positive
from .images import Size, batched, check_gradient, check_image, per_axis, short
from .pooling_ops import (
    adaptive_average_pool,
    adaptive_average_pool_backward,
    average_pool,
    average_pool_backward,
    max_pool,
    max_pool_backward,
    pooled_size,
)


class _Pool(Layer):
    """What pools over windows of one size share."""

    axes: int

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] | None,
        padding: int | Sequence[int],
        dilation: int | Sequence[int],
        ceil_mode: bool,
    ):
        super().__init__()
        name = type(self).__name__
        self.kernel_size = per_axis(name, "kernel_size", kernel_size, self.axes)
        self.stride = self.kernel_size if stride is None else per_axis(name, "stride", stride, self.axes)
        self.padding = per_axis(name, "padding", padding, self.axes, least=0)
        self.dilation = per_axis(name, "dilation", dilation, self.axes)
        self.ceil_mode = bool(ceil_mode)
        if any(2 * p > k for p, k in zip(self.padding, self.kernel_size, strict=True)):
            raise ConfigError(
                f"{name}: padding must be at most half of kernel_size, got {short(self.padding)} with "
                f"kernel_size {short(self.kernel_size)}"
            )

    def _output_size(self, size: Size) -> Size:
        """Size of the output for images of `size`; ShapeError if the window does not fit into them."""
        output = pooled_size(size, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)
        if any(n < 1 for n in output):
            padded = tuple(n + 2 * p for n, p in zip(size, self.padding, strict=True))
            reach = tuple(d * (k - 1) + 1 for k, d in zip(self.kernel_size, self.dilation, strict=True))
            raise ShapeError(
                f"{type(self).__name__}: the image, {format_shape(size)} and with its padding {format_shape(padded)}, "
                f"is smaller than the window, which reaches over {format_shape(reach)}"
            )
        return output

    def extra_repr(self) -> str:
        shown = f"kernel_size={short(self.kernel_size)}, stride={short(self.stride)}, padding={short(self.padding)}"
        shown += f", dilation={short(self.dilation)}" if set(self.dilation) != {1} else ""
        return shown + (", ceil_mode=True" if self.ceil_mode else "")


class _MaxPool(_Pool):
    def __init__(
        self,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] | None = None,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ):
        super().__init__(kernel_size, stride, padding, dilation, ceil_mode)
        if return_indices:
            raise ConfigError(f"{type(self).__name__}: return_indices must be False, got {return_indices!r}")

    @batched
    def forward(self, x: Array) -> Array:  # (B, C, *size) -> (B, C, *output)
        check_image(self, x, self.axes)
        size = tuple(x.shape[2:])
        self._output_size(size)
        y, winner = max_pool(x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)
        self.save(winner, size)
        return y

    @batched
    def backward(self, dy: Array) -> Array:
        winner, size = self.saved()
        check_gradient(self, dy, winner.shape)
        return max_pool_backward(dy, winner, size, self.kernel_size, self.stride, self.padding, self.dilation)


class MaxPool1d(_MaxPool):
    """Largest value of each window of sequences (B, C, L), as torch.nn.MaxPool1d; arguments as of `MaxPool2d`."""

    axes = 1


class MaxPool2d(_MaxPool):
    """Largest value of each window (Ranzato et al., 2007), as torch.nn.MaxPool2d.

    Input (B, C, H, W), or one image without its batch axis; output (B, C, H', W') with
    H' = (H + 2 padding - dilation (kernel_size - 1) - 1) // stride + 1. For the backward pass it keeps one byte for
    each pixel of its output. Of equal values in a window the first gets the gradient.

    Parameters
    ----------
    kernel_size, stride, padding, dilation : one integer, or one for each axis; `stride` is `kernel_size` if not given,
        `padding` at most half of the kernel
    return_indices : False
    ceil_mode : whether a last window that reaches beyond the image counts, if it begins within

    Raises
    ------
    ConfigError
        For settings that are not allowed.
    ShapeError
        By forward, for a wrong number of axes, or an image smaller than the window.
    DtypeError
        By forward, for an image of integers.
    """

    axes = 2


class _AvgPool(_Pool):
    def __init__(
        self,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] | None = None,
        padding: int | Sequence[int] = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ):
        super().__init__(kernel_size, stride, padding, 1, ceil_mode)
        if divisor_override is not None:
            check_positive(type(self).__name__, divisor_override=divisor_override)
        self.count_include_pad, self.divisor_override = bool(count_include_pad), divisor_override

    @batched
    def forward(self, x: Array) -> Array:  # (B, C, *size) -> (B, C, *output)
        check_image(self, x, self.axes)
        self._output_size(tuple(x.shape[2:]))
        self.save(tuple(x.shape))
        how = (self.ceil_mode, self.count_include_pad, self.divisor_override)
        return average_pool(x, self.kernel_size, self.stride, self.padding, *how)

    @batched
    def backward(self, dy: Array) -> Array:
        batch, channels, *size = self.saved()
        check_gradient(self, dy, (batch, channels, *self._output_size(tuple(size))))
        windows = (self.kernel_size, self.stride, self.padding)
        return average_pool_backward(dy, tuple(size), *windows, self.count_include_pad, self.divisor_override)


class AvgPool1d(_AvgPool):
    """Mean of each window of sequences (B, C, L), as torch.nn.AvgPool1d; arguments as of `AvgPool2d`."""

    axes = 1


class AvgPool2d(_AvgPool):
    """Mean of each window (LeCun et al., 1989), as torch.nn.AvgPool2d.

    Input (B, C, H, W), or one image without its batch axis; output (B, C, H', W') with
    H' = (H + 2 padding - kernel_size) // stride + 1. It keeps nothing of them for the backward pass.

    Parameters
    ----------
    kernel_size, stride, padding : one integer, or one for each axis; `stride` is `kernel_size` if not given, `padding`
        at most half of the kernel
    ceil_mode : whether a last window that reaches beyond the image counts, if it begins within
    count_include_pad : whether padded zeros count among the pixels by whose number a window's sum is divided
    divisor_override : that number, if it is not to be counted

    Raises
    ------
    ConfigError, ShapeError, DtypeError
        As :class:`MaxPool2d`.
    """

    axes = 2


class _AdaptiveAvgPool(Layer):
    axes: int

    def __init__(self, output_size: int | Sequence[int | None] | None):
        super().__init__()
        values = tuple(output_size) if isinstance(output_size, Sequence) else (output_size,) * self.axes
        name = type(self).__name__
        per_axis(name, "output_size", tuple(1 if n is None else n for n in values), self.axes)
        self.output_size = values

    def _output(self, size: Size) -> Size:
        return tuple(n if m is None else m for n, m in zip(size, self.output_size, strict=True))

    @batched
    def forward(self, x: Array) -> Array:  # (B, C, *size) -> (B, C, *output_size)
        check_image(self, x, self.axes)
        self.save(tuple(x.shape))
        return adaptive_average_pool(x, self._output(tuple(x.shape[2:])))

    @batched
    def backward(self, dy: Array) -> Array:
        batch, channels, *size = self.saved()
        check_gradient(self, dy, (batch, channels, *self._output(tuple(size))))
        return adaptive_average_pool_backward(dy, tuple(size))

    def extra_repr(self) -> str:
        return f"output_size={short(self.output_size)}"


class AdaptiveAvgPool1d(_AdaptiveAvgPool):
    """Sequences (B, C, L) averaged down to a given length, as torch.nn.AdaptiveAvgPool1d."""

    axes = 1


class AdaptiveAvgPool2d(_AdaptiveAvgPool):
    """Images averaged down to a given size, whatever size they have, as torch.nn.AdaptiveAvgPool2d.

    Input (B, C, H, W), or one image without its batch axis; output (B, C, *output_size). It keeps nothing of them for
    the backward pass. Where sizes do not divide, neighbouring windows share pixels.

    Parameters
    ----------
    output_size : one integer, or one for each axis; None leaves an axis as it is; 1 is the mean over the whole image

    Raises
    ------
    ConfigError, ShapeError, DtypeError
        As :class:`MaxPool2d`.
    """

    axes = 2
