"""What a training run remembers, and how it ended."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path


@dataclass
class TrainerState:
    """All that the loop itself remembers, apart from weights, averages, optimizer, generators and the loader.

    Attributes
    ----------
    step : steps done, skipped ones included
    tokens : seen in training; examples, of a model that reads no tokens
    seconds : spent in training steps, over all processes of a resumed run
    evaluated_at : step of the latest evaluation
    best_loss, best_step : of the lowest validation loss
    skipped, skipped_in_row : steps left out because of NaN or infinity
    window_* : sums since the latest line of the history
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    evaluated_at: int = 0
    best_loss: float = math.inf
    best_step: int = 0
    skipped: int = 0
    skipped_in_row: int = 0
    window_steps: int = 0
    window_loss: float = 0.0
    window_norm: float = 0.0
    window_tokens: int = 0
    window_seconds: float = 0.0


@dataclass(frozen=True)
class TrainingResult:
    """How a call of :meth:`Trainer.fit` ended.

    Attributes
    ----------
    step : steps done in all
    interrupted : whether a signal (or :meth:`Trainer.stop`) ended it early: it is to be gone on with
    checkpoint : the newest checkpoint, if any was saved
    reason : why training ended before its last step though it was not interrupted; empty if it did not
    """

    step: int
    interrupted: bool
    checkpoint: Path | None
    reason: str = ""
