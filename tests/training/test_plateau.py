"""ReduceLROnPlateau: against torch on the same losses, through checkpoints, and what it refuses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tinygrad_edu.errors import ConfigError
from tinygrad_edu.layers import Linear
from tinygrad_edu.losses import MeanSquaredError
from tinygrad_edu.storage import load_checkpoint
from tinygrad_edu.training import RecordHistory, ReduceLROnPlateau, Trainer, TrainingSection

LOSSES = [1.0, 0.9, 0.89999, 0.91, 0.95, 0.5, 0.6, 0.6, 0.6, 0.6, 0.4, float("nan"), 0.5, 0.5, 0.5, 0.5, 0.41, 0.3, 1.0]


def trainer_of(callbacks: Any, checkpoints: Path | None = None, schedule: str = "constant", steps: int = 19) -> Trainer:
    """One that evaluates after each step, and finds the losses above."""
    batches = [(np.ones((2, 3), np.float32), np.ones((2, 1), np.float32))]
    settings = TrainingSection(
        max_steps=steps, learning_rate=0.1, schedule=schedule, warmup_steps=0, eval_every=1, save_every=1, log_every=1,
        optimizer="sgd", keep_checkpoints=50,
    )  # fmt: skip
    model, trainer = Linear(3, 1), None

    def evaluate(stop: Any) -> dict[str, float]:
        assert trainer is not None
        return {"loss": LOSSES[trainer.state.step - 1]}

    trainer = Trainer(
        model,
        batches,
        settings,
        loss=MeanSquaredError(),
        evaluate=evaluate,
        callbacks=callbacks,
        checkpoints=checkpoints,
    )
    return trainer


def rates_of(records: list[dict[str, Any]]) -> list[float]:
    return [record["learning_rate"] for record in records if record["event"] == "train"]


@pytest.mark.parametrize(
    "settings",
    [
        {"factor": 0.5, "patience": 1},
        {"factor": 0.1, "patience": 0},
        {"factor": 0.5, "patience": 2, "cooldown": 2},
        {"factor": 0.2, "patience": 0, "min_lr": 0.003},
        {"factor": 0.5, "patience": 1, "threshold": 0.2},
    ],
)
def test_the_same_rates_as_torch(settings: dict[str, Any]) -> None:
    history = RecordHistory()
    trainer_of([history, ReduceLROnPlateau(**settings)]).fit()
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **settings, eps=0)
    wanted = []
    for loss in LOSSES:
        wanted.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step(loss)
    np.testing.assert_allclose(rates_of(history.history.records), wanted, rtol=1e-12)
    assert min(wanted) < 0.1  # the losses do lower it
    lowered = history.history["plateau"]
    assert lowered["learning_rate"][0] == pytest.approx(max(0.1 * settings["factor"], settings.get("min_lr", 0)))


def test_it_goes_with_a_schedule_that_falls() -> None:
    plain, lowered = RecordHistory(), RecordHistory()
    trainer_of([plain], schedule="cosine").fit()
    trainer_of([lowered, ReduceLROnPlateau(0.5, 1)], schedule="cosine").fit()
    ratios = np.array(rates_of(lowered.history.records)) / rates_of(plain.history.records)
    powers = np.log2(ratios)  # halved again and again, whatever the schedule says
    np.testing.assert_allclose(powers, powers.round(), atol=1e-9)
    assert powers[0] == 0 and powers[-1] <= -3 and (np.diff(powers) <= 1e-9).all()


def test_a_resumed_run_goes_on_with_the_lowered_rate(tmp_path: Path) -> None:
    whole = RecordHistory()
    trainer_of([whole, ReduceLROnPlateau(0.5, 1, cooldown=1)]).fit()
    trainer_of([RecordHistory(), ReduceLROnPlateau(0.5, 1, cooldown=1)], tmp_path, steps=9).fit()
    history, plateau = RecordHistory(), ReduceLROnPlateau(0.5, 1, cooldown=1)
    resumed = trainer_of([history, plateau], tmp_path)
    resumed.resume(load_checkpoint(tmp_path))
    assert plateau.scale < 1
    resumed.fit()
    assert rates_of(history.history.records) == rates_of(whole.history.records)


def test_fitting_again_lowers_it_once() -> None:
    plateau = ReduceLROnPlateau(0.5, 1)
    trainer = trainer_of([plateau], steps=9)
    trainer.fit()
    lowered = trainer.schedule(9)
    trainer.fit()
    assert trainer.schedule(9) == lowered == 0.1 * plateau.scale
    trainer.set_length(trainer.settings)  # lays the schedule out anew
    trainer.fit()
    assert trainer.schedule(9) == lowered


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"factor": 1.0}, r"factor must be a number in \(0, 1\), got 1.0"),
        ({"factor": True}, "factor must be a number"),
        ({"factor": math.nan}, "factor must be a number"),
        ({"patience": -1}, "patience must be an integer >= 0, got -1"),
        ({"cooldown": 1.5}, "cooldown must be an integer >= 0, got 1.5"),
        ({"threshold": -0.1}, "threshold must be a finite number >= 0, got -0.1"),
        ({"min_lr": math.inf}, "min_lr must be a finite number >= 0, got inf"),
    ],
)
def test_what_it_refuses(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ReduceLROnPlateau(**settings)
