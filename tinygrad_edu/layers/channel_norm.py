"""Normalisation layers of images. Their ops are in `channel_norm_ops`."""

from __future__ import annotations

import math
from typing import Any

from ..backend import Array, namespace, ones, zeros
from ..errors import ConfigError, ShapeError, format_shape
from .base import Buffer, Layer, Parameter, check_positive
from .channel_norm_ops import (
    batchnorm,
    batchnorm_backward,
    batchnorm_inference,
    batchnorm_inference_backward,
    groupnorm,
    groupnorm_backward,
)
from .images import batched, check_gradient, check_image


class _ChannelNorm(Layer):
    """What the layers of this file share: weight and bias, one each a channel, and the check of settings."""

    def __init__(self, num_features: int, eps: float, affine: bool, bias: bool):
        super().__init__()
        name = type(self).__name__
        if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 <= eps < math.inf:
            raise ConfigError(f"{name}: eps must be a number >= 0, got {eps!r}")
        self.eps, self.affine = float(eps), bool(affine)
        self.weight = Parameter(ones(num_features)) if affine else None
        self.bias = Parameter(zeros(num_features)) if affine and bias else None

    def _scale(self, x: Array) -> tuple[Array | None, Array | None]:
        """The values of weight and bias, which must be on the device of `x`."""
        held: list[Parameter | Buffer] = [*self._parameters.values(), *self._buffers.values()]
        namespace(x, *(each.data for each in held))
        return self._weight(), None if self.bias is None else self.bias.data

    def _weight(self) -> Array | None:
        return None if self.weight is None else self.weight.data

    def _affine_repr(self) -> str:
        return f"affine={self.affine}" + (", bias=False" if self.affine and self.bias is None else "")

    def _accumulate(self, dweight: Array, dbias: Array) -> None:
        if self.weight is not None:
            self.weight.accumulate(dweight)
        if self.bias is not None:
            self.bias.accumulate(dbias)


class _RunningNorm(_ChannelNorm):
    """A norm that may keep running statistics of each channel, for evaluation."""

    def __init__(
        self, num_features: int, eps: float, momentum: float | None, affine: bool, track_running_stats: bool, bias: bool
    ):
        name = type(self).__name__
        check_positive(name, num_features=num_features)
        if momentum is not None and (
            isinstance(momentum, bool) or not isinstance(momentum, int | float) or not 0 <= momentum <= 1
        ):
            raise ConfigError(
                f"{name}: momentum must be a number in [0, 1], or None for a plain mean, got {momentum!r}"
            )
        super().__init__(num_features, eps, affine, bias)
        self.num_features, self.momentum = num_features, momentum
        self.track_running_stats = bool(track_running_stats)
        self.running_mean = Buffer(zeros(num_features)) if track_running_stats else None
        self.running_var = Buffer(ones(num_features)) if track_running_stats else None
        self.num_batches_tracked = Buffer(zeros(dtype="int64")) if track_running_stats else None

    def _running(self) -> tuple[Array, Array] | None:
        """The running statistics to normalise by; None for those of the batch."""
        if self.training or self.running_mean is None or self.running_var is None:
            return None
        return self.running_mean.data, self.running_var.data

    def _track(self, mean: Array, var: Array, values: int) -> None:
        """Take the statistics of a batch into the running ones; the variance as an estimate of that of all data.

        Parameters
        ----------
        values : how many the variance is of
        """
        if not self.training or self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.data += 1
        share: Any = self.momentum  # of the new batch
        if share is None:  # each batch weighs the same; stays on the device
            share = (1 / self.num_batches_tracked.data).astype(mean.dtype)
        self.running_mean.data += share * (mean - self.running_mean.data)
        self.running_var.data += share * (var * (values / (values - 1)) - self.running_var.data)

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, {self._affine_repr()}, "
            f"track_running_stats={self.track_running_stats}"
        )


