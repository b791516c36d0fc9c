"""The affine map."""

from __future__ import annotations

import math

from ..backend import Array, Generator, default_generator, gemm, namespace, op
from .base import Layer, Parameter, check_last_axis, check_positive


@op
def linear(x: Array, weight: Array, bias: Array | None) -> Array:
    r"""Affine map of the last axis.

    .. math:: y = x W^\top + b, \qquad y_{no} = \sum_i x_{ni} W_{oi} + b_o

    Parameters
    ----------
    x : (..., I)
    weight : (O, I)
    bias : (O,) or None

    Returns
    -------
    y : (..., O)
    """
    out_features, in_features = weight.shape
    y = gemm(x.reshape(-1, in_features), weight.T)  # (N, O)
    if bias is not None:
        y += bias
    return y.reshape(*x.shape[:-1], out_features)


@op
def linear_backward(
    dy: Array,
    x: Array,
    weight: Array,
    with_bias: bool,
    dweight: Array | None = None,
    dbias: Array | None = None,
) -> tuple[Array, Array, Array | None]:
    r"""Gradient of :func:`linear`.

    Every row of x meets the same W and b, so their gradients are sums over the rows:

    .. math:: dx = dy\,W, \qquad dW = dy^\top x, \qquad db = \sum_n dy_n

    Parameters
    ----------
    dy : (..., O); x : (..., I); weight : (O, I)
    with_bias : whether a bias was added
    dweight, dbias : where given, the gradients are added to what stands in these; a product that ends where it
        is wanted saves an array as large as the weights

    Returns
    -------
    dx : (..., I); dweight : (O, I); dbias : (O,) or None
    """
    out_features, in_features = weight.shape
    rows = dy.reshape(-1, out_features)  # (N, O)
    dx = gemm(rows, weight).reshape(x.shape)
    dweight = gemm(rows.T, x.reshape(-1, in_features), out=dweight, accumulate=dweight is not None)
    if not with_bias:
        return dx, dweight, None
    if dbias is None:
        return dx, dweight, rows.sum(axis=0)
    dbias += rows.sum(axis=0)
    return dx, dweight, dbias


class Linear(Layer):
    """Affine map of the last axis, state_dict-compatible with torch.nn.Linear.

    Parameters
    ----------
    in_features, out_features : lengths of the last axis before and after
    bias : whether a bias is added
    generator : draws the initial weights, uniform in ±1/sqrt(in_features) as torch does
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, generator: Generator | None = None):
        super().__init__()
        check_positive("Linear", in_features=in_features, out_features=out_features)
        generator = generator or default_generator()
        self.in_features, self.out_features = in_features, out_features
        bound = 1 / math.sqrt(in_features)
        self.weight = Parameter(generator.uniform(out_features, in_features, low=-bound, high=bound))
        self.bias = Parameter(generator.uniform(out_features, low=-bound, high=bound)) if bias else None

    def forward(self, x: Array) -> Array:  # (..., in_features) -> (..., out_features)
        check_last_axis(self, x, self.in_features)
        namespace(x, self.weight.data)
        self.save(x)
        return linear(x, self.weight.data, None if self.bias is None else self.bias.data)

    def backward(self, dy: Array) -> Array:
        x = self.saved()
        check_last_axis(self, dy, self.out_features)
        dbias = None if self.bias is None else self.bias.grad
        dx, *_ = linear_backward(dy, x, self.weight.data, self.bias is not None, self.weight.grad, dbias)
        return dx

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}" + ("" if self.bias is not None else ", bias=False")
