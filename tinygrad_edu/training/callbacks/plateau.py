"""Lowering the learning rate when a run stops getting better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from ...optim.schedules import Schedule
from .base import Callback

if TYPE_CHECKING:
    from ..trainer import Trainer


class ReduceLROnPlateau(Callback):
    """Multiplies the learning rate by a factor when the validation loss has not improved for some evaluations.

    It acts on what the schedule gives, so it goes with any; a constant one is usual. Arguments mean what they mean in
    torch.optim.lr_scheduler.ReduceLROnPlateau, in its mode ``"min"`` with a relative threshold. Each time it puts a
    record ``{"event": "plateau"}`` into the history.

    Parameters
    ----------
    factor : in (0, 1), by which the rate is multiplied
    patience : evaluations without an improvement that are borne; the next one lowers the rate
    threshold : a loss counts as better only if it is lower than the best by more than this share of it
    cooldown : evaluations after a lowering in which none is counted
    min_lr : the rate is never lowered below this

    Attributes
    ----------
    scale : what the schedule's rate is multiplied by at the moment
    best : the lowest loss that counted as better
    waited : evaluations since then
    cooling : evaluations of the cooldown that are left

    Raises
    ------
    ConfigError
        For a number out of range.
    """

    name = "reduce_lr_on_plateau"

    def __init__(
        self,
        factor: float = 0.1,
        patience: int = 10,
        *,
        threshold: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
    ):
        if not _is_number(factor) or not 0 < factor < 1:
            raise ConfigError(f"ReduceLROnPlateau: factor must be a number in (0, 1), got {factor!r}")
        for name, count in (("patience", patience), ("cooldown", cooldown)):
            if isinstance(count, bool) or not isinstance(count, int) or count < 0:
                raise ConfigError(f"ReduceLROnPlateau: {name} must be an integer >= 0, got {count!r}")
        for name, value in (("threshold", threshold), ("min_lr", min_lr)):
            if not _is_number(value) or not 0 <= value < math.inf:
                raise ConfigError(f"ReduceLROnPlateau: {name} must be a finite number >= 0, got {value!r}")
        self.factor, self.patience, self.threshold = float(factor), patience, float(threshold)
        self.cooldown, self.min_lr = cooldown, float(min_lr)
        self.scale, self.best, self.waited, self.cooling = 1.0, math.inf, 0, 0
        self._trainer: Trainer | None = None
        self._schedule: Schedule | None = None  # what it put in the place of the trainer's

    def on_start(self, trainer: Trainer) -> None:
        self._trainer = trainer
        if trainer.schedule is self._schedule:  # it was put there when training began, which now goes on
            return
        given = trainer.schedule

        def lowered(step: int) -> float:
            rate = given(step)
            return min(rate, max(self.min_lr, rate * self.scale))

        trainer.schedule = self._schedule = lowered

    def on_record(self, record: Mapping[str, Any]) -> None:
        if record["event"] != "evaluation" or self._trainer is None:
            return
        if record["loss"] < self.best * (1 - self.threshold):
            self.best, self.waited = float(record["loss"]), 0
        else:  # NaN is no improvement either
            self.waited += 1
        if self.cooling > 0:
            self.cooling, self.waited = self.cooling - 1, 0
        if self.waited > self.patience:
            self.scale *= self.factor
            self.waited, self.cooling = 0, self.cooldown
            rate = self._trainer.schedule(self._trainer.state.step)
            self._trainer.record({"event": "plateau", "step": record["step"], "learning_rate": rate})

    def state_dict(self) -> dict[str, Any]:
        return {"scale": self.scale, "best": self.best, "waited": self.waited, "cooling": self.cooling}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.scale, self.best = float(state["scale"]), float(state["best"])
        self.waited, self.cooling = int(state["waited"]), int(state["cooling"])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