class _BatchNorm(_RunningNorm):
    """Batch normalisation; see :class:`BatchNorm2d`."""

    inputs: tuple[tuple[str, ...], ...]  # the sizes that its images may have, by name

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        bias: bool = True,
    ):
        super().__init__(num_features, eps, momentum, affine, track_running_stats, bias)

    def forward(self, x: Array) -> Array:
        self._check(x)
        weight, bias = self._scale(x)
        running = self._running()
        if running is not None:
            y = batchnorm_inference(x, weight, bias, *running, self.eps)
            self.save(x, *(values.copy() for values in running), True)  # a step of training changes them in place
            return y
        values = x.size // x.shape[1]
        if values < 2:
            raise ShapeError(
                f"{type(self).__name__}: the statistics of a batch need more than one value a channel, "
                f"got {format_shape(tuple(x.shape))}; give a larger batch, or use eval()"
            )
        y, mean, var = batchnorm(x, weight, bias, self.eps)
        self._track(mean, var, values)
        self.save(x, mean, var, False)
        return y

    def backward(self, dy: Array) -> Array:
        x, mean, var, constant = self.saved()
        check_gradient(self, dy, x.shape)
        gradient = batchnorm_inference_backward if constant else batchnorm_backward
        dx, dweight, dbias = gradient(dy, x, self._weight(), mean, var, self.eps)
        self._accumulate(dweight, dbias)
        return dx

    def _check(self, x: Array) -> None:
        namespace(x)  # an error for what is no array
        if x.ndim - 2 not in map(len, self.inputs):
            wanted = " or ".join(format_shape(("batch", self.num_features, *sizes)) for sizes in self.inputs)
            raise ShapeError(f"{type(self).__name__}: expected {wanted}, got {format_shape(tuple(x.shape))}")
        check_image(self, x, x.ndim - 2, self.num_features)


class BatchNorm1d(_BatchNorm):
    """Batch normalisation of vectors (B, C) or signals (B, C, L); see :class:`BatchNorm2d`."""

    inputs = ((), ("length",))


class BatchNorm2d(_BatchNorm):
    r"""Batch normalisation of images (B, C, H, W), state_dict-compatible with torch.nn.BatchNorm2d.

    In training each channel is normalised by its mean and variance over the batch, and these are taken into running
    statistics. After ``eval()`` the running statistics take their place, so that an image gives the same whatever
    else is in the batch. :func:`tinygrad_edu.inference` does not switch this: a forward in training mode counts.

    Parameters
    ----------
    num_features : C
    eps : added to the variance
    momentum : share of a new batch in the running statistics, in [0, 1]; None for the mean of all batches so far
    affine : whether each channel has a weight and a bias
    track_running_stats : False for the statistics of the batch in evaluation too
    bias : False for a weight alone

    Attributes
    ----------
    running_mean, running_var : buffers (C,); the variance divided by n - 1, as an estimate for all data
    num_batches_tracked : buffer, how many batches they have seen

    Raises
    ------
    ConfigError
        For settings out of range.
    ShapeError
        For images of other channels, or one value a channel where the statistics are of the batch.

    Notes
    -----
    Batch Normalization (Ioffe & Szegedy, 2015). For backward it keeps x, and two numbers a channel.
    """

    inputs = (("height", "width"),)


class _InstanceNorm(_RunningNorm):
    """Instance normalisation; see :class:`InstanceNorm2d`."""

    axes: int  # how many sizes its images have

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        *,
        bias: bool = True,
    ):
        super().__init__(num_features, eps, momentum, affine, track_running_stats, bias)

    @batched
    def forward(self, x: Array) -> Array:
        check_image(self, x, self.axes, self.num_features)
        weight, bias = self._scale(x)
        running = self._running()
        if running is not None:
            y = batchnorm_inference(x, weight, bias, *running, self.eps)
            self.save(x, *(values.copy() for values in running), True)
            return y
        values = math.prod(x.shape[2:])
        if values < 2:
            raise ShapeError(
                f"{type(self).__name__}: the statistics of an image need more than one value a channel, "
                f"got {format_shape(tuple(x.shape))}"
            )
        y, mean, var = groupnorm(x, self.num_features, weight, bias, self.eps)
        if len(x):
            self._track(mean.mean(axis=0), var.mean(axis=0), values)
        self.save(x, mean, var, False)
        return y

    @batched
    def backward(self, dy: Array) -> Array:
        x, mean, var, constant = self.saved()
        check_gradient(self, dy, x.shape)
        weight = self._weight()
        if constant:
            dx, dweight, dbias = batchnorm_inference_backward(dy, x, weight, mean, var, self.eps)
        else:
            dx, dweight, dbias = groupnorm_backward(dy, x, self.num_features, weight, mean, var, self.eps)
        self._accumulate(dweight, dbias)
        return dx


