"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..backend import Array, op
from ..errors import ConfigError
from ..layers.base import Layer, Parameter
from .base import Optimizer, Run, _check_number


@op
def sgd_update(
    data: Array,
    grad: Array,
    velocity: Array | None,
    lr: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    grad_scale: float,
) -> None:
    r"""One step of SGD, in place, as torch.optim.SGD does it (Sutskever et al., 2013, for momentum).

    .. math:: g \leftarrow g + \lambda\theta, \qquad v \leftarrow \mu v + g, \qquad
              \theta \leftarrow \theta - \eta\,v \quad\text{(Nesterov: } \theta - \eta\,(g + \mu v)\text{)}

    Parameters
    ----------
    data, grad, velocity : (N,); `data` and `velocity` are changed, `velocity` is None without momentum
    grad_scale : g is so many times `grad`, as clipping wants it
    """
    if grad_scale != 1:
        grad = grad * grad_scale
    if weight_decay:
        grad = grad + weight_decay * data
    if velocity is None:
        data -= lr * grad
        return
    velocity *= momentum
    velocity += grad
    data -= lr * (grad + momentum * velocity if nesterov else velocity)


class SGD(Optimizer):
    """Stochastic gradient descent with momentum and Nesterov momentum; the same steps as torch.optim.SGD.

    Parameters
    ----------
    parameters : a layer, or pairs of name and parameter
    lr : learning rate
    momentum : in [0, 1)
    nesterov : look ahead; needs momentum
    weight_decay : added to the gradient as its multiple of the weight, for parameters that decay
    """

    def __init__(
        self,
        parameters: Layer | Iterable[tuple[str, Parameter]],
        lr: float = 1e-2,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ):
        super().__init__(parameters, lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)

    def _check(self, settings: dict[str, Any]) -> None:
        super()._check(settings)
        _check_number("SGD", "momentum", settings["momentum"], 0, 1)
        _check_number("SGD", "weight_decay", settings["weight_decay"], 0)
        if settings["nesterov"] and not settings["momentum"]:
            raise ConfigError("SGD: nesterov needs momentum > 0, got momentum 0")

    def _state_names(self, settings: dict[str, Any]) -> tuple[str, ...]:
        return ("momentum_buffer",) if settings["momentum"] else ()

    def _apply(self, run: Run, grad_scale: float) -> None:
        h = self.hyperparameters
        decay = h["weight_decay"] if run.decay else 0.0
        velocity = run.state.get("momentum_buffer")
        sgd_update(run.data, run.grad, velocity, self.lr, h["momentum"], h["nesterov"], decay, grad_scale)
