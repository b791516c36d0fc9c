"""Functions of one number, applied to each; and softmax.

Every op returns ``y`` alone; what its backward needs is x or y, whichever makes the derivative simpler.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

from ..backend import Array, erf, namespace, op
from ..errors import ConfigError
from .base import Layer

_SQRT_2 = math.sqrt(2)
_SQRT_2PI = math.sqrt(2 * math.pi)
_SQRT_2_OVER_PI = math.sqrt(2 / math.pi)
_CUBIC = 0.044715  # fitted by Hendrycks & Gimpel, so that the tanh form follows the exact one


@op
def relu(x: Array) -> Array:
    r"""Rectifier, :math:`y = \max(x, 0)` (Nair & Hinton, 2010)."""
    return namespace(x).maximum(x, 0)


@op
def relu_backward(dy: Array, y: Array) -> Array:
    r"""Gradient of :func:`relu`: :math:`dx = dy\,[y > 0]`; at the kink itself 0, as torch has it.

    y is positive where x is, and the next layer keeps it anyway.
    """
    return dy * (y > 0)


@op
def gelu(x: Array) -> Array:
    r"""Gaussian error linear unit (Hendrycks & Gimpel, 2016).

    .. math:: y = x\,\Phi(x), \qquad \Phi(x) = \tfrac12\big(1 + \mathrm{erf}(x/\sqrt2)\big)

    x times the probability that a standard normal number is below x.
    """
    return 0.5 * x * (1 + erf(x / _SQRT_2))


@op
def gelu_backward(dy: Array, x: Array) -> Array:
    r"""Gradient of :func:`gelu`.

    .. math:: dx = dy\,\big(\Phi(x) + x\,\varphi(x)\big), \qquad \varphi(x) = e^{-x^2/2} / \sqrt{2\pi}
    """
    xp = namespace(dy, x)
    cdf = 0.5 * (1 + erf(x / _SQRT_2))
    pdf = xp.exp(-0.5 * x * x) / _SQRT_2PI
    return dy * (cdf + x * pdf)


@op
def gelu_tanh(x: Array) -> Array:
    r"""The tanh form of GELU, used by GPT-2 (Hendrycks & Gimpel, 2016).

    .. math:: y = \tfrac12 x\,(1 + \tanh u), \qquad u = \sqrt{2/\pi}\,(x + 0.044715\,x^3)
    """
    xp = namespace(x)
    return 0.5 * x * (1 + xp.tanh(_SQRT_2_OVER_PI * (x + _CUBIC * x * x * x)))


@op
def gelu_tanh_backward(dy: Array, x: Array) -> Array:
    r"""Gradient of :func:`gelu_tanh`.

    x is a factor of y and stands inside u; with :math:`t = \tanh u` and :math:`dt = (1 - t^2)\,du`

    .. math:: dx = dy\,\big(\tfrac12(1 + t) + \tfrac12 x\,(1 - t^2)\,u'\big), \quad
              u' = \sqrt{2/\pi}\,(1 + 3 \cdot 0.044715\,x^2)
    """
    xp = namespace(dy, x)
    t = xp.tanh(_SQRT_2_OVER_PI * (x + _CUBIC * x * x * x))
    slope = _SQRT_2_OVER_PI * (1 + 3 * _CUBIC * x * x)
    return dy * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * slope)


@op
def sigmoid(x: Array) -> Array:
    r"""Logistic function, :math:`y = 1/(1 + e^{-x})`.

    Written with :math:`e^{-|x|}`, which never overflows; for x < 0 the same fraction times :math:`e^x/e^x`.
    """
    xp = namespace(x)
    small = xp.exp(-abs(x))
    return xp.where(x >= 0, 1 / (1 + small), small / (1 + small))


@op
def sigmoid_backward(dy: Array, y: Array) -> Array:
    r"""Gradient of :func:`sigmoid`: :math:`dx = dy\,y\,(1 - y)`."""
    return dy * y * (1 - y)


@op
def silu(x: Array) -> Array:
    r"""Sigmoid linear unit, or swish, :math:`y = x\,\sigma(x)` (Elfwing et al., 2018)."""
    return x * sigmoid(x)


@op
def silu_backward(dy: Array, x: Array) -> Array:
    r"""Gradient of :func:`silu`: :math:`dx = dy\,\sigma\,\big(1 + x\,(1 - \sigma)\big)`."""
    s = sigmoid(x)
    return dy * s * (1 + x * (1 - s))


@op
def tanh(x: Array) -> Array:
    r"""Hyperbolic tangent."""
    return namespace(x).tanh(x)


@op
def tanh_backward(dy: Array, y: Array) -> Array:
    r"""Gradient of :func:`tanh`: :math:`dx = dy\,(1 - y^2)`."""
    return dy * (1 - y * y)


@op
def softmax(x: Array, axis: int) -> Array:
    r"""Softmax, :math:`y_i = e^{x_i} / \sum_j e^{x_j}`.

    A shift of x changes nothing, so the largest x is taken off first and no exponential overflows.
    """
    xp = namespace(x)
    y = xp.exp(x - x.max(axis=axis, keepdims=True))
    return y / y.sum(axis=axis, keepdims=True)


@op
def softmax_backward(dy: Array, y: Array, axis: int) -> Array:
    r"""Gradient of :func:`softmax`.

    Each y depends on every x, :math:`\partial y_j/\partial x_i = y_j([i = j] - y_i)`, hence

    .. math:: dx_i = y_i\,\big(dy_i - \textstyle\sum_j dy_j\,y_j\big)
    """
    return y * (dy - (dy * y).sum(axis=axis, keepdims=True))


class Activation(Layer):
    """A function of one number, applied to each.

    Attributes
    ----------
    saves_input : whether forward keeps x for the backward pass, and not y
    """

    saves_input: ClassVar[bool] = True


class ReLU(Activation):
    """``max(x, 0)``."""

    saves_input = False

    def forward(self, x: Array) -> Array:
        y = relu(x)
        self.save(y)
        return y

    def backward(self, dy: Array) -> Array:
        return relu_backward(dy, self.saved())


class GELU(Activation):
    """Gaussian error linear unit.

    Parameters
    ----------
    approximate : ``"none"`` for the exact form with erf, ``"tanh"`` for GPT-2's; torch's names
    """

    def __init__(self, approximate: str = "none"):
        super().__init__()
        if approximate not in ("none", "tanh"):
            raise ConfigError(f"GELU: approximate must be 'none' or 'tanh', got {approximate!r}")
        self.approximate = approximate

    def forward(self, x: Array) -> Array:
        self.save(x)
        return gelu(x) if self.approximate == "none" else gelu_tanh(x)

    def backward(self, dy: Array) -> Array:
        x = self.saved()
        return gelu_backward(dy, x) if self.approximate == "none" else gelu_tanh_backward(dy, x)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class SiLU(Activation):
    """``x * sigmoid(x)``."""

    def forward(self, x: Array) -> Array:
        self.save(x)
        return silu(x)

    def backward(self, dy: Array) -> Array:
        return silu_backward(dy, self.saved())


class Tanh(Activation):
    """Hyperbolic tangent."""

    saves_input = False

    def forward(self, x: Array) -> Array:
        y = tanh(x)
        self.save(y)
        return y

    def backward(self, dy: Array) -> Array:
        return tanh_backward(dy, self.saved())


class Sigmoid(Activation):
    """Logistic function."""

    saves_input = False

    def forward(self, x: Array) -> Array:
        y = sigmoid(x)
        self.save(y)
        return y

    def backward(self, dy: Array) -> Array:
        return sigmoid_backward(dy, self.saved())


class Softmax(Layer):
    """Softmax over one axis, torch's ``dim``."""

    def __init__(self, dim: int = -1):
        super().__init__()
        self.dim = dim

    def forward(self, x: Array) -> Array:
        if not -x.ndim <= self.dim < x.ndim:
            raise ConfigError(f"Softmax: dim {self.dim} is out of range for an array with {x.ndim} axes")
        y = softmax(x, self.dim)
        self.save(y)
        return y

    def backward(self, dy: Array) -> Array:
        return softmax_backward(dy, self.saved(), self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


ACTIVATIONS: dict[str, Callable[[], Activation]] = {
    "relu": ReLU,
    "gelu": GELU,
    "gelu_tanh": lambda: GELU(approximate="tanh"),
    "silu": SiLU,
    "tanh": Tanh,
    "sigmoid": Sigmoid,
}


def make_activation(name: str) -> Activation:
    """The activation layer of that name.

    Raises
    ------
    ConfigError
        If there is none, listing those there are.
    """
    if name not in ACTIVATIONS:
        raise ConfigError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {name!r}")
    return ACTIVATIONS[name]()
