"""Adam, and AdamW with decoupled weight decay."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..backend import Array, namespace, op
from ..errors import ConfigError
from ..layers.base import Layer, Parameter
from .base import Optimizer, Run, _check_number


@op
def adam_update(
    data: Array,
    grad: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    grad_scale: float,
) -> None:
    r"""One step of Adam (Kingma & Ba, 2015) or AdamW (Loshchilov & Hutter, 2019), in place.

    .. math:: m \leftarrow \beta_1 m + (1 - \beta_1)\,g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2)\,g^2,

    .. math:: \theta \leftarrow \theta - \eta\,\frac{m/(1 - \beta_1^t)}{\sqrt{v/(1 - \beta_2^t)} + \epsilon}

    The averages start at zero and are too small at first; the divisions by :math:`1 - \beta^t` undo that.
    Weight decay is added to the gradient (Adam), where the division by the root of v weakens it for weights
    with large gradients, or taken from the weight itself (AdamW):
    :math:`\theta \leftarrow (1 - \eta\lambda)\theta`.

    Parameters
    ----------
    data, grad, exp_avg, exp_avg_sq : (N,); all but `grad` are changed
    step : t, counted from 1
    grad_scale : g is so many times `grad`, as clipping wants it
    """
    xp = namespace(data, grad, exp_avg, exp_avg_sq)
    if grad_scale != 1:
        grad = grad * grad_scale
    if decoupled:
        data *= 1 - lr * weight_decay
    elif weight_decay:
        grad = grad + weight_decay * data
    exp_avg *= beta1
    exp_avg += (1 - beta1) * grad
    exp_avg_sq *= beta2
    exp_avg_sq += (1 - beta2) * grad * grad
    root = xp.sqrt(exp_avg_sq * (1 / (1 - beta2**step)))
    data -= (lr / (1 - beta1**step)) * exp_avg / (root + eps)


class Adam(Optimizer):
    """Adam; the same steps as torch.optim.Adam.

    Parameters
    ----------
    parameters : a layer, or pairs of name and parameter
    lr : learning rate
    betas : how slowly the averages of the gradient and of its square change, each in [0, 1)
    eps : keeps the division finite
    weight_decay : added to the gradient as its multiple of the weight, for parameters that decay
    """

    _decoupled = False

    def __init__(
        self,
        parameters: Layer | Iterable[tuple[str, Parameter]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        super().__init__(parameters, lr, betas=betas, eps=eps, weight_decay=weight_decay)
        self.hyperparameters["betas"] = [float(beta) for beta in betas]  # plain data, as JSON gives it back

    def _check(self, settings: dict[str, Any]) -> None:
        super()._check(settings)
        name, betas = type(self).__name__, settings["betas"]
        if not isinstance(betas, list | tuple) or len(betas) != 2:
            raise ConfigError(f"{name}: betas must be two numbers, got {betas!r}")
        _check_number(name, "betas[0]", betas[0], 0, 1)
        _check_number(name, "betas[1]", betas[1], 0, 1)
        _check_number(name, "eps", settings["eps"], 0)
        _check_number(name, "weight_decay", settings["weight_decay"], 0)

    def _state_names(self, _settings: dict[str, Any]) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq")

    def _apply(self, run: Run, grad_scale: float) -> None:
        h = self.hyperparameters
        (beta1, beta2), decay = h["betas"], h["weight_decay"] if run.decay else 0.0
        adam_update(
            run.data,
            run.grad,
            run.state["exp_avg"],
            run.state["exp_avg_sq"],
            run.steps,
            self.lr,
            beta1,
            beta2,
            h["eps"],
            decay,
            self._decoupled,
            grad_scale,
        )


class AdamW(Adam):
    """Adam with decoupled weight decay, on matrices only: biases and norms do not decay.

    The same steps as torch.optim.AdamW with two parameter groups.
    """

    _decoupled = True

    def __init__(
        self,
        parameters: Layer | Iterable[tuple[str, Parameter]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ):
        super().__init__(parameters, lr, betas, eps, weight_decay)
