"""Backwards of norms of images that are wrong on purpose: see test_wrong_gradients.py, which runs them."""

from __future__ import annotations

from typing import Any

from tinygrad_edu import layers
from tinygrad_edu.backend import Array, namespace
from tinygrad_edu.layers.channel_norm_ops import batchnorm_inference_backward, groupnorm_backward


def _parts(x: Array, mean: Array, var: Array, eps: float) -> tuple[Array, Array]:
    """The normalised image, and what it was multiplied with."""
    rstd = 1 / namespace(x).sqrt(var + eps)[:, None, None]
    return (x - mean[:, None, None]) * rstd, rstd


class _Batch(layers.BatchNorm2d):
    """Right; the wrong ones replace one of its parts."""

    def dx(self, dxhat: Array, xhat: Array, rstd: Array) -> Array:
        shift, stretch = self.mean(dxhat), self.mean(dxhat * xhat)
        return (dxhat - shift - xhat * stretch) * rstd

    def mean(self, values: Array) -> Array:
        return values.mean(axis=(0, 2, 3), keepdims=True)

    def weight_gradient(self, dy: Array, xhat: Array) -> Array:
        return (dy * xhat).sum(axis=(0, 2, 3))

    def backward(self, dy: Array) -> Array:
        x, mean, var, constant = self.saved()
        assert not constant and self.weight is not None and self.bias is not None
        xhat, rstd = _parts(x, mean, var, self.eps)
        self.weight.accumulate(self.weight_gradient(dy, xhat))
        self.bias.accumulate(dy.sum(axis=(0, 2, 3)))
        return self.dx(dy * self.weight.data[:, None, None], xhat, rstd)


class BatchNormWithoutVariance(_Batch):
    def dx(self, dxhat: Array, xhat: Array, rstd: Array) -> Array:
        return (dxhat - self.mean(dxhat)) * rstd


class BatchNormWithoutMean(_Batch):
    def dx(self, dxhat: Array, xhat: Array, rstd: Array) -> Array:
        return (dxhat - xhat * self.mean(dxhat * xhat)) * rstd


class BatchNormConstantStatistics(layers.BatchNorm2d):
    """In training too the statistics are taken for constants, as they are in evaluation."""

    def backward(self, dy: Array) -> Array:
        x, mean, var, _ = self.saved()
        self.save(x, mean, var, True)
        return super().backward(dy)


class BatchNormOfEachImage(_Batch):
    """The means that the gradient loses are taken over each image, not over the batch."""

    def mean(self, values: Array) -> Array:
        return values.mean(axis=(2, 3), keepdims=True)


class BatchNormWeightOfInput(_Batch):
    """The weight multiplies the normalised image; here its gradient is that of the image as it came."""

    def backward(self, dy: Array) -> Array:
        self._x = self._saved[-1][0]
        return super().backward(dy)

    def weight_gradient(self, dy: Array, xhat: Array) -> Array:
        return (dy * self._x).sum(axis=(0, 2, 3))


class BatchNormEpsForgotten(layers.BatchNorm2d):
    def backward(self, dy: Array) -> Array:
        eps, self.eps = self.eps, 0.0
        try:
            return super().backward(dy)
        finally:
            self.eps = eps


class BatchNormSampleVariance(layers.BatchNorm2d):
    """Normalises by the variance that the running statistics take, divided by n - 1."""

    def forward(self, x: Array) -> Array:
        n = x.size // x.shape[1]
        y: Any = super().forward(x)
        return y * ((n - 1) / n) ** 0.5


class BatchNormRunningInTraining(layers.BatchNorm2d):
    """After eval() the gradient is still that of training."""

    def backward(self, dy: Array) -> Array:
        x, mean, var, _ = self.saved()
        self.save(x, mean, var, False)
        return super().backward(dy)


class GroupNormOfOneGroup(layers.GroupNorm):
    """The gradient of one group of all channels."""

    def backward(self, dy: Array) -> Array:
        x, mean, var = self.saved()
        assert self.weight is not None and self.bias is not None
        mean, var = (values.mean(axis=1, keepdims=True) for values in (mean, var))
        dx, dweight, dbias = groupnorm_backward(dy, x, 1, self.weight.data, mean, var, self.eps)
        self.weight.accumulate(dweight)
        self.bias.accumulate(dbias)
        return dx


class GroupNormScaledAfter(layers.GroupNorm):
    """The weights differ within a group: they belong inside the means, not outside."""

    def backward(self, dy: Array) -> Array:
        x, mean, var = self.saved()
        assert self.weight is not None and self.bias is not None
        dx, dweight, dbias = groupnorm_backward(dy, x, self.num_groups, None, mean, var, self.eps)
        self.weight.accumulate(dweight)
        self.bias.accumulate(dbias)
        return dx * self.weight.data[:, None, None]


class InstanceNormConstantStatistics(layers.InstanceNorm2d):
    def backward(self, dy: Array) -> Array:
        x, mean, var, constant = self.saved()
        assert not constant
        return batchnorm_inference_backward(dy, x, None, mean.mean(axis=0), var.mean(axis=0), self.eps)[0]


# (stands in for, wrong class, row that must find it, a part of what the report says)
WRONG_NORMS = [
    ("BatchNorm2d", BatchNormWithoutVariance, "BatchNorm2d", "backward WRONG in dx   (weight, bias ok)"),
    ("BatchNorm2d", BatchNormWithoutVariance, "BatchNorm2d (eps=0.5)", "backward WRONG in dx   (weight, bias ok)"),
    ("BatchNorm2d", BatchNormWithoutMean, "BatchNorm2d", "backward WRONG in dx   (weight, bias ok)"),
    ("BatchNorm2d", BatchNormConstantStatistics, "BatchNorm2d", "backward WRONG in dx   (weight, bias ok)"),
    ("BatchNorm2d", BatchNormOfEachImage, "BatchNorm2d (channels last)", "backward WRONG in dx   (weight, bias ok)"),
    ("BatchNorm2d", BatchNormWeightOfInput, "BatchNorm2d", "backward WRONG in weight   (bias, dx ok)"),
    ("BatchNorm2d", BatchNormEpsForgotten, "BatchNorm2d (eps=0.5)", "backward WRONG in weight, dx   (bias ok)"),
    ("BatchNorm2d", BatchNormSampleVariance, "BatchNorm2d", "Your output differs from torch's: the forward is wrong."),
    ("BatchNorm2d", BatchNormRunningInTraining, "BatchNorm2d (eval)", "backward WRONG in dx   (weight, bias ok)"),
    ("GroupNorm", GroupNormOfOneGroup, "GroupNorm", "backward WRONG in weight, dx   (bias ok)"),
    ("GroupNorm", GroupNormScaledAfter, "GroupNorm", "backward WRONG in dx   (weight, bias ok)"),
    ("InstanceNorm2d", InstanceNormConstantStatistics, "InstanceNorm2d", "backward WRONG in dx"),
]
