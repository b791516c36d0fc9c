"""The training loop: what it does in order, how it stops, and that resuming is exact."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinygrad_edu.data import TokenLoader
from tinygrad_edu.errors import CheckpointError, ConfigError, DataError, NonFiniteError
from tinygrad_edu.metrics import LanguageScore
from tinygrad_edu.models import CustomTransformerConfig, CustomTransformerWrapper
from tinygrad_edu.storage import Checkpoint, list_checkpoints, load_checkpoint
from tinygrad_edu.training.callbacks import Callback, StepReport
from tinygrad_edu.training.config import make_config
from tinygrad_edu.training.diagnosis import locate_nonfinite
from tinygrad_edu.training.evaluation import EvaluationStopped, evaluate_language_model
from tinygrad_edu.training.fingerprint import environment_fingerprint, fingerprint_differences
from tinygrad_edu.training.history import JsonlHistory, read_history
from tinygrad_edu.training.resume import ResumeWarning
from tinygrad_edu.training.signals import StopSignals
from tinygrad_edu.training.trainable import Batch
from tinygrad_edu.training.trainer import Trainer

IDS = np.random.default_rng(0).integers(0, 50, 2000) // np.arange(1, 2001).clip(max=3)
SMALL = ["model.d_model=16", "model.n_blocks=2", "model.n_heads=2", "model.d_ffn=32", "model.max_seq_len=16"]
SMALL += ["model.dropout=0.2", "data.max_length=16", "training.batch_size=4", "training.max_steps=12"]
SMALL += ["training.log_every=3", "training.save_every=null", "training.eval_every=null"]


class StopAt(Callback):
    """Stops training after a step, as Ctrl-C would."""

    def __init__(self, step: int):
        self.step = step

    def on_start(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def on_step(self, report: StepReport) -> None:
        if report.step == self.step:
            self.trainer.stop()


def make(folder: Path, *overrides: str, callbacks: Any = (), ids: Any = IDS, evaluate: Any = "own") -> Trainer:
    last = {override.partition("=")[0]: override for override in [*SMALL, *overrides]}
    config = make_config({}, last.values())
    m, t = config.model, config.training
    model = CustomTransformerWrapper(
        CustomTransformerConfig(
            50, m.max_seq_len, m.n_blocks, m.n_heads, m.d_model, m.d_ffn or 32, m.dropout, seed=t.seed
        )
    )
    loader = TokenLoader(ids, t.batch_size, config.data.max_length, seed=t.seed)
    if evaluate == "own":

        def evaluate(stop: Any) -> LanguageScore:
            return evaluate_language_model(model, IDS[:200], seq_len=16, stop=stop)

    folder.mkdir(exist_ok=True)
    return Trainer(
        model,
        loader,
        t,
        evaluate=evaluate,
        callbacks=[JsonlHistory(folder / "history.jsonl"), *callbacks],
        checkpoints=folder / "checkpoints",
        documents={"config": config.model_dump(mode="json")},
    )


def resumed(folder: Path, *overrides: str, accept: bool = False, **options: Any) -> Trainer:
    trainer = make(folder, *overrides, **options)
    trainer.resume(load_checkpoint(folder / "checkpoints"), accept_changes=accept)
    return trainer


def timeless(folder: Path) -> list[dict[str, Any]]:
    """The history without what no two runs have in common."""
    return [
        {key: value for key, value in record.items() if "second" not in key}
        for record in read_history(folder / "history.jsonl")
    ]


def same_bits(one: Checkpoint, other: Checkpoint) -> None:
    assert one.step == other.step
    for group in ("model", "optimizer"):
        assert one.arrays[group].keys() == other.arrays[group].keys()
        for name, array in one.arrays[group].items():
            assert array.tobytes() == other.arrays[group][name].tobytes(), name
    for part in ("loader", "generators", "optimizer"):
        assert one.documents["trainer"][part] == other.documents["trainer"][part]
    first, second = one.documents["trainer"]["state"], other.documents["trainer"]["state"]
    for key in first:
        assert first[key] == second[key] or "seconds" in key, key


# -- the loop --------------------------------------------------------------------------------------


def test_a_run_in_order(tmp_path: Path) -> None:
    seen: list[Any] = []

    class Watch(Callback):
        def on_start(self, trainer: Trainer) -> None:
            seen.append("start")

        def on_step(self, report: StepReport) -> None:
            assert report.seconds > 0 and report.tokens == 64 and math.isfinite(report.loss + report.grad_norm)
            seen.append(report.step)

        def on_record(self, record: Mapping[str, Any]) -> None:
            seen.append(f"{record['event']} {record['step']}")

        def on_save(self, path: Path, *, best: bool) -> None:
            seen.append(f"{path.name} {best}")

        def on_end(self) -> None:
            seen.append("end")

    overrides = (
        "training.max_steps=6",
        "training.eval_every=4",
        "training.save_every=5",
        "training.learning_rate=1e-2",
    )
    result = make(tmp_path, *overrides, callbacks=[Watch()]).fit()
    assert " | ".join(map(str, seen)) == (
        "start | 1 | 2 | 3 | train 3 | 4 | evaluation 4 | 0001-step-4 True | 5 | 0002-step-5 False | "
        "6 | train 6 | evaluation 6 | 0003-step-6 True | end"  # this short run's best is its last
    )
    assert (result.step, result.interrupted, result.checkpoint) == (
        6,
        False,
        tmp_path / "checkpoints/0003-step-6",
    )
    records = read_history(tmp_path / "history.jsonl")
    assert [r["event"] for r in records] == ["train", "evaluation", "train", "evaluation"]
    assert records[0].keys() == {
        *(
            "event",
            "step",
            "epoch",
            "loss",
            "grad_norm",
            "learning_rate",
            "tokens",
            "tokens_per_second",
            "seconds",
        )
    }
    assert records[2]["tokens"] == 6 * 64 and records[2]["loss"] < records[0]["loss"]


def test_training_learns(tmp_path: Path) -> None:
    make(tmp_path, "training.max_steps=60", "training.learning_rate=1e-2", "model.dropout=0.0").fit()
    losses = [record["loss"] for record in read_history(tmp_path / "history.jsonl")]
    assert losses[-1] < 0.85 * losses[0]


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        (["training.max_steps=null"], 31),  # one epoch: 124 windows in batches of 4
        (["training.max_steps=null", "training.num_epochs=3"], 93),
        (["training.max_steps=40", "training.num_epochs=3"], 40),
        (["training.max_steps=40", "training.num_epochs=1"], 31),
    ],
)
def test_how_long(tmp_path: Path, overrides: list[str], steps: int) -> None:
    trainer = make(tmp_path, *overrides)
    assert len(trainer.loader) == 31 and trainer.total_steps == steps


@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "noam"])
def test_every_optimizer_and_schedule(tmp_path: Path, kind: str, schedule: str) -> None:
    overrides = (f"training.optimizer={kind}", f"training.schedule={schedule}", "training.warmup_steps=2")
    trainer = make(tmp_path, *overrides, "training.max_steps=4", "training.clip_norm=null")
    rates = []

    class Watch(Callback):
        def on_step(self, report: StepReport) -> None:
            rates.append(report.learning_rate)

    trainer.callbacks = (Watch(),)
    trainer.fit()
    assert rates == [trainer.schedule(step) for step in range(4)]
    assert type(trainer.optimizer).__name__.lower() == kind


def test_a_warmup_longer_than_the_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="total_steps must be >= 1 and >= warmup_steps 50, got 31"):
        make(tmp_path, "training.max_steps=null", "training.warmup_steps=50")


def test_without_folders_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trainer = make(tmp_path / "x", "training.max_steps=2", "training.eval_every=1", evaluate=None)
    trainer.checkpoints, trainer.callbacks = None, ()
    assert trainer.fit().checkpoint is None
    assert [path.name for path in tmp_path.rglob("*")] == ["x"]


def test_only_the_best_and_the_last_are_kept(tmp_path: Path) -> None:
    losses = iter([5.0, 3.0, 4.0, 4.5, 6.0, 3.5])

    def evaluate(stop: Any) -> LanguageScore:
        return LanguageScore(total_nll=next(losses), n_tokens=1, n_bytes=1)

    overrides = ("training.eval_every=2", "training.save_every=1", "training.keep_checkpoints=2")
    make(tmp_path, *overrides, evaluate=evaluate).fit()
    steps = [int(path.name.rpartition("-")[2]) for path in list_checkpoints(tmp_path / "checkpoints")]
    assert steps == [12, 11, 4]
    best = load_checkpoint(tmp_path / "checkpoints", which="best")
    assert best.step == 4 and best.documents["trainer"]["state"]["best_loss"] == 3.0


# -- stopping --------------------------------------------------------------------------------------


def test_stop_saves_and_returns(tmp_path: Path) -> None:
    result = make(tmp_path, callbacks=[StopAt(5)]).fit()
    assert result.interrupted and result.step == 5
    assert load_checkpoint(tmp_path / "checkpoints").step == 5


def test_stop_in_the_last_evaluation(tmp_path: Path) -> None:
    trainer = make(tmp_path, "training.eval_every=12")
    genuine = trainer.evaluate
    assert genuine is not None

    def evaluate(stop: Any) -> LanguageScore:
        trainer.stop()
        return genuine(stop)

    trainer.evaluate = evaluate
    result = trainer.fit()
    assert result.interrupted and result.step == 12
    assert not any(r["event"] == "evaluation" for r in read_history(tmp_path / "history.jsonl"))
    assert not resumed(tmp_path, "training.eval_every=12").fit().interrupted
    assert read_history(tmp_path / "history.jsonl")[-1]["event"] == "evaluation"


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_and_a_second_one_quits(tmp_path: Path, number: int, capfd: Any) -> None:
    class Send(Callback):
        def __init__(self, times: int):
            self.times = times

        def on_step(self, report: StepReport) -> None:
            if report.step == 3:
                for _ in range(self.times):
                    os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    result = make(tmp_path / "a", callbacks=[Send(1)]).fit()
    assert result.interrupted and load_checkpoint(tmp_path / "a" / "checkpoints").step == 3
    assert "Stopping after this step" in capfd.readouterr().err
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "b", callbacks=[Send(2)]).fit()
    assert not (tmp_path / "b" / "checkpoints").exists()
    assert signal.getsignal(number) is before


def test_signals_are_left_alone_outside_the_main_thread() -> None:
    def run() -> None:
        with StopSignals() as signals:
            assert not signals.requested and not signals._before

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


def test_files_are_closed_whatever_happens(tmp_path: Path) -> None:
    class Broken(Callback):
        def on_step(self, report: StepReport) -> None:
            raise RuntimeError("broken callback")

    trainer = make(tmp_path, callbacks=[Broken()])
    with pytest.raises(RuntimeError, match="broken callback"):
        trainer.fit()
    assert trainer.callbacks[0]._file is None  # type: ignore[attr-defined]


# -- resuming --------------------------------------------------------------------------------------

ACROSS = ("training.max_steps=40", "training.eval_every=7", "training.save_every=11")  # into the second epoch


@pytest.mark.parametrize("stop", [1, 7, 17, 31, 33])
def test_resuming_equals_never_having_stopped(tmp_path: Path, stop: int) -> None:
    make(tmp_path / "whole", *ACROSS).fit()
    make(tmp_path / "parts", *ACROSS, callbacks=[StopAt(stop)]).fit()
    again = resumed(tmp_path / "parts", *ACROSS)
    assert again.state.step == stop
    again.fit()
    whole, parts = (load_checkpoint(tmp_path / name / "checkpoints") for name in ("whole", "parts"))
    same_bits(whole, parts)
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "parts")


PROCESS = """
import sys
from pathlib import Path
import tinygrad_edu
from tests.training.test_trainer import ACROSS, StopAt, make, resumed
folder, stop = Path(sys.argv[1]), int(sys.argv[2])
begun = (folder / "checkpoints").exists()
trainer = resumed(folder, *ACROSS) if begun else make(folder, *ACROSS, callbacks=[StopAt(stop)])
print(trainer.fit().step)
"""


def test_resuming_in_a_new_process_is_exact(tmp_path: Path) -> None:
    def run(folder: str, stop: int) -> str:
        command = [sys.executable, "-W", "error", "-c", PROCESS, str(tmp_path / folder), str(stop)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()[-1]

    assert run("whole", 99) == "40"
    assert run("parts", 18) == "18"
    assert run("parts", 99) == "40"
    same_bits(
        load_checkpoint(tmp_path / "whole" / "checkpoints"),
        load_checkpoint(tmp_path / "parts" / "checkpoints"),
    )
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "parts")


def test_dropout_is_on_in_these_runs(tmp_path: Path) -> None:
    """The control: were it off, the tests above would say nothing of the generators."""
    trainer = make(tmp_path)
    ids, labels = next(iter(trainer.loader))
    trainer.model.train()
    assert trainer.model.forward_backward(ids, labels) != trainer.model.forward_backward(ids, labels)


def test_an_interrupted_evaluation_is_made_up_for(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole", *ACROSS)
    whole.fit()
    parts = make(tmp_path / "parts", *ACROSS)
    genuine = parts.evaluate

    def interrupted(stop: Any) -> LanguageScore:
        if parts.state.step == 14:
            parts.stop()
        assert genuine is not None
        return genuine(stop)

    parts.evaluate = interrupted
    assert parts.fit().step == 14
    assert [r["step"] for r in timeless(tmp_path / "parts") if r["event"] == "evaluation"] == [7]
    resumed(tmp_path / "parts", *ACROSS).fit()
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "parts")


def test_going_on_from_an_older_checkpoint(tmp_path: Path) -> None:
    make(tmp_path / "whole", *ACROSS, "training.keep_checkpoints=9").fit()
    folder = tmp_path / "whole"
    expected, final = timeless(folder), load_checkpoint(folder / "checkpoints")
    oldest = list_checkpoints(folder / "checkpoints")[-1]
    assert oldest.name == "0001-step-7"
    trainer = make(folder, *ACROSS, "training.keep_checkpoints=9")
    trainer.resume(load_checkpoint(oldest))
    trainer.fit()
    same_bits(load_checkpoint(folder / "checkpoints"), final)
    assert timeless(folder) == expected


def test_a_finished_run_resumes_to_nothing(tmp_path: Path) -> None:
    make(tmp_path).fit()
    before = (tmp_path / "history.jsonl").read_bytes()
    result = resumed(tmp_path).fit()
    assert result.step == 12 and not result.interrupted
    assert (tmp_path / "history.jsonl").read_bytes() == before
    assert len(list_checkpoints(tmp_path / "checkpoints")) == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.seed=1", r"was saved under other settings:\n  training.seed: 0 before, 1 now\n"),
        ("training.learning_rate=1e-2", r"training.learning_rate: 0.001 before, 0.01 now"),
        ("training.max_steps=99", r"training.max_steps: 12 before, 99 now"),
        (
            "model.dropout=0.0",
            r"model.dropout: 0.2 before, 0.0 now\n.*accept the changes \(--accept-changes\)",
        ),
    ],
)
def test_other_settings_are_refused(tmp_path: Path, override: str, message: str) -> None:
    make(tmp_path, callbacks=[StopAt(2)]).fit()
    with pytest.raises(CheckpointError, match=message):
        resumed(tmp_path, override)
    if "seed" not in override:  # another seed is another loader: see the next test
        with pytest.warns(ResumeWarning, match="settings have changed: "):
            trainer = resumed(tmp_path, override, accept=True)
        assert trainer.state.step == 2
        trainer.fit()


def test_neutral_settings_may_change(tmp_path: Path) -> None:
    make(tmp_path, "training.schedule=constant", callbacks=[StopAt(2)]).fit()
    changed = (
        "training.log_every=1",
        "training.save_every=2",
        "training.output_dir=x",
        "training.max_steps=14",
    )
    assert resumed(tmp_path, "training.schedule=constant", *changed).fit().step == 14


def test_hyperparameters_that_were_accepted_as_changed_count(tmp_path: Path) -> None:
    make(tmp_path, callbacks=[StopAt(2)]).fit()
    with pytest.warns(ResumeWarning):
        trainer = resumed(tmp_path, "training.weight_decay=0.5", accept=True)
    assert trainer.optimizer.hyperparameters["weight_decay"] == 0.5


def test_other_data_is_refused(tmp_path: Path) -> None:
    make(tmp_path, callbacks=[StopAt(2)]).fit()
    with pytest.raises(CheckpointError, match=r"other data or settings: data_sha256(.|\n)*read from its beginning"):
        resumed(tmp_path, ids=IDS[::-1].copy())
    with pytest.warns(ResumeWarning, match="the data is another and is read from its beginning"):
        trainer = resumed(tmp_path, ids=IDS[::-1].copy(), accept=True)
    assert (trainer.state.step, trainer.loader.position) == (2, 0)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.d_model=32", r"misshapen: model.token_embedding.weight expected \(50, 32\), got \(50, 16\)"),
        ("model.n_blocks=3", r"missing: model.blocks.2"),
        ("training.optimizer=sgd", r"state of the optimizer AdamW, wanted SGD"),
    ],
)
def test_a_checkpoint_of_another_model_or_optimizer(tmp_path: Path, override: str, message: str) -> None:
    make(tmp_path, callbacks=[StopAt(2)]).fit()
    with pytest.raises(CheckpointError, match=message), pytest.warns(ResumeWarning):
        resumed(tmp_path, override, accept=True)


def damaged(folder: Path, change: Any) -> Checkpoint:
    checkpoint = load_checkpoint(folder / "checkpoints")
    change(checkpoint)
    return checkpoint


def as_double(checkpoint: Checkpoint) -> None:
    weights = checkpoint.arrays["model"]
    weights["model.norm.bias"] = weights["model.norm.bias"].astype(np.float64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.documents.pop("trainer"), "holds no state of a trainer"),
        (lambda c: c.documents["trainer"].pop("loader"), "holds no state of a trainer"),
        (lambda c: c.documents["trainer"]["state"].pop("step"), "trainer state: fields"),
        (
            lambda c: c.documents["trainer"]["state"].update(step="3"),
            "trainer state: step is '3', wanted int",
        ),
        (lambda c: c.documents["trainer"]["generators"].clear(), "0 random generators, wanted 1"),
        (
            lambda c: c.documents["trainer"]["generators"].__setitem__(0, {}),
            "not the state of a random generator",
        ),
        (lambda c: c.documents["trainer"]["optimizer"].pop("steps"), "trainer.json does not fit: KeyError"),
        (lambda c: c.documents["trainer"]["loader"].pop("epoch"), "loader state: fields"),
        (
            lambda c: c.documents["trainer"]["callbacks"].update(history=3),
            "trainer.json does not fit: TypeError",
        ),
        (lambda c: c.arrays["model"].pop("model.norm.bias"), r"missing: model.norm.bias \(16,\)"),
        (lambda c: c.arrays["model"].update(extra=np.zeros(1)), "unexpected: extra"),
        (lambda c: c.arrays["optimizer"].clear(), "missing: model.token_embedding.weight.exp_avg"),
        (as_double, "weights of another dtype:\n  model.norm.bias: float64, wanted float32"),
    ],
)
def test_a_state_that_does_not_fit(tmp_path: Path, change: Any, message: str) -> None:
    make(tmp_path, callbacks=[StopAt(2)]).fit()
    with pytest.raises(CheckpointError, match=message):
        make(tmp_path).resume(damaged(tmp_path, change))


def test_another_machine_is_warned_of(tmp_path: Path) -> None:
    make(tmp_path, callbacks=[StopAt(2)]).fit()

    def other(checkpoint: Checkpoint) -> None:
        checkpoint.documents["trainer"]["fingerprint"]["numpy"] = "1.0"

    with pytest.warns(ResumeWarning, match=r"the machine or its software is another: numpy: 1.0 before, \d"):
        make(tmp_path).resume(damaged(tmp_path, other))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(tmp_path).resume(load_checkpoint(tmp_path / "checkpoints"))


def test_the_fingerprint_names_what_the_last_bits_depend_on() -> None:
    found = environment_fingerprint()
    assert {"tinygrad_edu", "python", "numpy", "machine", "kernels", "blas", "blas threads"} <= found.keys()
    assert json.loads(json.dumps(found)) == found
    assert fingerprint_differences({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}) == [
        "b: 2 before, 3 now",
        "c: none before, 4 now",
    ]


# -- NaN and infinity ------------------------------------------------------------------------------


class Poison(Callback):
    """Makes one weight NaN before some steps, and mends it after them."""

    def __init__(self, steps: set[int], name: str = "model.blocks.1.linear1.weight"):
        self.steps, self.name = steps, name

    def on_start(self, trainer: Trainer) -> None:
        weight = dict(trainer.model.named_parameters())[self.name].data
        genuine = trainer.model.forward_backward

        def poisoned(ids: Any, labels: Any) -> float:
            kept = weight.copy()
            if trainer.state.step + 1 in self.steps:
                weight[0, 0] = np.nan
            try:
                with np.errstate(invalid="ignore"):
                    return genuine(ids, labels)
            finally:
                weight[...] = kept

        trainer.model.__dict__["forward_backward"] = poisoned


def test_a_step_that_is_not_finite_stops_training(tmp_path: Path) -> None:
    trainer = make(tmp_path, callbacks=[Poison({3})])
    weights: dict[int, Any] = {}

    class Keep(Callback):
        def on_step(self, report: StepReport) -> None:
            weights[report.step] = trainer.model.state_dict()["model.norm.bias"].copy()

    trainer.callbacks += (Keep(),)
    with pytest.raises(NonFiniteError, match=r"step 3: loss nan, gradient norm nan: first, going backward, in the "):
        trainer.fit()
    assert (trainer.model.state_dict()["model.norm.bias"] == weights[2]).all()


def test_skipping_when_asked(tmp_path: Path) -> None:
    trainer = make(tmp_path, "training.max_skipped_steps=2", callbacks=[Poison({3, 4, 7})])
    assert trainer.fit().step == 12
    assert (trainer.state.skipped, trainer.state.skipped_in_row) == (3, 0)
    skipped = [r for r in read_history(tmp_path / "history.jsonl") if r["event"] == "skipped"]
    assert [(r["step"], r["loss"]) for r in skipped] == [(3, None), (4, None), (7, None)]
    assert all(np.isfinite(array).all() for array in trainer.model.state_dict().values())


def test_skipping_has_a_limit(tmp_path: Path) -> None:
    trainer = make(tmp_path, "training.max_skipped_steps=2", "training.save_every=1", callbacks=[Poison({3, 4, 5})])
    message = r"step 5, after 2 skipped in a row: loss nan.*newest checkpoint: .*0004-step-4.*max_skipped_steps"
    with pytest.raises(NonFiniteError, match=message):
        trainer.fit()


@pytest.mark.parametrize("name", ["model.blocks.1.linear1.weight", "model.norm.bias"])
def test_where_nan_comes_from(tmp_path: Path, name: str) -> None:
    trainer = make(tmp_path)
    ids, labels = next(iter(trainer.loader))
    where = lambda: locate_nonfinite(trainer.model, trainer.model, [Batch((ids, labels))])  # noqa: E731
    assert where() == "in the loss alone"
    parameter = dict(trainer.model.named_parameters())[name]
    parameter.grad.reshape(-1)[0] = np.inf
    assert where() == f"first, going backward, in the gradient of {name!r}"
    parameter.data.reshape(-1)[0] = np.nan
    assert where() == f"parameter {name!r} holds NaN or infinity"


def test_the_layer_whose_output_overflows_is_named(tmp_path: Path) -> None:
    trainer = make(tmp_path)
    ids, labels = next(iter(trainer.loader))
    parameters = dict(trainer.model.named_parameters())
    parameters["model.blocks.1.linear2.weight"].data[...] = 3e38
    parameters["model.blocks.1.linear1.bias"].data[...] = 1e4
    with np.errstate(all="ignore"):
        found = locate_nonfinite(trainer.model, trainer.model, [Batch((ids, labels))])
    assert found == "first in the output of layer 'model.blocks.1.linear2'"
    assert all("forward" not in layer.__dict__ for layer in trainer.model.layers())


# -- evaluation and history ------------------------------------------------------------------------


def test_evaluation_scores_every_token_once(tmp_path: Path) -> None:
    model = make(tmp_path).model
    token_bytes = np.arange(50)
    score = evaluate_language_model(model, IDS[:333], seq_len=16, batch_size=3, token_bytes=token_bytes)
    assert score.n_tokens == 332 and score.n_bytes == IDS[1:333].sum()
    by_hand = 0.0
    windows = [*range(0, 333 - 16, 8), 333 - 16]
    for window, start in enumerate(windows):
        losses, _ = model.token_losses(IDS[None, start : start + 16])
        fresh = windows[window - 1] + 16 - start if window else 1
        by_hand += float(losses[0, fresh - 1 :].sum(dtype=np.float64))
    assert score.total_nll == pytest.approx(by_hand, rel=1e-5)
    assert score.bits_per_byte == pytest.approx(by_hand / math.log(2) / score.n_bytes, rel=1e-5)
    assert model.training and not any(layer._saved for layer in model.layers())


def test_some_batches_are_spread_over_the_text(tmp_path: Path) -> None:
    model = make(tmp_path).model
    seen: list[Any] = []
    genuine = model.token_losses
    model.__dict__["token_losses"] = lambda ids, labels: seen.append(ids) or genuine(ids, labels)
    numbered = np.arange(2000) % 50
    score = evaluate_language_model(model, numbered, seq_len=16, batch_size=4, stride=8, max_batches=5)
    assert len(seen) == 5 and all(ids.shape == (4, 16) for ids in seen)
    assert score.n_tokens == 5 * (16 - 1 + 3 * 8)
    assert (seen[0][0] == numbered[:16]).all() and (seen[-1][-1] == numbered[-16:]).all()


def test_evaluation_errors(tmp_path: Path) -> None:
    model = make(tmp_path).model
    with pytest.raises(ConfigError, match="seq_len: 32, wanted at most the model's max_seq_len 16"):
        evaluate_language_model(model, IDS, seq_len=32)
    with pytest.raises(ConfigError, match="max_batches: 0, wanted at least 1"):
        evaluate_language_model(model, IDS, seq_len=16, max_batches=0)
    with pytest.raises(EvaluationStopped):
        evaluate_language_model(model, IDS, seq_len=16, stop=lambda: True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\nnonsense\n', r"h.jsonl, line 2: not JSON"),
        (b"[1]\n", r"h.jsonl, line 1: list, wanted an object"),
        (b"\xff\n", r"line 1: not JSON"),
        (None, r"h.jsonl: cannot be read: No such file"),
    ],
)
def test_histories_that_cannot_be_read(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "h.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_history(tmp_path / "h.jsonl")


def test_a_line_cut_off_by_a_crash_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "h.jsonl").write_bytes(b'{"a": 1}\n{"a": 2}\n{"a": ')
    assert read_history(tmp_path / "h.jsonl") == [{"a": 1}, {"a": 2}]
