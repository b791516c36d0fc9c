"""Normalisation of the last axis."""

from __future__ import annotations

from ..backend import Array, namespace, ones, op, zeros
from ..errors import ConfigError
from .base import Layer, Parameter, check_last_axis, check_positive


@op
def layernorm(x: Array, weight: Array, bias: Array, eps: float) -> tuple[Array, Array, Array]:
    r"""Layer normalisation of the last axis (Ba, Kiros & Hinton, 2016).

    .. math:: \hat x = (x - \mu)\,r, \qquad r = 1/\sqrt{\sigma^2 + \epsilon}, \qquad y = w \hat x + b

    Parameters
    ----------
    x : (..., C)
    weight, bias : (C,)
    eps : added to the variance

    Returns
    -------
    y : (..., C)
    mean, rstd : (..., 1), kept for the backward pass
    """
    xp = namespace(x)
    mean = x.mean(axis=-1, keepdims=True)
    rstd = 1 / xp.sqrt(x.var(axis=-1, keepdims=True) + eps)
    return (x - mean) * rstd * weight + bias, mean, rstd


@op
def layernorm_backward(dy: Array, x: Array, weight: Array, mean: Array, rstd: Array) -> tuple[Array, Array, Array]:
    r"""Gradient of :func:`layernorm`.

    x reaches y by three paths: directly, through the mean, and through the variance. With
    :math:`d\hat x = w\,dy` they give

    .. math:: dx = r\,\big(d\hat x - \overline{d\hat x} - \hat x\;\overline{d\hat x\,\hat x}\big)

    where the bar is the mean over the last axis: what a normalised row cannot feel, a shift and a
    stretch, is taken out of the gradient.

    Returns
    -------
    dx : (..., C); dweight, dbias : (C,)
    """
    xhat = (x - mean) * rstd
    dxhat = dy * weight
    dx = dxhat - dxhat.mean(axis=-1, keepdims=True)  # a shift of x changes nothing
    dx -= xhat * (dxhat * xhat).mean(axis=-1, keepdims=True)  # nor does a stretch
    rows = tuple(range(x.ndim - 1))
    return dx * rstd, (dy * xhat).sum(axis=rows), dy.sum(axis=rows)


@op
def rmsnorm(x: Array, weight: Array, eps: float) -> tuple[Array, Array]:
    r"""Root-mean-square normalisation of the last axis (Zhang & Sennrich, 2019).

    .. math:: \hat x = x\,r, \qquad r = 1/\sqrt{\overline{x^2} + \epsilon}, \qquad y = w \hat x

    Parameters
    ----------
    x : (..., C)
    weight : (C,)
    eps : added to the mean square

    Returns
    -------
    y : (..., C)
    rrms : r, (..., 1), kept for the backward pass
    """
    xp = namespace(x)
    rrms = 1 / xp.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)
    return x * rrms * weight, rrms


@op
def rmsnorm_backward(dy: Array, x: Array, weight: Array, rrms: Array) -> tuple[Array, Array]:
    r"""Gradient of :func:`rmsnorm`.

    x reaches y directly and through its own size; no mean is taken, so only the stretch is removed:

    .. math:: dx = r\,\big(d\hat x - \hat x\;\overline{d\hat x\,\hat x}\big), \qquad d\hat x = w\,dy

    Returns
    -------
    dx : (..., C); dweight : (C,)
    """
    xhat = x * rrms
    dxhat = dy * weight
    dx = dxhat - xhat * (dxhat * xhat).mean(axis=-1, keepdims=True)  # a stretch of x changes nothing
    return dx * rrms, (dy * xhat).sum(axis=tuple(range(x.ndim - 1)))


def _check(layer: str, dim: int, eps: float) -> None:
    check_positive(layer, dim=dim)
    if not eps >= 0:
        raise ConfigError(f"{layer}: eps must be >= 0, got {eps!r}")


class LayerNorm(Layer):
    """Layer normalisation over the last axis (Ba et al., 2016), state_dict-compatible with torch.nn.LayerNorm."""

    def __init__(self, dim: int, eps: float = 1e-5):
        super().__init__()
        _check("LayerNorm", dim, eps)
        self.dim, self.eps = dim, float(eps)
        self.weight, self.bias = Parameter(ones(dim)), Parameter(zeros(dim))

    def forward(self, x: Array) -> Array:  # (..., dim)
        check_last_axis(self, x, self.dim)
        namespace(x, self.weight.data)
        y, mean, rstd = layernorm(x, self.weight.data, self.bias.data, self.eps)
        self.save(x, mean, rstd)
        return y

    def backward(self, dy: Array) -> Array:  # (..., dim)
        x, mean, rstd = self.saved()
        dx, dweight, dbias = layernorm_backward(dy, x, self.weight.data, mean, rstd)
        self.weight.accumulate(dweight)
        self.bias.accumulate(dbias)
        return dx

    def extra_repr(self) -> str:
        return f"{self.dim}, eps={self.eps}"


class RMSNorm(Layer):
    """Root-mean-square normalisation over the last axis, state_dict-compatible with torch.nn.RMSNorm.

    Its eps is a number here; torch's default, None, means the machine epsilon of the input's type.
    """

    def __init__(self, dim: int, eps: float = 1e-6):
        super().__init__()
        _check("RMSNorm", dim, eps)
        self.dim, self.eps = dim, float(eps)
        self.weight = Parameter(ones(dim))

    def forward(self, x: Array) -> Array:  # (..., dim)
        check_last_axis(self, x, self.dim)
        namespace(x, self.weight.data)
        y, rrms = rmsnorm(x, self.weight.data, self.eps)
        self.save(x, rrms)
        return y

    def backward(self, dy: Array) -> Array:  # (..., dim)
        x, rrms = self.saved()
        dx, dweight = rmsnorm_backward(dy, x, self.weight.data, rrms)
        self.weight.accumulate(dweight)
        return dx

    def extra_repr(self) -> str:
        return f"{self.dim}, eps={self.eps}"
