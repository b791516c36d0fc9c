"""Looking at learning rate and gradients while a model trains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...backend import namespace, to_host
from ...errors import ConfigError
from .base import Callback, StepReport

if TYPE_CHECKING:
    from ..trainer import Trainer


def _check_every(name: str, every: int) -> int:
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ConfigError(f"{name}: every must be an integer >= 1, got {every!r}")
    return every


class LearningRateMonitor(Callback):
    """Puts the learning rate into the history, ``{"event": "learning_rate"}``, finer than the training records.

    Parameters
    ----------
    every : steps between records
    """

    def __init__(self, every: int = 1):
        self.every = _check_every("LearningRateMonitor", every)
        self._trainer: Trainer | None = None

    def on_start(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def on_step(self, report: StepReport) -> None:
        if report.step % self.every == 0 and self._trainer is not None:
            record = {"event": "learning_rate", "step": report.step, "learning_rate": report.learning_rate}
            self._trainer.record(record)


class GradientStatistics(Callback):
    """Puts figures of the gradients into the history, ``{"event": "gradients"}``, as they are before clipping.

    The record's ``groups`` has for each group of parameters the ``norm``, and ``mean_abs`` and ``max_abs`` of
    the elements. Gradients that vanish in the lower layers, or one layer whose gradient dwarfs all others, are
    seen here long before the loss tells.

    Parameters
    ----------
    every : steps between records; in between it costs nothing
    depth : parameters whose dotted names agree in so many leading parts make a group; a list index stands
        with the name before it. None for a group a parameter

    Examples
    --------
    With ``depth=2``, ``model.blocks.0.linear1.weight`` and ``model.blocks.0.norm1.bias`` are both in
    ``model.blocks.0``.
    """

    def __init__(self, every: int = 100, depth: int | None = 2):
        self.every = _check_every("GradientStatistics", every)
        if depth is not None and (isinstance(depth, bool) or not isinstance(depth, int) or depth < 1):
            raise ConfigError(f"GradientStatistics: depth must be an integer >= 1 or None, got {depth!r}")
        self.depth = depth
        self._trainer: Trainer | None = None

    def on_start(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def on_gradients(self, step: int) -> None:
        if step % self.every or self._trainer is None:
            return
        groups: dict[str, list[Any]] = {}
        for name, parameter in self._trainer.model.named_parameters():
            groups.setdefault(group_name(name, self.depth), []).append(parameter.grad)
        figures = {name: gradient_figures(gradients) for name, gradients in groups.items()}
        self._trainer.record({"event": "gradients", "step": step, "groups": figures})


def group_name(name: str, depth: int | None) -> str:
    """The group of a parameter: the first `depth` parts of its name, indices not counted, the last left out."""
    parts = name.split(".")
    if depth is None or len(parts) == 1:
        return name
    taken, counted = [], 0
    for part in parts[:-1]:
        if not part.isdigit():
            if counted == depth:
                break
            counted += 1
        taken.append(part)
    return ".".join(taken)


def gradient_figures(gradients: list[Any]) -> Mapping[str, float]:
    """Norm, mean absolute value and largest absolute value of all elements of some arrays."""
    xp = namespace(gradients[0])
    sums = []
    for gradient in gradients:
        size = abs(gradient)
        sums.append(xp.stack([xp.square(size).sum(), size.sum(), size.max()]))
    rows = to_host(xp.stack(sums)).astype("float64")  # one transfer, whatever the number of arrays
    return {
        "norm": math.sqrt(float(rows[:, 0].sum())),
        "mean_abs": float(rows[:, 1].sum()) / sum(gradient.size for gradient in gradients),
        "max_abs": float(rows[:, 2].max()),
    }
