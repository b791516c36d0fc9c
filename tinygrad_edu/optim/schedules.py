"""Learning-rate schedules: functions of the step, counted from 0."""

from __future__ import annotations

import math
from collections.abc import Callable

from ..errors import ConfigError, did_you_mean

Schedule = Callable[[int], float]


def _check(name: str, lr: float, warmup_steps: int = 0, total_steps: int | None = None, min_lr: float = 0.0) -> None:
    if not 0 <= lr < math.inf:
        raise ConfigError(f"{name}: lr must be a finite number >= 0, got {lr!r}")
    if not 0 <= min_lr <= lr:
        raise ConfigError(f"{name}: min_lr must be in [0, lr = {lr!r}], got {min_lr!r}")
    if warmup_steps < 0:
        raise ConfigError(f"{name}: warmup_steps must be >= 0, got {warmup_steps!r}")
    if total_steps is not None and total_steps < max(1, warmup_steps):
        shorter = "; so short a run wants fewer warmup_steps" if total_steps >= 1 else ""
        raise ConfigError(
            f"{name}: total_steps must be >= 1 and >= warmup_steps {warmup_steps}, got {total_steps!r}{shorter}"
        )


def _warmup(step: int, warmup_steps: int) -> float:
    """Rises linearly to 1 at step `warmup_steps`; the first step is not zero, so that it is not wasted."""
    return min(1.0, (step + 1) / (warmup_steps + 1))


def constant(lr: float, warmup_steps: int = 0) -> Schedule:
    """`lr`, after a linear rise over `warmup_steps`."""
    _check("constant", lr, warmup_steps)
    return lambda step: lr * _warmup(step, warmup_steps)


def linear(lr: float, total_steps: int, warmup_steps: int = 0, min_lr: float = 0.0) -> Schedule:
    """A linear rise over `warmup_steps`, then a linear fall to `min_lr` at `total_steps`."""
    _check("linear", lr, warmup_steps, total_steps, min_lr)

    def at(step: int) -> float:
        if step < warmup_steps:
            return lr * _warmup(step, warmup_steps)
        done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        return lr + (min_lr - lr) * done

    return at


def cosine(lr: float, total_steps: int, warmup_steps: int = 0, min_lr: float = 0.0) -> Schedule:
    r"""A linear rise over `warmup_steps`, then half a cosine down to `min_lr` (Loshchilov & Hutter, 2017).

    .. math:: \eta_t = \eta_{min} + \tfrac12(\eta - \eta_{min})(1 + \cos \pi s), \qquad
              s = (t - t_{warm}) / (t_{total} - t_{warm})
    """
    _check("cosine", lr, warmup_steps, total_steps, min_lr)

    def at(step: int) -> float:
        if step < warmup_steps:
            return lr * _warmup(step, warmup_steps)
        done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        return min_lr + 0.5 * (lr - min_lr) * (1 + math.cos(math.pi * done))

    return at


def noam(d_model: int, warmup_steps: int = 4000, factor: float = 1.0) -> Schedule:
    r"""The schedule of Vaswani et al. (2017): linear rise, then the inverse square root of the step.

    .. math:: \eta_t = f\, d^{-1/2} \min\big((t+1)^{-1/2},\; (t+1)\, t_{warm}^{-3/2}\big)
    """
    if d_model < 1 or warmup_steps < 1 or not 0 <= factor < math.inf:
        raise ConfigError(
            "noam: d_model and warmup_steps must be >= 1 and factor finite and >= 0, "
            f"got d_model={d_model!r}, warmup_steps={warmup_steps!r}, factor={factor!r}"
        )
    return lambda step: factor * d_model**-0.5 * min((step + 1) ** -0.5, (step + 1) * warmup_steps**-1.5)


SCHEDULES = ("constant", "linear", "cosine", "noam")


def make_schedule(
    name: str,
    *,
    lr: float,
    total_steps: int,
    warmup_steps: int = 0,
    min_lr: float = 0.0,
    d_model: int | None = None,
) -> Schedule:
    """The schedule of that name. ``"noam"`` is scaled so that its peak, at `warmup_steps`, is `lr`.

    Raises
    ------
    ConfigError
        If there is no such schedule, or an argument is out of range.
    """
    if name == "constant":
        return constant(lr, warmup_steps)
    if name == "linear":
        return linear(lr, total_steps, warmup_steps, min_lr)
    if name == "cosine":
        return cosine(lr, total_steps, warmup_steps, min_lr)
    if name == "noam":
        width, warmup = d_model or 1, max(1, warmup_steps)
        return noam(width, warmup, factor=lr * (width * warmup) ** 0.5)
    raise ConfigError(f"schedule must be one of {', '.join(SCHEDULES)}, got {name!r}.{did_you_mean(name, SCHEDULES)}")