class InstanceNorm1d(_InstanceNorm):
    """Instance normalisation of signals (B, C, L) or (C, L); see :class:`InstanceNorm2d`."""

    axes = 1


class InstanceNorm2d(_InstanceNorm):
    """Instance normalisation of images (B, C, H, W) or (C, H, W), state_dict-compatible with torch.nn.InstanceNorm2d.

    Each channel of each image is normalised by itself: the contrast of an image goes, its pattern stays. Other than
    torch, it counts batches when it keeps running statistics, so that ``momentum=None`` is a mean of them here too.

    Parameters
    ----------
    num_features : C
    eps : added to the variance
    momentum : share of a new batch in the running statistics, in [0, 1]; None for the mean of all batches so far
    affine : whether each channel has a weight and a bias
    track_running_stats : True to normalise by running statistics in evaluation
    bias : False for a weight alone

    Raises
    ------
    ConfigError
        For settings out of range.
    ShapeError
        For images of other channels, or of one value a channel.

    Notes
    -----
    Instance Normalization (Ulyanov, Vedaldi & Lempitsky, 2016). For backward it keeps x, and two numbers an image and
    channel.
    """

    axes = 2


class GroupNorm(_ChannelNorm):
    """Group normalisation of (B, C, *size), state_dict-compatible with torch.nn.GroupNorm.

    Each group of neighbouring channels is normalised in each image by itself, in training and evaluation alike.

    Parameters
    ----------
    num_groups : G, which must divide C
    num_channels : C
    eps : added to the variance
    affine : whether each channel has a weight and a bias
    bias : False for a weight alone

    Raises
    ------
    ConfigError
        For settings out of range, or groups that do not divide the channels.
    ShapeError
        For images of other channels, or groups of one value, of which only the bias would be left.

    Notes
    -----
    Group Normalization (Wu & He, 2018). For backward it keeps x, and two numbers an image and group.
    """

    def __init__(
        self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True, *, bias: bool = True
    ):
        check_positive("GroupNorm", num_groups=num_groups, num_channels=num_channels)
        if num_channels % num_groups:
            raise ConfigError(
                f"GroupNorm: num_channels must be divisible by num_groups, got {num_channels} and {num_groups}"
            )
        super().__init__(num_channels, eps, affine, bias)
        self.num_groups, self.num_channels = num_groups, num_channels

    def forward(self, x: Array) -> Array:
        namespace(x)  # an error for what is no array
        if x.ndim < 2:
            wanted = format_shape(("batch", self.num_channels, "..."))
            raise ShapeError(f"GroupNorm: expected {wanted}, got {format_shape(tuple(x.shape))}")
        check_image(self, x, x.ndim - 2, self.num_channels)
        if math.prod(x.shape[1:]) == self.num_groups:
            raise ShapeError(
                f"GroupNorm: {self.num_groups} groups of an image {format_shape(tuple(x.shape[1:]))} have one value "
                "each, of which nothing would be left; give fewer groups or larger images"
            )
        y, mean, var = groupnorm(x, self.num_groups, *self._scale(x), self.eps)
        self.save(x, mean, var)
        return y

    def backward(self, dy: Array) -> Array:
        x, mean, var = self.saved()
        check_gradient(self, dy, x.shape)
        dx, dweight, dbias = groupnorm_backward(dy, x, self.num_groups, self._weight(), mean, var, self.eps)
        self._accumulate(dweight, dbias)
        return dx

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, {self._affine_repr()}"
