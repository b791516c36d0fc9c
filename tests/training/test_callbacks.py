"""Early stopping, the time limit, monitors, TensorBoard, the best weights."""

from __future__ import annotations

import builtins
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tests.training.test_trainer import StopAt
from tinygrad_edu.errors import ConfigError
from tinygrad_edu.layers import Linear, Sequential
from tinygrad_edu.losses import MeanSquaredError
from tinygrad_edu.storage import load_checkpoint
from tinygrad_edu.training import (
    BestWeights,
    Callback,
    EarlyStopping,
    GradientStatistics,
    JsonlHistory,
    LearningRateMonitor,
    RecordHistory,
    TensorBoard,
    Trainer,
    TrainingSection,
    read_history,
)
from tinygrad_edu.training.callbacks.monitors import gradient_figures, group_name

RNG = np.random.default_rng(0)
BATCHES = [(RNG.normal(size=(5, 4)), RNG.normal(size=(5, 3))) for _ in range(8)]


def net() -> Sequential:
    generator = tg.backend.Generator(0)
    return Sequential(Linear(4, 6, generator=generator), Linear(6, 3, generator=generator)).astype("float64")


def trainer(*callbacks: Callback, evaluations: Any = None, folder: Path | None = None, **settings: Any) -> Trainer:
    """A run of 24 steps; `evaluations` are the losses that evaluations find, one after the other."""
    losses = iter(evaluations or ())
    given = {"num_epochs": 3, "eval_every": 2, "save_every": None, "log_every": 4, "warmup_steps": 0, **settings}
    return Trainer(
        net(),
        BATCHES,
        TrainingSection(**given),
        loss=MeanSquaredError(),
        evaluate=None if evaluations is None else lambda stop: {"loss": next(losses)},
        callbacks=[RecordHistory(), *callbacks],
        checkpoints=folder,
    )


def records(run: Trainer, event: str) -> list[dict[str, Any]]:
    history = run.callbacks[0].history  # type: ignore[attr-defined]
    return [record for record in history if record["event"] == event]


# -- early stopping --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "patience", "min_delta", "step", "best"),
    [
        ([5, 4, 3, 3.5, 3.2, 9], 2, 0.0, 10, 3),
        ([5, 4, 3, 3.5, 2.9, 3, 3, 3, 3], 2, 0.0, 14, 2.9),
        ([5, 4.95, 4.92, 4.0, 3, 2], 2, 0.1, 6, 5),  # small steps do not count
        ([5, 4.8, 4.75, 4.6, 4.59, 4.58], 2, 0.1, 12, 4.6),  # but together they do
        ([5, math.nan, math.nan], 2, 0.0, 6, 5),
        ([3, 3, 3], 2, 0.0, 6, 3),  # the same is not better
        ([5, 6], 1, 0.0, 4, 5),
    ],
)
def test_early_stopping(losses: list[float], patience: int, min_delta: float, step: int, best: float) -> None:
    stopping = EarlyStopping(patience, min_delta)
    run = trainer(stopping, evaluations=losses)
    result = run.fit()
    assert (result.step, result.interrupted, stopping.best) == (step, False, best)
    waited = "evaluation" if patience == 1 else f"{patience} evaluations"
    assert result.reason == f"the last {waited} brought no loss better than {best:.4f}"
    assert records(run, "train")[-1]["step"] == step  # steps after the last full window stand in the history too


def test_a_run_that_gets_better_is_not_stopped() -> None:
    result = trainer(EarlyStopping(1), evaluations=range(100, 0, -1)).fit()
    assert (result.step, result.reason) == (24, "")


