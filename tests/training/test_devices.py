"""Whole runs on the other device, beside the CPU: all that the trainer does between two steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.test_trainer import StopAt
from tinygrad_edu import use
from tinygrad_edu.backend import Generator, device_of
from tinygrad_edu.data import StreamLoader, TokenLoader
from tinygrad_edu.layers import GELU, Linear, Sequential
from tinygrad_edu.losses import CrossEntropyLoss, MeanSquaredError
from tinygrad_edu.models import create_model
from tinygrad_edu.storage import load_checkpoint
from tinygrad_edu.training import (
    GradientStatistics,
    RecordHistory,
    Trainer,
    TrainingSection,
    evaluate_language_model,
    train_model,
)

IDS = np.random.default_rng(0).integers(0, 17, 300)
MODELS = {
    "gpt2": {"architecture": "gpt2", "n_layer": 1, "n_head": 2, "n_embd": 8, "n_positions": 16},
    "lstm": {"architecture": "lstm", "hidden_size": 6, "carry_state": True, "dropout": 0.2},
}
SETTINGS = TrainingSection(
    max_steps=6, gradient_accumulation_steps=2, ema_decay=0.9, eval_every=3, save_every=None, log_every=2
)
each_model = pytest.mark.parametrize("name", MODELS)
each_loss = pytest.mark.parametrize("loss", [CrossEntropyLoss, MeanSquaredError])


def make(name: str, device: str, folder: Path, *callbacks: Any) -> Trainer:
    model = create_model({**MODELS[name], "vocab_size": 17, "dtype": "float64", "device": device})
    loader: Any = StreamLoader(IDS, 3, 12) if name == "lstm" else TokenLoader(IDS, 3, 12, seed=0)
    return Trainer(
        model,
        loader,
        SETTINGS,
        evaluate=lambda stop: evaluate_language_model(model, IDS[:100], seq_len=12, stop=stop),
        callbacks=[RecordHistory(), GradientStatistics(2), *callbacks],
        checkpoints=folder,
    )


def run(name: str, device: str, folder: Path) -> list[dict[str, Any]]:
    """The history of a run that is stopped in the middle and gone on with."""
    with use(device):
        make(name, device, folder, StopAt(4)).fit()
        trainer = make(name, device, folder)
        trainer.resume(load_checkpoint(folder))
        trainer.fit()
        assert all(device_of(parameter.data) == device for parameter in trainer.model.parameters())
    return trainer.callbacks[0].history.records  # type: ignore[attr-defined]


def figures(records: list[Any]) -> list[tuple[str, float]]:
    """All numbers of records, those of records within too, but for times."""
    found = []
    for record in records:
        for name, value in record.items():
            if isinstance(value, dict):
                found += figures([value])
            elif isinstance(value, int | float) and "second" not in name:
                found.append((name, float(value)))
    return found


def compare(name: str, tmp_path: Path) -> None:
    here, there = (figures(run(name, device, tmp_path / device)) for device in ("cpu", "cuda"))
    assert [name for name, _ in here] == [name for name, _ in there] and len(here) > 40
    np.testing.assert_allclose([value for _, value in here], [value for _, value in there], rtol=1e-8)


@each_model
def test_a_run_on_a_strict_stand_in_for_cupy(name: str, tmp_path: Path, strict_cuda: Any) -> None:
    compare(name, tmp_path)


@pytest.mark.gpu
@each_model
def test_a_run_on_cuda(name: str, tmp_path: Path) -> None:
    compare(name, tmp_path)


def fit(device: str, loss: Any) -> list[tuple[str, float]]:
    """A small network on batches of the host."""
    generator, rng = Generator(0), np.random.default_rng(0)
    net = Sequential(Linear(4, 6, generator=generator), GELU(), Linear(6, 3, generator=generator))
    net.astype("float64").to(device)
    x = rng.normal(size=(30, 4))
    y = rng.integers(0, 3, 30) if loss is CrossEntropyLoss else rng.normal(size=(30, 3))
    batches = [(x[at : at + 10], y[at : at + 10]) for at in range(0, 30, 10)]
    return figures(
        train_model(
            net, batches, batches, epochs=3, loss=loss(), ema_decay=0.5, restore_best=True, progress=False
        ).records
    )


@each_loss
def test_a_layer_on_a_strict_stand_in_for_cupy(loss: Any, strict_cuda: Any) -> None:
    np.testing.assert_allclose([v for _, v in fit("cuda", loss)], [v for _, v in fit("cpu", loss)], rtol=1e-8)


@pytest.mark.gpu
@each_loss
def test_a_layer_on_cuda(loss: Any) -> None:
    np.testing.assert_allclose([v for _, v in fit("cuda", loss)], [v for _, v in fit("cpu", loss)], rtol=1e-8)
