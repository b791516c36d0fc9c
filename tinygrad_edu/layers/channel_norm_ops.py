"""Normalisation of images: each channel over the batch, or groups of channels in each image.

Both take off a mean and divide by a standard deviation; they differ in what these are taken over. Shapes are those
of torch.nn: x (B, C, *size), weight and bias (C,) or None.
"""

from __future__ import annotations

from ..backend import Array, namespace, op


def _beside(values: Array, x: Array) -> Array:
    """(C,) -> (C, 1, 1): values of the channels, so that they stand beside an image (B, C, H, W)."""
    return values.reshape(-1, *(1,) * (x.ndim - 2))


def _scaled(xhat: Array, weight: Array | None, bias: Array | None) -> Array:
    """Each channel stretched by its weight and shifted by its bias, where it has them."""
    y = xhat if weight is None else xhat * _beside(weight, xhat)
    return y if bias is None else y + _beside(bias, xhat)


def _but_channels(x: Array) -> tuple[int, ...]:
    """The axes of an image that are not its channels: (0, 2, 3)."""
    return (0, *range(2, x.ndim))


@op
def batchnorm(x: Array, weight: Array | None, bias: Array | None, eps: float) -> tuple[Array, Array, Array]:
    r"""Batch normalisation, of each channel over all images and places (Ioffe & Szegedy, 2015).

    .. math:: \hat x = (x - \mu)\,r, \qquad r = 1/\sqrt{\sigma^2 + \epsilon}, \qquad y = w \hat x + b

    with :math:`\mu, \sigma^2` the mean and variance of the channel in this batch. So every image of the batch has a
    part in the result for every other.

    Parameters
    ----------
    x : (B, C, *size)
    weight, bias : (C,) or None
    eps : added to the variance

    Returns
    -------
    y : (B, C, *size)
    mean, var : (C,), kept for the backward pass and for running statistics
    """
    axes = _but_channels(x)
    mean, var = x.mean(axis=axes), x.var(axis=axes)
    return batchnorm_inference.reference(x, weight, bias, mean, var, eps), mean, var


@op
def batchnorm_backward(
    dy: Array, x: Array, weight: Array | None, mean: Array, var: Array, eps: float
) -> tuple[Array, Array, Array]:
    r"""Gradient of :func:`batchnorm`.

    x reaches y by three paths: directly, through the mean of its channel and through the variance. With
    :math:`d\hat x = w\,dy` they give

    .. math:: dx = r\,\big(d\hat x - \overline{d\hat x} - \hat x\;\overline{d\hat x\,\hat x}\big)

    where the bar is the mean over all images and places of the channel: the formula of layer normalisation, over
    other axes.

    Returns
    -------
    dx : (B, C, *size); dweight, dbias : (C,), which a layer without weight and bias has no use for
    """
    xp, axes = namespace(dy, x), _but_channels(x)
    rstd = _beside(1 / xp.sqrt(var + eps), x)
    xhat = (x - _beside(mean, x)) * rstd
    dxhat = _scaled(dy, weight, None)
    dx = dxhat - dxhat.mean(axis=axes, keepdims=True)  # a shift of the channel changes nothing
    dx -= xhat * (dxhat * xhat).mean(axis=axes, keepdims=True)  # nor does a stretch
    return dx * rstd, (dy * xhat).sum(axis=axes), dy.sum(axis=axes)


@op
def batchnorm_inference(
    x: Array, weight: Array | None, bias: Array | None, mean: Array, var: Array, eps: float
) -> Array:
    r"""Batch normalisation by statistics that are given: those that were gathered in training.

    .. math:: y = w\,(x - \mu) / \sqrt{\sigma^2 + \epsilon} + b

    with constants :math:`\mu, \sigma^2`: a linear function of each number by itself. No image sees another.

    Parameters
    ----------
    x : (B, C, *size)
    weight, bias : (C,) or None
    mean, var : (C,)
    eps : added to the variance

    Returns
    -------
    y : (B, C, *size)
    """
    rstd = 1 / namespace(x).sqrt(var + eps)
    return _scaled((x - _beside(mean, x)) * _beside(rstd, x), weight, bias)