def test_settings_ask_for_early_stopping() -> None:
    run = trainer(evaluations=[3, 4, 5, 6], early_stopping_patience=3)
    assert run.fit().step == 8
    given = EarlyStopping(1)
    run = trainer(given, evaluations=[3, 4, 5, 6], early_stopping_patience=3)  # one that was given counts
    assert run.callbacks[-1] is given and run.fit().step == 4
    with pytest.raises(ConfigError, match="early_stopping_patience: 3 evaluations are waited for, but there is no val"):
        trainer(early_stopping_patience=3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "patience must be an integer >= 1, got 0"),
        ((1.5,), "patience must be an integer >= 1, got 1.5"),
        ((True,), "patience must be an integer >= 1, got True"),
        ((1, -1.0), "min_delta must be a finite number >= 0, got -1.0"),
        ((1, math.nan), "min_delta must be a finite number >= 0, got nan"),
    ],
)
def test_early_stopping_that_makes_no_sense(arguments: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EarlyStopping(*arguments)


# -- the time limit --------------------------------------------------------------------------------


def test_the_time_limit(tmp_path: Path) -> None:
    class Slow(Callback):
        def on_step(self, report: Any) -> None:
            run.state.seconds += 10

    run = trainer(Slow(), evaluations=range(99, 0, -1), folder=tmp_path, eval_every=20, max_seconds=45)
    result = run.fit()
    assert result.step == 5 and not result.interrupted and result.reason.endswith("of max_seconds 45")
    assert [record["step"] for record in records(run, "evaluation")] == [5]  # what there is is measured
    assert load_checkpoint(tmp_path).step == 5
    again = trainer(evaluations=[1.0], folder=tmp_path, eval_every=20, max_seconds=45)
    again.resume(load_checkpoint(tmp_path))
    assert again.fit().step == 5


# -- monitors --------------------------------------------------------------------------------------


def test_the_learning_rate_of_each_step() -> None:
    run = trainer(LearningRateMonitor(every=3), schedule="cosine")
    run.fit()
    found = [(record["step"], record["learning_rate"]) for record in records(run, "learning_rate")]
    assert found == [(step, run.schedule(step - 1)) for step in range(3, 25, 3)]


def test_statistics_of_gradients_before_they_are_clipped() -> None:
    seen: list[Mapping[str, Any]] = []

    class Look(Callback):
        def on_gradients(self, step: int) -> None:
            seen.append({name: parameter.grad.copy() for name, parameter in run.model.named_parameters()})

    run = trainer(Look(), GradientStatistics(every=4), clip_norm=1e-3)
    run.fit()
    found = records(run, "gradients")
    assert [record["step"] for record in found] == [4, 8, 12, 16, 20, 24]
    for record in found:
        for group in ("0", "1"):
            gradients = [seen[record["step"] - 1][f"{group}.{name}"] for name in ("weight", "bias")]
            flat = np.concatenate([gradient.ravel() for gradient in gradients])
            assert record["groups"][group]["norm"] == pytest.approx(np.linalg.norm(flat))
            assert record["groups"][group]["mean_abs"] == pytest.approx(abs(flat).mean())
            assert record["groups"][group]["max_abs"] == pytest.approx(abs(flat).max())
    norms = [record["groups"] for record in found]
    joint = math.sqrt(sum(figures["norm"] ** 2 for figures in norms[0].values()))
    assert joint > 1e-3  # it is larger than what clipping left


@pytest.mark.parametrize(
    ("name", "depth", "group"),
    [
        ("model.blocks.0.linear1.weight", 2, "model.blocks.0"),
        ("model.blocks.0.linear1.weight", 3, "model.blocks.0.linear1"),
        ("model.blocks.0.linear1.weight", 9, "model.blocks.0.linear1"),
        ("model.blocks.0.linear1.weight", None, "model.blocks.0.linear1.weight"),
        ("model.norm.bias", 2, "model.norm"),
        ("embedding.weight", 2, "embedding"),
        ("0.1.weight", 1, "0.1"),
        ("weight", 1, "weight"),
    ],
)
def test_groups_of_parameters(name: str, depth: int | None, group: str) -> None:
    assert group_name(name, depth) == group


def test_gradients_that_are_not_finite_reach_the_history_as_null(tmp_path: Path) -> None:
    class Break(Callback):
        def on_step(self, report: Any) -> None:
            run.model[0].weight.data[0, 0] = np.nan if report.step == 2 else 0

    run = trainer(JsonlHistory(tmp_path / "h.jsonl"), GradientStatistics(every=1), Break(), max_skipped_steps=99)
    with np.errstate(invalid="ignore"):
        run.fit()
    groups = [record["groups"] for record in read_history(tmp_path / "h.jsonl") if record["event"] == "gradients"]
    assert groups[0]["0"]["norm"] > 0 and groups[2]["0"]["norm"] is None
    assert math.isnan(gradient_figures([np.array([1.0, np.nan])])["max_abs"])


@pytest.mark.parametrize("make", [LearningRateMonitor, GradientStatistics])
@pytest.mark.parametrize("every", [0, -1, 1.5, True])
def test_monitors_that_make_no_sense(make: Any, every: Any) -> None:
    with pytest.raises(ConfigError, match=f"{make.__name__}: every must be an integer >= 1"):
        make(every=every)
    with pytest.raises(ConfigError, match="depth must be an integer >= 1 or None, got 0"):
        GradientStatistics(depth=0)


# -- TensorBoard -----------------------------------------------------------------------------------


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What event files hold, read by their own format: length, checksum, message, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(folder.iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + size])
            at += size + 16
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_tensorboard_has_the_figures_of_the_history(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    run = trainer(
        LearningRateMonitor(8),
        GradientStatistics(12),
        evaluations=[3.0, 2.0, 2.5, *[2.0] * 9],
        folder=tmp_path / "checkpoints",
        tensorboard=True,
    )
    run.fit()
    found = scalars(tmp_path / "tensorboard")
    assert [step for step, _ in found["train/loss"]] == [4, 8, 12, 16, 20, 24]
    expected = [record["loss"] for record in records(run, "train")]
    assert [value for _, value in found["train/loss"]] == pytest.approx(expected, rel=1e-6)
    assert found["validation/loss"][:3] == [(2, 3.0), (4, 2.0), (6, 2.5)]
    assert {step for step, _ in found["gradients/0/norm"]} == {12, 24}
    assert {"train/learning_rate", "train/examples_per_second", "gradients/1/max_abs"} <= found.keys()
    assert (8, pytest.approx(run.schedule(7), rel=1e-6)) in found["train/learning_rate"]


def test_tensorboard_goes_on_after_resuming(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    options = {"folder": tmp_path / "checkpoints", "tensorboard": True}
    trainer(StopAt(10), **options).fit()
    again = trainer(**options)
    again.resume(load_checkpoint(tmp_path / "checkpoints"))
    again.fit()
    assert sorted(step for step, _ in scalars(tmp_path / "tensorboard")["train/loss"]) == [4, 8, 12, 16, 20, 24]


def test_without_tensorboardx_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = builtins.__import__

    def absent(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("tensorboardX"):
            raise ImportError(name)
        return genuine(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ConfigError, match=r"tensorboardX is not installed; run `pip install 'tinygrad_edu\[tensorbo"):
        TensorBoard(tmp_path)
    with pytest.raises(ConfigError, match="tensorboardX is not installed"):
        trainer(folder=tmp_path / "checkpoints", tensorboard=True)
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_wants_a_folder(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    with pytest.raises(ConfigError, match=r"tensorboard: there is no run folder .* callbacks=\[TensorBoard"):
        trainer(tensorboard=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="tensorboard: nothing can be written to .*file"):
        trainer(TensorBoard(tmp_path / "file")).fit()


# -- the best weights, and the state of callbacks --------------------------------------------------


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_the_best_weights(ema_decay: float | None) -> None:
    best, seen = BestWeights(), {}

    class Watch(Callback):
        def on_step(self, report: Any) -> None:
            with run.averaged():
                seen[report.step] = run.model.state_dict()["0.weight"].copy()

    run = trainer(best, Watch(), evaluations=[5, 4, 3, 6, 2, 9, *[8] * 9], ema_decay=ema_decay)
    run.fit()
    assert best.weights is not None
    np.testing.assert_allclose(best.weights["0.weight"], seen[10], rtol=1e-12)
    assert run.state.best_step == 10


def test_states_of_callbacks_are_plain_data() -> None:
    stopping = EarlyStopping(3)
    stopping.on_record({"event": "evaluation", "loss": 2.0})
    stopping.on_record({"event": "evaluation", "loss": 2.5})
    again = EarlyStopping(3)
    again.load_state_dict(json.loads(json.dumps(stopping.state_dict())))
    assert (again.best, again.waited) == (2.0, 1)
