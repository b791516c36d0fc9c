"""Backwards of image layers that are wrong on purpose: see test_wrong_gradients.py, which runs them."""

from __future__ import annotations

from typing import Any

from tinygrad_edu import layers
from tinygrad_edu.backend import namespace
from tinygrad_edu.layers.convolution_ops import (
    channel_sum,
    convolution,
    convolution_input_gradient,
    convolution_weight_gradient,
)
from tinygrad_edu.layers.padding_ops import pad_image_backward
from tinygrad_edu.layers.pooling_ops import average_pool_backward, taps
from tinygrad_edu.layers.upsample import upsample_nearest_backward


class _Conv(layers.Conv2d):
    """Right; the wrong ones replace one of its parts."""

    def how(self) -> tuple[Any, ...]:
        return self.stride, self._zeros, self.dilation, self.groups

    def input_gradient(self, dy: Any, x: Any) -> Any:
        return convolution_input_gradient(dy, self.weight.data, x.shape[2:], *self.how())

    def weight_gradient(self, dy: Any, x: Any) -> Any:
        return convolution_weight_gradient(dy, x, self.kernel_size, *self.how())

    def bias_gradient(self, dy: Any) -> Any:
        return channel_sum(dy)

    def backward(self, dy: Any) -> Any:
        x = self.saved()
        self.weight.accumulate(self.weight_gradient(dy, x))
        if self.bias is not None:
            self.bias.accumulate(self.bias_gradient(dy))
        return self.input_gradient(dy, x)


class ConvKernelNotTurned(_Conv):
    """At stride 1 the input gradient is a convolution with the kernel turned by 180 degrees; here it is not."""

    def input_gradient(self, dy: Any, x: Any) -> Any:
        return convolution(dy, self.weight.data.swapaxes(0, 1), None, *self.how())


class ConvTurnedWeightGradient(_Conv):
    def weight_gradient(self, dy: Any, x: Any) -> Any:
        return super().weight_gradient(dy, x)[:, :, ::-1, ::-1]


class ConvStrideGapsMissing(_Conv):
    """Between the gradients of a strided convolution lie zeros; here each is repeated."""

    def input_gradient(self, dy: Any, x: Any) -> Any:
        xp = namespace(dy)
        dense = xp.repeat(xp.repeat(dy, 2, axis=2), 2, axis=3)[:, :, : x.shape[2], : x.shape[3]]
        return convolution_input_gradient(dense, self.weight.data, x.shape[2:], (1, 1), (1, 1), (1, 1), 1)


class ConvMarginNotCutOff(_Conv):
    """The gradient of the padded image begins with that of the margin."""

    def input_gradient(self, dy: Any, x: Any) -> Any:
        size = tuple(n + 2 * p for n, p in zip(x.shape[2:], self._zeros, strict=True))
        none = (self.stride, (0, 0), self.dilation, self.groups)
        return convolution_input_gradient(dy, self.weight.data, size, *none)[:, :, : x.shape[2], : x.shape[3]]


class ConvBiasMean(_Conv):
    def bias_gradient(self, dy: Any) -> Any:
        return dy.mean(axis=(2, 3)).sum(axis=0)


class ConvBiasOfFirstImage(_Conv):
    def bias_gradient(self, dy: Any) -> Any:
        return dy[0].sum(axis=(1, 2))


class ConvBiasNotSummed(_Conv):
    def bias_gradient(self, dy: Any) -> Any:
        return dy.sum(axis=(2, 3))


