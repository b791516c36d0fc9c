"""Rows of the table of ops for convolution, margins, pooling and enlargement."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .case import Draw, Inputs, Library
from .op_case import Function, OpCase

CHANNELS, FILTERS = 4, 6


def _functional(name: str) -> Callable[[], Any]:
    """A function of torch.nn.functional, by the number of axes: ``conv`` is conv2d for images."""

    def build() -> Any:
        import torch

        return lambda x, *args: getattr(torch.nn.functional, f"{name}{x.ndim - 2}d")(x, *args)

    return build


def _size(T: int, axes: int) -> tuple[int, ...]:
    return tuple(T + 3 + axis for axis in range(axes))


# -- convolution -------------------------------------------------------------------------------------------------------


def _convolved(
    kernel: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int = 1,
    bias: bool = True,
    channels_last: bool = False,
) -> Callable[[Draw, int, int], Inputs]:
    def draw(r: Draw, B: int, T: int) -> Inputs:
        x = r.image(B, CHANNELS, *_size(T, len(kernel)), channels_last=channels_last)
        weight = r.normal(FILTERS, CHANNELS // groups, *kernel)
        return x, weight, r.normal(FILTERS) if bias else None, stride, padding, dilation, groups

    return draw


def _convolution_backward(L: Library) -> Function:
    def backward(dy: Any, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
        how = (stride, padding, dilation, groups)
        dx = L.convolution_input_gradient(dy, weight, x.shape[2:], *how)
        dweight = L.convolution_weight_gradient(dy, x, weight.shape[2:], *how)
        return dx, dweight, None if bias is None else L.channel_sum(dy)

    return backward


def _convolution(options: str, *args: Any, **settings: Any) -> OpCase:
    return OpCase(
        "convolution",
        _convolution_backward,
        _convolved(*args, **settings),
        options,
        torch=_functional("conv"),
        linear=("x", "weight", "bias") if settings.get("bias", True) else ("x", "weight"),
        covers=("convolution_input_gradient", "convolution_weight_gradient", "channel_sum"),
    )


def _transposed(r: Draw, B: int, T: int) -> Inputs:
    """Along the first axis two sizes give an image of T + 1; it is the larger that is wanted back."""
    x, weight = r.image(B, FILTERS, T + 1, T), r.normal(FILTERS, CHANNELS // 2, 3, 2)
    return x, weight, (2 * T + 2, 3 * T), (2, 3), (1, 0), (1, 2), 2


def _transposed_forward(L: Library) -> Function:
    def forward(x: Any, weight: Any, size: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
        return L.convolution_input_gradient(x, weight, size, stride, padding, dilation, groups)

    return forward


def _transposed_backward(L: Library) -> Function:
    def backward(dy: Any, x: Any, weight: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
        how = (stride, padding, dilation, groups)
        return L.convolution(dy, weight, None, *how), L.convolution_weight_gradient(x, dy, weight.shape[2:], *how)

    return backward


def _torch_transposed() -> Any:
    import torch

    def call(x: Any, weight: Any, size: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
        return torch.nn.functional.conv_transpose2d(x, weight, None, stride, padding, (1, 0), groups, dilation)

    return call


_CONVOLUTIONS = [
    _convolution("", (3, 3), (1, 1), (1, 1), (1, 1)),
    _convolution("channels last", (3, 3), (1, 1), (1, 1), (1, 1), channels_last=True),
    _convolution("axes differ", (2, 3), (2, 1), (1, 2), (3, 2)),
    _convolution("groups, stride", (3, 2), (2, 2), (1, 0), (1, 1), 2),
    _convolution("no bias", (1, 1), (1, 1), (0, 0), (1, 1), bias=False),
    _convolution("one axis", (3,), (2,), (1,), (1,)),
    _convolution("three axes", (2, 1, 3), (1, 2, 1), (0, 0, 1), (1, 1, 2)),
    OpCase("convolution_input_gradient", _transposed_backward, _transposed, "as a transposed convolution",
           _transposed_forward, _torch_transposed, linear=("x", "weight")),
]  # fmt: skip


# -- margins -----------------------------------------------------------------------------------------------------------


def _torch_pad() -> Any:
    import torch

    def call(x: Any, margins: Any, mode: str) -> Any:
        sides = [n for margin in reversed(margins) for n in margin]  # torch begins with the last axis
        return torch.nn.functional.pad(x, sides, "constant" if mode == "zeros" else mode)

    return call


_MARGINS = [
    OpCase("pad_image", "pad_image_backward",
           lambda r, B, T, mode=mode: (r.image(B, CHANNELS, T + 3, T + 4), ((1, 3), (0, 2)), mode),  # type: ignore[misc]
           mode, torch=_torch_pad, linear=("x",))
    for mode in ("zeros", "reflect", "replicate", "circular")
]  # fmt: skip


# -- pooling -----------------------------------------------------------------------------------------------------------


def _max_pool_backward(L: Library) -> Function:
    def backward(dy: Any, x: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, winner: Any) -> Any:
        return L.max_pool_backward(dy, winner, x.shape[2:], kernel, stride, padding, dilation)

    return backward


def _average_pool_backward(L: Library) -> Function:
    def backward(dy: Any, x: Any, kernel: Any, stride: Any, padding: Any, count_padding: bool, divisor: Any) -> Any:
        return L.average_pool_backward(dy, x.shape[2:], kernel, stride, padding, count_padding, divisor)

    return backward


def _torch_average(x: Any, *how: Any) -> Any:
    import torch

    if x.ndim == 3:  # torch has no divisor of its own here
        return torch.nn.functional.avg_pool1d(x, *how[:-1])
    return torch.nn.functional.avg_pool2d(x, *how)


def _max_pool(options: str, *how: Any) -> OpCase:
    return OpCase("max_pool", _max_pool_backward, lambda r, B, T: (r.distinct(B, 2, *_size(T, len(how[0]))), *how),
                  options, torch=_functional("max_pool"), covers=("max_pool_backward",))  # fmt: skip


def _average_pool(options: str, *how: Any, channels_last: bool = False) -> OpCase:
    return OpCase("average_pool", _average_pool_backward,
                  lambda r, B, T: (r.image(B, 2, *_size(T, len(how[0])), channels_last=channels_last), *how),
                  options, torch=lambda: _torch_average, linear=("x",),
                  covers=("average_pool_backward",))  # fmt: skip


def _of_size(name: str) -> Callable[[Library], Function]:
    """The backward of an op whose own wants the size of the image."""

    def make(L: Library) -> Function:
        back = getattr(L, f"{name}_backward")
        if name == "adaptive_average_pool":
            return lambda dy, x: back(dy, x.shape[2:])
        if name == "upsample_nearest":
            return lambda dy, x, steps: back(dy, x.shape[2:], steps)
        return lambda dy, x, steps, align_corners: back(dy, x.shape[2:], steps, align_corners)

    return make


def _adaptive(options: str, output: tuple[int, ...]) -> OpCase:
    name = "adaptive_average_pool"
    return OpCase(name, _of_size(name), lambda r, B, T: (r.image(B, 2, *_size(T, len(output))), output), options,
                  torch=_functional("adaptive_avg_pool"), linear=("x",), covers=(f"{name}_backward",))  # fmt: skip


_POOLING = [
    _max_pool("", (2, 2), (2, 2), (0, 0), (1, 1), False),
    _max_pool("padding, ceil_mode", (3, 3), (2, 2), (1, 1), (1, 1), True),
    _max_pool("axes differ", (2, 3), (1, 2), (1, 0), (2, 1), False),
    _max_pool("more than 256 taps", (20, 20), (3, 3), (10, 10), (1, 1), False),
    _max_pool("one axis", (3,), (2,), (1,), (1,), False),
    _average_pool("", (2, 2), (2, 2), (0, 0), False, True, None),
    _average_pool("channels last", (3, 3), (2, 2), (1, 1), False, True, None, channels_last=True),
    _average_pool("padding not counted, ceil_mode", (3, 2), (2, 1), (1, 0), True, False, None),
    _average_pool("padding counted, ceil_mode", (3, 3), (2, 2), (1, 1), True, True, None),
    _average_pool("divisor", (3, 3), (1, 2), (0, 1), False, True, 5),
    _average_pool("one axis", (3,), (2,), (1,), False, True, None),
    _adaptive("", (1, 1)),
    _adaptive("windows share pixels", (3, 2)),
    _adaptive("one axis", (3,)),
]


# -- enlargement -------------------------------------------------------------------------------------------------------


def _upsample(name: str, options: str, factors: tuple[float, ...], *align_corners: bool) -> OpCase:
    def draw(r: Draw, B: int, T: int) -> Inputs:
        size = _size(T, len(factors))
        output = tuple(int(n * factor) for n, factor in zip(size, factors, strict=True))
        return (r.image(B, 2, *size), output, tuple(1 / factor for factor in factors), *align_corners)

    def build() -> Any:
        import torch

        def call(x: Any, output: Any, steps: Any, align_corners: bool | None = None) -> Any:
            mode = "nearest" if name == "upsample_nearest" else {1: "linear", 2: "bilinear", 3: "trilinear"}[x.ndim - 2]
            return torch.nn.functional.interpolate(x, None, factors, mode, align_corners)

        return call

    return OpCase(name, _of_size(name), draw, options, torch=build, linear=("x",), covers=(f"{name}_backward",))


_UPSAMPLING = [
    _upsample("upsample_nearest", "", (2, 2)),
    _upsample("upsample_nearest", "sizes that are rounded", (1.7, 0.6)),
    _upsample("upsample_nearest", "three axes", (2, 1, 3)),
    _upsample("upsample_linear", "", (2, 2), False),
    _upsample("upsample_linear", "sizes that are rounded", (1.7, 0.6), False),
    _upsample("upsample_linear", "align_corners", (1.7, 2), True),
    _upsample("upsample_linear", "one axis", (2.5,), False),
]

IMAGE_OPS: list[OpCase] = [*_CONVOLUTIONS, *_MARGINS, *_POOLING, *_UPSAMPLING]
