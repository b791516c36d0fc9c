"""Convolution layers, and transposed convolution, in one and two dimensions. Their ops are in `convolution_ops`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..backend import Array, Generator, default_generator, namespace
from ..errors import ConfigError, ShapeError, format_shape
from .base import Layer, Parameter, check_positive
from .convolution_ops import (
    channel_sum,
    convolution,
    convolution_input_gradient,
    convolution_weight_gradient,
    convolved_size,
)
from .images import Size, batched, check_gradient, check_image, per_axis, short
from .padding_ops import PADDING_MODES, Margins, pad_image, pad_image_backward


class _Filters(Layer):
    """What convolution and transposed convolution share: settings, filters and bias."""

    axes: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int],
        dilation: int | Sequence[int],
        groups: int,
        bias: bool,
        generator: Generator | None,
        transposed: bool,
    ):
        super().__init__()
        name = type(self).__name__
        check_positive(name, in_channels=in_channels, out_channels=out_channels, groups=groups)
        for argument, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if channels % groups:
                raise ConfigError(f"{name}: {argument} must be divisible by groups, got {channels} and {groups}")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = per_axis(name, "kernel_size", kernel_size, self.axes)
        self.stride = per_axis(name, "stride", stride, self.axes)
        self.dilation = per_axis(name, "dilation", dilation, self.axes)
        rows, columns = (in_channels, out_channels) if transposed else (out_channels, in_channels)
        shape = (rows, columns // groups, *self.kernel_size)
        bound = 1 / math.sqrt(math.prod(shape[1:]))  # Kaiming's uniform bound with a = sqrt(5), as torch has it
        generator = generator or default_generator()
        self.weight = Parameter(generator.uniform(*shape, low=-bound, high=bound))
        self.bias = Parameter(generator.uniform(out_channels, low=-bound, high=bound)) if bias else None

    def extra_repr(self) -> str:
        shown = [f"{self.in_channels}, {self.out_channels}, kernel_size={short(self.kernel_size)}"]
        shown += [
            f"{name}={short(getattr(self, name))}" for name in ("stride", "dilation") if set(getattr(self, name)) != {1}
        ]
        shown += [f"groups={self.groups}"] if self.groups != 1 else []
        shown += ["bias=False"] if self.bias is None else []
        return ", ".join(shown)


class _Convolution(_Filters):
    """Convolution over the last axes; see :class:`Conv2d`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | str = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        generator: Generator | None = None,
    ):
        super().__init__(
            in_channels, out_channels, kernel_size, stride, dilation, groups, bias, generator, transposed=False
        )
        name = type(self).__name__
        if padding_mode not in PADDING_MODES:
            raise ConfigError(f"{name}: padding_mode must be one of {', '.join(PADDING_MODES)}, got {padding_mode!r}")
        self.padding_mode = padding_mode
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ConfigError(f"{name}: padding must be integers, 'same' or 'valid', got {padding!r}")
            if padding == "same" and set(self.stride) != {1}:
                raise ConfigError(f"{name}: padding='same' wants stride 1, got {short(self.stride)}")
            self.padding: Size | str = padding
        else:
            self.padding = per_axis(name, "padding", padding, self.axes, least=0)
        self._margins = self._find_margins()
        # The op itself thinks zeros around the image, the same number on either side; other margins are laid first.
        self._by_op = padding_mode == "zeros" and all(before == after for before, after in self._margins)
        self._zeros = tuple(before if self._by_op else 0 for before, _ in self._margins)

    def _reach(self) -> Size:
        """Pixels from the first tap of the kernel to the last, both counted."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel_size, self.dilation, strict=True))

    def _find_margins(self) -> Margins:
        if self.padding == "valid":
            return ((0, 0),) * self.axes
        if self.padding == "same":  # where they cannot be equal, the longer one is after, as torch has it
            return tuple(((n - 1) // 2, n // 2) for n in self._reach())
        return tuple((int(n), int(n)) for n in self.padding)

    def _padded(self, x: Array) -> Array:
        return x if self._by_op else pad_image(x, self._margins, self.padding_mode)

    def _output_size(self, size: Size) -> Size:
        """Size of the output for images of `size`; ShapeError if the kernel does not fit into them."""
        padded = tuple(n + sum(margin) for n, margin in zip(size, self._margins, strict=True))
        reach, name = self._reach(), type(self).__name__
        if any(n < r for n, r in zip(padded, reach, strict=True)):
            raise ShapeError(
                f"{name}: the image, {format_shape(size)} and with its padding {format_shape(padded)}, is smaller than "
                f"the kernel, which reaches over {format_shape(reach)}"
            )
        largest = {"reflect": [n - 1 for n in size], "circular": list(size)}.get(self.padding_mode)
        if largest is not None and any(max(margin) > n for margin, n in zip(self._margins, largest, strict=True)):
            raise ShapeError(
                f"{name}: padding_mode={self.padding_mode!r} can pad an image {format_shape(size)} by at most "
                f"{format_shape(largest)}, padding is {format_shape([max(margin) for margin in self._margins])}"
            )
        return convolved_size(padded, self.kernel_size, self.stride, (0,) * self.axes, self.dilation)

    @batched
    def forward(self, x: Array) -> Array:  # (B, in_channels, *size) -> (B, out_channels, *output)
        check_image(self, x, self.axes, self.in_channels)
        namespace(x, self.weight.data)
        self._output_size(tuple(x.shape[2:]))
        self.save(x)
        bias = None if self.bias is None else self.bias.data
        return convolution(
            self._padded(x), self.weight.data, bias, self.stride, self._zeros, self.dilation, self.groups
        )

    @batched
    def backward(self, dy: Array) -> Array:
        x = self.saved()
        check_gradient(self, dy, (len(x), self.out_channels, *self._output_size(tuple(x.shape[2:]))))
        how = (self.stride, self._zeros, self.dilation, self.groups)
        padded = self._padded(x)  # once more: kept, it would be as large as x
        self.weight.accumulate(convolution_weight_gradient(dy, padded, self.kernel_size, *how))
        if self.bias is not None:
            self.bias.accumulate(channel_sum(dy))
        dpadded = convolution_input_gradient(dy, self.weight.data, tuple(padded.shape[2:]), *how)
        return dpadded if self._by_op else pad_image_backward(dpadded, self._margins, self.padding_mode)

    def extra_repr(self) -> str:
        shown = super().extra_repr()
        if isinstance(self.padding, str):
            shown += f", padding={self.padding!r}"
        elif any(self.padding):
            shown += f", padding={short(self.padding)}"
        return shown + (f", padding_mode={self.padding_mode!r}" if self.padding_mode != "zeros" else "")


class Conv1d(_Convolution):
    """Convolution of sequences (B, C, L), state_dict-compatible with torch.nn.Conv1d; arguments as of `Conv2d`."""

    axes = 1


class Conv2d(_Convolution):
    """Convolution of images (LeCun et al., 1989), state_dict-compatible with torch.nn.Conv2d.

    Input (B, in_channels, H, W), or one image without its batch axis; output (B, out_channels, H', W') with
    H' = (H + 2 padding - dilation (kernel_size - 1) - 1) // stride + 1. It keeps its input for the backward pass, and
    nothing else: no unfolded and no padded image.

    Parameters
    ----------
    in_channels, out_channels : channels before and after
    kernel_size, stride, padding, dilation : one integer, or a tuple with one for each axis
    padding : pixels added on either side; or ``"valid"`` for none; or ``"same"``, so that the output is as large as
        the input (stride 1 only; with an even kernel one pixel more after the image than before it)
    groups : divides the channels into groups that do not see each other; `in_channels` of them is depthwise
    bias : whether a bias is added to each channel
    padding_mode : what is added: ``"zeros"``, ``"reflect"``, ``"replicate"`` or ``"circular"``
    generator : draws the initial weights, uniform in ±1/sqrt(in_channels / groups * kernel area) as torch does

    Raises
    ------
    ConfigError
        For settings that are not allowed, such as groups that do not divide the channels.
    ShapeError
        By forward, for a wrong number of axes or channels, or an image that is smaller than the kernel.
    DtypeError
        By forward, for an image of integers.
    """

    axes = 2


class _TransposedConvolution(_Filters):
    """Transposed convolution over the last axes; see :class:`ConvTranspose2d`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        output_padding: int | Sequence[int] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | Sequence[int] = 1,
        padding_mode: str = "zeros",
        generator: Generator | None = None,
    ):
        super().__init__(
            in_channels, out_channels, kernel_size, stride, dilation, groups, bias, generator, transposed=True
        )
        name = type(self).__name__
        if padding_mode != "zeros":
            raise ConfigError(f"{name}: padding_mode must be 'zeros', got {padding_mode!r}")
        self.padding = per_axis(name, "padding", padding, self.axes, least=0)
        self.output_padding = per_axis(name, "output_padding", output_padding, self.axes, least=0)
        self.padding_mode = padding_mode
        self._check_output_padding(self.output_padding)

    def _check_output_padding(self, output_padding: Size) -> None:
        for extra, stride, dilation in zip(output_padding, self.stride, self.dilation, strict=True):
            if extra >= max(stride, dilation):
                raise ConfigError(
                    f"{type(self).__name__}: output_padding must be smaller than stride or dilation, got "
                    f"{short(output_padding)} with stride {short(self.stride)} and dilation {short(self.dilation)}"
                )

    def _smallest(self, size: Size) -> Size:
        """Size of the output without output_padding: the smallest image that convolution makes `size` of."""
        settings = zip(size, self.kernel_size, self.stride, self.padding, self.dilation, strict=True)
        return tuple((n - 1) * s - 2 * p + d * (k - 1) + 1 for n, k, s, p, d in settings)

    def _extra(self, size: Size, output_size: int | Sequence[int] | None) -> Size:
        """Pixels beyond the smallest output: `output_padding`, or what `output_size` asks for."""
        if output_size is None:
            return self.output_padding
        smallest, name = self._smallest(size), type(self).__name__
        given = tuple(output_size)[-self.axes :] if isinstance(output_size, Sequence) else output_size
        wanted = per_axis(name, "output_size", given, self.axes)
        largest = tuple(n + max(s, d) - 1 for n, s, d in zip(smallest, self.stride, self.dilation, strict=True))
        if any(not low <= n <= high for low, n, high in zip(smallest, wanted, largest, strict=True)):
            raise ShapeError(
                f"{name}: output_size must lie between {format_shape(smallest)} and {format_shape(largest)} "
                f"for an image {format_shape(size)}, got {format_shape(wanted)}"
            )
        return tuple(n - low for n, low in zip(wanted, smallest, strict=True))

    def _output_size(self, size: Size, output_size: int | Sequence[int] | None) -> Size:
        extra = self._extra(size, output_size)
        output = tuple(n + e for n, e in zip(self._smallest(size), extra, strict=True))
        if any(n < 1 for n in output):
            raise ShapeError(
                f"{type(self).__name__}: of an image {format_shape(size)}, padding {short(self.padding)} leaves an "
                f"output {format_shape(output)}; every size must be at least 1"
            )
        return output

    def _margins(self, x: Array, output: Size) -> Margins:
        """Pixels missing at the end of `x`: convolution of `output` would give them too if output_padding >= stride."""
        back = convolved_size(output, self.kernel_size, self.stride, self.padding, self.dilation)
        return tuple((0, m - n) for m, n in zip(back, x.shape[2:], strict=True))

    @batched
    def forward(self, x: Array, output_size: int | Sequence[int] | None = None) -> Array:
        check_image(self, x, self.axes, self.in_channels)  # (B, in_channels, *size) -> (B, out_channels, *output)
        namespace(x, self.weight.data)
        output = self._output_size(tuple(x.shape[2:]), output_size)
        self.save(x, output)
        whole = _with_margins(x, self._margins(x, output))
        y = convolution_input_gradient(
            whole, self.weight.data, output, self.stride, self.padding, self.dilation, self.groups
        )
        if self.bias is not None:
            y += self.bias.data.reshape(-1, *(1 for _ in output))
        return y

    @batched
    def backward(self, dy: Array) -> Array:
        x, output = self.saved()
        check_gradient(self, dy, (len(x), self.out_channels, *output))
        how = (self.stride, self.padding, self.dilation, self.groups)
        margins = self._margins(x, output)
        # Forward is the gradient of a convolution with respect to its image, which is linear; so its own gradients
        # are that convolution, and for the filters the same sum with the image and the gradient exchanged.
        whole = _with_margins(x, margins)
        self.weight.accumulate(convolution_weight_gradient(whole, dy, self.kernel_size, *how))
        if self.bias is not None:
            self.bias.accumulate(channel_sum(dy))
        dwhole = convolution(dy, self.weight.data, None, *how)
        return pad_image_backward(dwhole, margins, "zeros") if dwhole.shape != x.shape else dwhole

    def extra_repr(self) -> str:
        shown = [
            f"{name}={short(getattr(self, name))}" for name in ("padding", "output_padding") if any(getattr(self, name))
        ]
        return ", ".join([super().extra_repr(), *shown])


