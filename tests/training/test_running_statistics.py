"""Models with running statistics in training: resumed exactly, averaged, kept at their best, never broken by NaN."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.test_trainer import StopAt, same_bits
from tinygrad_edu.backend import Generator
from tinygrad_edu.errors import CheckpointError, NonFiniteError
from tinygrad_edu.layers import (
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Layer,
    Linear,
    ReLU,
    Sequential,
    checkpoint_backward,
    checkpoint_forward,
)
from tinygrad_edu.losses import CrossEntropyLoss
from tinygrad_edu.storage import load_checkpoint
from tinygrad_edu.training import Callback, RecordHistory, Trainer, TrainingSection, train_model, trained_weights

RNG = np.random.default_rng(0)
BATCHES = [(RNG.normal(size=(6, 2, 5, 4)).astype("float32") + 2, RNG.integers(0, 3, 6)) for _ in range(5)]


class Flatten(Layer):
    def forward(self, x: Any) -> Any:
        self.save(x.shape)
        return x.reshape(len(x), -1)

    def backward(self, dy: Any) -> Any:
        return dy.reshape(self.saved())


class Checkpointed(Layer):
    """Keeps what goes in alone, and runs forward again to go back."""

    def __init__(self, layer: Layer):
        super().__init__()
        self.layer = layer

    def forward(self, x: Any) -> Any:
        return checkpoint_forward(self.layer, x)

    def backward(self, dy: Any) -> Any:
        return checkpoint_backward(self.layer, dy)


def network(checkpointed: bool = False) -> Sequential:
    g = Generator(3)
    first = Sequential(Conv2d(2, 4, 3, generator=g), BatchNorm2d(4), ReLU(), Dropout(0.3, g))
    body = Checkpointed(first) if checkpointed else first
    return Sequential(
        body, Flatten(), Linear(24, 8, generator=g), BatchNorm1d(8, momentum=None), Linear(8, 3, generator=g)
    )


def trainer(
    model: Layer, folder: Path | None, *callbacks: Callback, batches: Any = BATCHES, **settings: Any
) -> Trainer:
    section = {"num_epochs": 3, "save_every": 4, "log_every": 2, "learning_rate": 1e-2, **settings}
    return Trainer(
        model,
        list(batches),
        TrainingSection(**section),
        loss=CrossEntropyLoss(),
        callbacks=[RecordHistory(), *callbacks],
        checkpoints=folder,
    )


def statistics(model: Layer) -> dict[str, np.ndarray]:
    return {name: np.array(buffer.data) for name, buffer in model.named_buffers()}


@pytest.mark.parametrize("checkpointed", [False, True], ids=["plain", "checkpointed"])
@pytest.mark.parametrize("settings", [{}, {"ema_decay": 0.9, "gradient_accumulation_steps": 2}], ids=["", "averaged"])
def test_resuming_equals_never_having_stopped(settings: Any, checkpointed: bool, tmp_path: Path) -> None:
    whole = trainer(network(checkpointed), tmp_path / "whole", **settings)
    end = whole.fit().step
    for stop in sorted({1, end // 2, end - 1}):
        folder = tmp_path / f"stop {stop}"
        assert trainer(network(checkpointed), folder, StopAt(stop), **settings).fit().interrupted
        again = trainer(network(checkpointed), folder, **settings)
        again.resume(load_checkpoint(folder))
        assert again.fit().step == end
        one, other = load_checkpoint(tmp_path / "whole"), load_checkpoint(folder)
        same_bits(one, other)
        for group, arrays in one.arrays.items():
            assert arrays.keys() == other.arrays[group].keys()
            for key, array in arrays.items():
                assert array.tobytes() == other.arrays[group][key].tobytes(), (group, key)
    saved = load_checkpoint(tmp_path / "whole").arrays["model"]
    tracked = [int(array) for name, array in saved.items() if name.endswith("num_batches_tracked")]
    assert tracked == [3 * len(BATCHES)] * 2  # each batch once an epoch, computed again or not


def test_statistics_that_are_forgotten_show(tmp_path: Path) -> None:
    """The control: a checkpoint without them does not fit, and with fresh ones the run would end elsewhere."""
    trainer(network(), tmp_path / "whole").fit()
    trainer(network(), tmp_path / "parts", StopAt(7)).fit()
    checkpoint = load_checkpoint(tmp_path / "parts")
    fresh = network()
    model: dict[str, Any] = dict(checkpoint.arrays["model"])
    checkpoint.arrays["model"] = {name: a for name, a in model.items() if not name.endswith("running_var")}
    with pytest.raises(CheckpointError, match=r"missing: 0\.1\.running_var \(4,\)\n  missing: 3\.running_var \(8,\)"):
        trainer(fresh, None).resume(checkpoint)
    checkpoint.arrays["model"] = model | statistics(network())
    again = trainer(fresh, tmp_path / "parts")
    again.resume(checkpoint)
    again.fit()
    one, other = (load_checkpoint(tmp_path / name).arrays["model"] for name in ("whole", "parts"))
    assert any((one[name] != other[name]).any() for name in statistics(fresh))


def test_averaged_weights_come_with_the_statistics(tmp_path: Path) -> None:
    run = trainer(network(), tmp_path, ema_decay=0.9)
    run.fit()
    weights = trained_weights(load_checkpoint(tmp_path))
    other = network()
    other.load_state_dict(dict(weights))
    assert all(np.array_equal(values, statistics(run.model)[name]) for name, values in statistics(other).items())
    assert not np.array_equal(other[2].weight.data, run.model[2].weight.data)  # type: ignore[index]
    with run.averaged():
        wanted = run.model.eval()(BATCHES[0][0])
    assert np.array_equal(other.eval()(BATCHES[0][0]), wanted)


def test_the_best_weights_come_with_their_statistics() -> None:
    model = network()
    history = train_model(
        model, BATCHES[:4], BATCHES[4:], epochs=6, learning_rate=0.3, loss=CrossEntropyLoss(), restore_best=True
    )
    assert history is not None
    counts = {int(values) for name, values in statistics(model).items() if name.endswith("tracked")}
    assert len(counts) == 1 and counts.pop() % 4 == 0


class Poison(Callback):
    """NaN in the pictures of some steps."""

    def __init__(self, *steps: int):
        self.steps = steps

    def batches(self) -> list[Any]:
        return [(x * np.float32("nan") if n + 1 in self.steps else x, y) for n, (x, y) in enumerate(BATCHES)]


def test_a_step_that_is_left_out_leaves_the_statistics() -> None:
    poison = Poison(3)
    model = network()
    run = trainer(model, None, batches=poison.batches(), num_epochs=1, max_skipped_steps=1)
    assert run.fit().step == 5 and run.state.skipped == 1
    found = statistics(model)
    assert all(np.isfinite(values).all() for values in found.values())
    assert int(found["3.num_batches_tracked"]) == 4


def test_nan_that_is_in_the_statistics_is_found_there() -> None:
    model = network()
    model[3].running_mean.data[2] = np.nan
    with pytest.raises(NonFiniteError, match=r"buffer '3\.running_mean' holds NaN or infinity"):
        trainer(model, None, batches=Poison(1, 2, 3, 4, 5).batches()).fit()