@op
def batchnorm_inference_backward(
    dy: Array, x: Array, weight: Array | None, mean: Array, var: Array, eps: float
) -> tuple[Array, Array, Array]:
    r"""Gradient of :func:`batchnorm_inference`, whose statistics are no function of x: :math:`dx = r\,w\,dy`.

    Returns
    -------
    dx : (B, C, *size); dweight, dbias : (C,)
    """
    axes = _but_channels(x)
    rstd = _beside(1 / namespace(dy, x).sqrt(var + eps), x)
    xhat = (x - _beside(mean, x)) * rstd
    return _scaled(dy, weight, None) * rstd, (dy * xhat).sum(axis=axes), dy.sum(axis=axes)


@op
def groupnorm(
    x: Array, num_groups: int, weight: Array | None, bias: Array | None, eps: float
) -> tuple[Array, Array, Array]:
    r"""Group normalisation, of groups of neighbouring channels in each image (Wu & He, 2018).

    .. math:: \hat x = (x - \mu)\,r, \qquad r = 1/\sqrt{\sigma^2 + \epsilon}, \qquad y = w \hat x + b

    with :math:`\mu, \sigma^2` over the C / G channels of a group and all places. Groups of one channel make it
    instance normalisation (Ulyanov et al., 2016), one group of all channels a layer normalisation of images.

    Parameters
    ----------
    x : (B, C, *size)
    num_groups : G, which divides C
    weight, bias : (C,) or None
    eps : added to the variance

    Returns
    -------
    y : (B, C, *size)
    mean, var : (B, G), kept for the backward pass
    """
    groups = x.reshape(len(x), num_groups, x.shape[1] // num_groups, *x.shape[2:])  # (B, G, C / G, *size)
    axes = tuple(range(2, groups.ndim))
    mean, var = groups.mean(axis=axes, keepdims=True), groups.var(axis=axes, keepdims=True)
    xhat = (groups - mean) / namespace(x).sqrt(var + eps)
    return (
        _scaled(xhat.reshape(x.shape), weight, bias),
        mean.reshape(len(x), num_groups),
        var.reshape(len(x), num_groups),
    )


@op
def groupnorm_backward(
    dy: Array, x: Array, num_groups: int, weight: Array | None, mean: Array, var: Array, eps: float
) -> tuple[Array, Array, Array]:
    r"""Gradient of :func:`groupnorm`.

    .. math:: dx = r\,\big(d\hat x - \overline{d\hat x} - \hat x\;\overline{d\hat x\,\hat x}\big)

    with the bar over what the mean was taken over, here a group in an image. A weight stands at every place of its
    channel, in every image, so its gradient is the sum over those.

    Returns
    -------
    dx : (B, C, *size); dweight, dbias : (C,), which a layer without weight and bias has no use for
    """
    grouped = (len(x), num_groups, x.shape[1] // num_groups, *x.shape[2:])
    axes = tuple(range(2, len(grouped)))
    mean, var = (values.reshape(*values.shape, *(1 for _ in axes)) for values in (mean, var))  # (B, G, 1, 1, 1)
    rstd = 1 / namespace(dy, x).sqrt(var + eps)
    xhat = (x.reshape(grouped) - mean) * rstd
    dxhat = _scaled(dy, weight, None).reshape(grouped)
    dx = dxhat - dxhat.mean(axis=axes, keepdims=True)
    dx -= xhat * (dxhat * xhat).mean(axis=axes, keepdims=True)
    everywhere = _but_channels(x)
    dweight = (dy * xhat.reshape(x.shape)).sum(axis=everywhere)
    return (dx * rstd).reshape(x.shape), dweight, dy.sum(axis=everywhere)