def _with_margins(x: Array, margins: Margins) -> Array:
    return pad_image(x, margins, "zeros") if any(map(any, margins)) else x


class ConvTranspose1d(_TransposedConvolution):
    """Transposed convolution of sequences (B, C, L), state_dict-compatible with torch.nn.ConvTranspose1d."""

    axes = 1


class ConvTranspose2d(_TransposedConvolution):
    """Transposed convolution (Zeiler et al., 2010), state_dict-compatible with torch.nn.ConvTranspose2d.

    The convolution's gradient with respect to its image, run forward: every pixel of the input is spread out through
    the kernel. With stride s it enlarges an image s times. Input (B, in_channels, H, W), or one image without its batch
    axis; output (B, out_channels, H', W') with
    H' = (H - 1) stride - 2 padding + dilation (kernel_size - 1) + 1 + output_padding.
    It keeps its input for the backward pass, and nothing else.

    Parameters
    ----------
    in_channels, out_channels : channels before and after
    kernel_size, stride, dilation : one integer, or a tuple with one for each axis
    padding : pixels cut off the output on either side: what the convolution it undoes had added
    output_padding : pixels added to the output at the end, since a convolution with a stride makes the same size of
        several; smaller than stride or dilation
    groups : divides the channels into groups that do not see each other
    bias : whether a bias is added to each channel
    padding_mode : ``"zeros"``
    generator : draws the initial weights, uniform in ±1/sqrt(out_channels / groups * kernel area) as torch does

    Raises
    ------
    ConfigError
        For settings that are not allowed.
    ShapeError
        By forward, for a wrong number of axes or channels, or an `output_size` that cannot be reached.
    DtypeError
        By forward, for an image of integers.
    """

    axes = 2
