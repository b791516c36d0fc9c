"""Ending a run when it stops getting better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from .base import Callback

if TYPE_CHECKING:
    from ..trainer import Trainer


class EarlyStopping(Callback):
    """Ends training when the validation loss has not improved for some evaluations (Prechelt, 1998).

    Parameters
    ----------
    patience : evaluations without an improvement after which training ends
    min_delta : a loss counts as better only if it is lower than the best by more than this

    Attributes
    ----------
    best : the lowest loss that counted as better
    waited : evaluations since then

    Raises
    ------
    ConfigError
        For a patience below 1 or a negative min_delta.
    """

    name = "early_stopping"

    def __init__(self, patience: int, min_delta: float = 0.0):
        if isinstance(patience, bool) or not isinstance(patience, int) or patience < 1:
            raise ConfigError(f"EarlyStopping: patience must be an integer >= 1, got {patience!r}")
        if isinstance(min_delta, bool) or not isinstance(min_delta, int | float) or not 0 <= min_delta < math.inf:
            raise ConfigError(f"EarlyStopping: min_delta must be a finite number >= 0, got {min_delta!r}")
        self.patience, self.min_delta = patience, float(min_delta)
        self.best, self.waited = math.inf, 0
        self._trainer: Trainer | None = None

    def on_start(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._end_if_over()  # a run that it ended before, and that is resumed

    def on_record(self, record: Mapping[str, Any]) -> None:
        if record["event"] != "evaluation":
            return
        if record["loss"] < self.best - self.min_delta:
            self.best, self.waited = float(record["loss"]), 0
        else:  # NaN is no improvement either
            self.waited += 1
        self._end_if_over()

    def _end_if_over(self) -> None:
        if self.waited >= self.patience and self._trainer is not None:
            evaluations = "evaluation" if self.waited == 1 else f"{self.waited} evaluations"
            self._trainer.finish(f"the last {evaluations} brought no loss better than {self.best:.4f}")

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best, self.waited = float(state["best"]), int(state["waited"])
