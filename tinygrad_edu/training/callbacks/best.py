"""The best weights of a run, kept in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .base import Callback

if TYPE_CHECKING:
    from ..trainer import Trainer


class BestWeights(Callback):
    """Keeps a copy of the weights that had the lowest validation loss; of the averaged ones, if these are kept.

    A run with a folder has them in the checkpoint marked best; this is for one without.

    Attributes
    ----------
    weights : name to array, or None before the first evaluation
    """

    def __init__(self) -> None:
        self.weights: dict[str, Any] | None = None
        self._trainer: Trainer | None = None

    def on_start(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def on_record(self, record: Mapping[str, Any]) -> None:
        if record["event"] == "evaluation" and record["best"] and self._trainer is not None:
            with self._trainer.averaged():
                self.weights = {name: array.copy() for name, array in self._trainer.model.state_dict().items()}