class ConvGroupsExchanged(_Conv):
    def weight_gradient(self, dy: Any, x: Any) -> Any:
        return super().weight_gradient(dy, namespace(x).roll(x, x.shape[1] // self.groups, axis=1))


class ConvTurnedKernel(layers.Conv2d):
    """Convolution as mathematics has it: forward and backward fit each other, and only torch tells."""

    def forward(self, x: Any) -> Any:
        self.save(x)
        how = (self.stride, self._zeros, self.dilation, self.groups)
        return convolution(x, self.weight.data[:, :, ::-1, ::-1], self.bias.data, *how)

    def backward(self, dy: Any) -> Any:
        x = self.saved()
        how = (self.stride, self._zeros, self.dilation, self.groups)
        self.weight.accumulate(convolution_weight_gradient(dy, x, self.kernel_size, *how)[:, :, ::-1, ::-1])
        self.bias.accumulate(channel_sum(dy))
        return convolution_input_gradient(dy, self.weight.data[:, :, ::-1, ::-1], x.shape[2:], *how)


class ConvMirrorForgotten(layers.Conv2d):
    """A mirrored pixel is seen in two places; here the gradient is that of the one where it stands."""

    def backward(self, dy: Any) -> Any:
        x = self.saved()
        padded = self._padded(x)
        how = (self.stride, self._zeros, self.dilation, self.groups)
        self.weight.accumulate(convolution_weight_gradient(dy, padded, self.kernel_size, *how))
        self.bias.accumulate(channel_sum(dy))
        dpadded = convolution_input_gradient(dy, self.weight.data, padded.shape[2:], *how)
        return pad_image_backward(dpadded, self._margins, "zeros")


class TransposeLastRowForgotten(layers.ConvTranspose2d):
    """What output_padding adds is reached by the kernel too."""

    def backward(self, dy: Any) -> Any:
        dy = dy.copy()
        dy[:, :, -1], dy[:, :, :, -1] = 0, 0
        return super().backward(dy)


class MaxPoolShared(layers.MaxPool2d):
    """The gradient of a mean."""

    def backward(self, dy: Any) -> Any:
        _, size = self.saved()
        return average_pool_backward(dy, size, self.kernel_size, self.stride, self.padding, True, None)


class MaxPoolOverwrites(layers.MaxPool2d):
    """A pixel that wins in several windows keeps the gradient of the last."""

    def backward(self, dy: Any) -> Any:
        xp = namespace(dy)
        winner, size = self.saved()
        padded = xp.zeros((*dy.shape[:2], *(n + 2 * p for n, p in zip(size, self.padding, strict=True))), dy.dtype)
        for number, (_, seen) in enumerate(taps(self.kernel_size, self.stride, self.dilation, dy.shape[2:])):
            padded[seen] = xp.where(winner == number, dy, padded[seen])
        return padded[:, :, 1 : 1 + size[0], 1 : 1 + size[1]]


class AvgPoolUndivided(layers.AvgPool2d):
    def backward(self, dy: Any) -> Any:
        return super().backward(dy) * 4


class AvgPoolCountsThePadding(layers.AvgPool2d):
    def backward(self, dy: Any) -> Any:
        return average_pool_backward(dy, self.saved()[2:], self.kernel_size, self.stride, self.padding, True, None)


class AdaptiveOneShare(layers.AdaptiveAvgPool2d):
    """Every pixel gets the whole gradient of the mean, not its share."""

    def backward(self, dy: Any) -> Any:
        *_, height, width = self._saved[-1][0]
        return super().backward(dy) * (height * width)


class UpsampleMean(layers.Upsample):
    def backward(self, dy: Any) -> Any:
        return super().backward(dy) / 4


class BilinearAsNearest(layers.Upsample):
    def backward(self, dy: Any) -> Any:
        size = self.saved()[2:]
        return upsample_nearest_backward(dy, size, self._plan(size)[1])


# (stands in for, wrong class, row that must find it, a part of what the report says)
WRONG_IMAGES = [
    ("Conv2d", ConvKernelNotTurned, "Conv2d (square)", "backward WRONG in dx   (weight, bias ok)"),
    ("Conv2d", ConvTurnedWeightGradient, "Conv2d", "It is reversed along `row` and `column`"),
    ("Conv2d", ConvStrideGapsMissing, "Conv2d (stride=2, padding=1)", "backward WRONG in dx   (weight, bias ok)"),
    ("Conv2d", ConvMarginNotCutOff, "Conv2d (channels last)", "backward WRONG in dx   (weight, bias ok)"),
    ("Conv2d", ConvBiasMean, "Conv2d", "backward WRONG in bias   (weight, dx ok)"),
    ("Conv2d", ConvBiasOfFirstImage, "Conv2d", "Only batch=0 was counted: the sum over that axis is missing"),
    ("Conv2d", ConvBiasNotSummed, "Conv2d", "expected a gradient (6,), the parameter's shape, got (3, 6)"),
    ("Conv2d", ConvGroupsExchanged, "Conv2d (groups=2)", "backward WRONG in weight   (bias, dx ok)"),
    ("Conv2d", ConvTurnedKernel, "Conv2d", "Your output differs from torch's: the forward is wrong."),
    ("Conv2d", ConvMirrorForgotten, "Conv2d (padding_mode='reflect')", "backward WRONG in dx   (weight, bias ok)"),
    (
        "ConvTranspose2d",
        TransposeLastRowForgotten,
        "ConvTranspose2d (output_padding=1)",
        "backward WRONG in weight, bias, dx",
    ),
    ("MaxPool2d", MaxPoolShared, "MaxPool2d", "backward WRONG in dx"),
    ("MaxPool2d", MaxPoolOverwrites, "MaxPool2d (windows overlap)", "backward WRONG in dx"),
    ("AvgPool2d", AvgPoolUndivided, "AvgPool2d", "It is 4 times the right gradient"),
    ("AvgPool2d", AvgPoolCountsThePadding, "AvgPool2d (count_include_pad=False)", "backward WRONG in dx"),
    ("AdaptiveAvgPool2d", AdaptiveOneShare, "AdaptiveAvgPool2d", "It is 56 times the right gradient"),
    ("Upsample", UpsampleMean, "Upsample (scale_factor=2)", "It is 0.25 times the right gradient"),
    ("Upsample", BilinearAsNearest, "Upsample (bilinear)", "backward WRONG in dx"),
]
FORWARD_TOO = (ConvTurnedKernel,)  # whose forward is wrong in the same way
