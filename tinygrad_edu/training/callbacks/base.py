"""The hooks of a training run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..trainer import Trainer


@dataclass(frozen=True)
class StepReport:
    """One step, as callbacks see it.

    Attributes
    ----------
    step : counted from 1
    loss : mean over the predicted tokens of its batches in nats, or what the loss says, before the update
    grad_norm : before clipping
    learning_rate : that was used
    tokens : in its batches; examples, of a model that reads no tokens
    seconds : that the step took
    """

    step: int
    loss: float
    grad_norm: float
    learning_rate: float
    tokens: int
    seconds: float


class Callback:
    """Base of callbacks; every hook does nothing until it is overridden.

    A callback with state that a resumed run needs gives it in :meth:`state_dict`, in types that JSON can
    hold, and has a :attr:`name` to find it again by.
    """

    name = ""

    def on_start(self, trainer: Trainer) -> None:
        """Before the first step of this process; a callback keeps `trainer` if it needs it later."""

    def on_gradients(self, step: int) -> None:
        """When the gradients of a step (counted from 1) are complete, before they are clipped."""

    def on_step(self, report: StepReport) -> None:
        """After every step that was applied."""

    def on_record(self, record: Mapping[str, Any]) -> None:
        """For every line of the history: ``record["event"]`` is train, evaluation, skipped, or what a callback
        gave to :meth:`Trainer.record`.
        """

    def on_save(self, path: Path, *, best: bool) -> None:
        """After a checkpoint was saved."""

    def on_end(self) -> None:
        """When training is over, for whatever reason: close what is open."""

    def state_dict(self) -> dict[str, Any]:
        """What goes into the checkpoint."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
