"""Resuming is exact, byte for byte and with dropout on: for every architecture, and for all that a run may carry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.test_trainer import StopAt, same_bits
from tinygrad_edu.data import MaskedLMDataCollator, StreamLoader, TokenLoader, train_character
from tinygrad_edu.errors import CheckpointError
from tinygrad_edu.models import BaseLanguageModel, available_architectures, create_model
from tinygrad_edu.storage import load_checkpoint
from tinygrad_edu.training import (
    Callback,
    RecordHistory,
    ResumeWarning,
    StepReport,
    Trainer,
    TrainingSection,
    evaluate_batches,
    trained_weights,
)

VOCAB = 23
TEXT = np.random.default_rng(0).integers(0, VOCAB - 1, 400)
EPOCHS = 2


def windows() -> Any:
    return TokenLoader(TEXT, 3, 12, seed=1)


def strands() -> Any:
    """Batches whose rows go on where those before ended."""
    return StreamLoader(TEXT, 4, 12)


TOKENIZER = train_character(["abcdefghijklmnopqrstu"], special_tokens=("[MASK]", "[UNK]"))


def masked() -> Any:
    """Windows of which a collator masks some tokens, other ones in each batch."""
    assert TOKENIZER.vocab_size == VOCAB
    return TokenLoader(TEXT, 3, 12, seed=1, collate=MaskedLMDataCollator(TOKENIZER, seed=4))


def pairs() -> Any:
    """Source and target texts of unequal lengths, padded with 0."""
    rng, batches = np.random.default_rng(2), []
    for _ in range(11):
        lengths = rng.integers(3, 9, (2, 4))
        mask = (np.arange(9) < lengths[:, :, None]).astype(np.int64)
        ids = rng.integers(1, VOCAB - 1, (2, 4, 9))
        labels = np.where(mask[1] == 1, ids[1], -100)
        batches.append({"input_ids": ids[0] * mask[0], "attention_mask": mask[0], "labels": labels})
    return batches


TRANSFORMER = {"n_blocks": 2, "n_heads": 2, "d_model": 16, "d_ffn": 16, "max_seq_len": 16, "dropout": 0.2}
RECURRENT = {"hidden_size": 12, "num_layers": 2, "dropout": 0.2}


@dataclass
class Case:
    """How to make a small model of an architecture, and the batches it learns from."""

    architecture: str
    settings: Mapping[str, Any]
    batches: Callable[[], Any] = windows
    training: Mapping[str, Any] = field(default_factory=dict)

    def model(self) -> BaseLanguageModel:
        return create_model({"architecture": self.architecture, "vocab_size": VOCAB, "seed": 3, **self.settings})


CASES = {
    "custom_transformer": Case("custom_transformer", TRANSFORMER),
    "gpt2": Case("gpt2", {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 16}),
    "gpt2 checkpointing": Case(
        "gpt2", {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 16, "checkpointing": True}
    ),
    "bert": Case(
        "bert",
        {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "max_position_embeddings": 16,
        },
        masked,
    ),
    **{kind: Case(kind, RECURRENT) for kind in ("lstm", "gru", "rnn")},
    **{f"{kind} carried": Case(kind, {**RECURRENT, "carry_state": True}, strands) for kind in ("lstm", "gru", "rnn")},
    "lstm both ways": Case("lstm", {**RECURRENT, "bidirectional": True, "objective": "masked_lm"}, masked),
    "seq2seq": Case("seq2seq", TRANSFORMER, pairs),
    "all at once": Case(
        "lstm",
        {**RECURRENT, "carry_state": True},
        strands,
        {
            "gradient_accumulation_steps": 2,
            "ema_decay": 0.9,
            "early_stopping_patience": 2,
            "num_epochs": 5,
            "eval_every": 2,
            "learning_rate": 0.3,
        },
    ),
    "sgd, accumulated": Case(
        "custom_transformer", TRANSFORMER, windows, {"gradient_accumulation_steps": 4, "optimizer": "sgd"}
    ),
    "averaged": Case("custom_transformer", TRANSFORMER, windows, {"ema_decay": 0.95}),
}
HERE = {name: case for name, case in CASES.items() if case.architecture in available_architectures()}
each_case = pytest.mark.parametrize("name", HERE)


def make(name: str, folder: Path, *callbacks: Callback, **more: Any) -> Trainer:
    case = HERE[name]
    model = case.model()
    settings = {"num_epochs": EPOCHS, "eval_every": 7, "save_every": 5, "log_every": 3, "learning_rate": 1e-2}
    held_out = list(case.batches())[:3]
    return Trainer(
        model,
        case.batches(),
        TrainingSection(**{**settings, **case.training, **more}),
        evaluate=lambda stop: evaluate_batches(model, held_out, stop=stop),
        callbacks=[RecordHistory(), *callbacks],
        checkpoints=folder,
    )


def timeless(trainer: Trainer) -> list[dict[str, Any]]:
    """The history without what no two runs have in common."""
    records = trainer.callbacks[0].history.records  # type: ignore[attr-defined]
    return [{key: value for key, value in record.items() if "second" not in key} for record in records]


def test_every_architecture_has_a_case() -> None:
    missing = set(available_architectures()) - {case.architecture for case in CASES.values()}
    assert not missing, "make a small one in CASES"


@each_case
def test_resuming_equals_never_having_stopped(name: str, tmp_path: Path) -> None:
    whole = make(name, tmp_path / "whole")
    end = whole.fit()
    for stop in sorted({1, end.step // 2, end.step - 1}):
        folder = tmp_path / f"stop {stop}"
        first = make(name, folder, StopAt(stop)).fit()
        assert first.interrupted and first.step == stop
        again = make(name, folder)
        again.resume(load_checkpoint(folder))
        assert again.state.step == stop
        result = again.fit()
        assert (result.step, result.reason) == (end.step, end.reason)
        one, other = load_checkpoint(tmp_path / "whole"), load_checkpoint(folder)
        same_bits(one, other)
        assert one.arrays.keys() == other.arrays.keys()
        for group, arrays in one.arrays.items():
            for key, array in arrays.items():
                assert array.tobytes() == other.arrays[group][key].tobytes(), (group, key)
        assert one.documents["trainer"]["ema"] == other.documents["trainer"]["ema"]
        assert timeless(whole) == timeless(again)


@each_case
def test_dropout_is_on_in_these_runs(name: str, tmp_path: Path) -> None:
    """The control: were it off, the test above would say nothing of the generators."""
    trainer = make(name, tmp_path)
    batch = next(iter(HERE[name].batches()))
    args, named = ((), batch) if isinstance(batch, dict) else (batch, {})
    model: Any = trainer.model.train()
    model.forward_backward(*args, **named)
    first = model.carried_state()
    model.load_carried_state({})
    model.forward_backward(*args, **named)
    gradients = [parameter.grad.copy() for parameter in model.parameters()]
    model.load_carried_state({})
    model.zero_grad()
    model.forward_backward(*args, **named)
    again = [parameter.grad.copy() for parameter in model.parameters()]
    assert any((one != other).any() for one, other in zip(gradients, again, strict=True))
    assert bool(first) == (HERE[name].batches is strands)


@pytest.mark.parametrize("forgotten", ["carried", "ema", "generators", "loader"])
def test_what_is_forgotten_shows(forgotten: str, tmp_path: Path) -> None:
    """The control: each part of the state matters, and a run without it would end elsewhere."""
    make("all at once", tmp_path / "whole").fit()
    make("all at once", tmp_path / "parts", StopAt(4)).fit()
    checkpoint = load_checkpoint(tmp_path / "parts")
    fresh = make("all at once", tmp_path / "unused")
    if forgotten == "carried":
        del checkpoint.arrays["carried"]
    elif forgotten == "ema":
        checkpoint.arrays["ema"] = dict(checkpoint.arrays["model"])
    elif forgotten == "generators":
        states = [generator.get_state() for generator in fresh.model.generators()]
        checkpoint.documents["trainer"]["generators"] = states
    else:
        checkpoint.documents["trainer"]["loader"] = fresh.loader.state_dict()
    again = make("all at once", tmp_path / "parts")
    again.resume(checkpoint)
    again.fit()
    one, other = load_checkpoint(tmp_path / "whole"), load_checkpoint(tmp_path / "parts")
    group = "ema" if forgotten == "ema" else "model"
    assert any((one.arrays[group][key] != array).any() for key, array in other.arrays[group].items())


def test_a_run_that_stopped_early_stays_stopped(tmp_path: Path) -> None:
    ended = make("all at once", tmp_path).fit()
    assert not ended.interrupted and "brought no loss better than" in ended.reason
    trainer = make("all at once", tmp_path)
    assert ended.step < trainer.total_steps
    trainer.resume(load_checkpoint(tmp_path))
    assert trainer.fit().step == ended.step


# -- averaged weights in checkpoints ---------------------------------------------------------------


def test_the_average_is_what_is_evaluated_and_used(tmp_path: Path) -> None:
    seen = []

    class Watch(Callback):
        def on_step(self, report: StepReport) -> None:
            seen.append({name: array.copy() for name, array in trainer.model.state_dict().items()})

    trainer = make("averaged", tmp_path, Watch(), num_epochs=1, eval_every=None, save_every=None)
    trainer.fit()
    checkpoint = load_checkpoint(tmp_path)
    average = trainer.model.state_dict()
    for name in average:
        expected = HERE["averaged"].model().state_dict()[name].astype(np.float64)
        for step, weights in enumerate(seen):
            decay = min(0.95, (1 + step) / (10 + step))
            expected = decay * expected + (1 - decay) * weights[name]
        np.testing.assert_allclose(checkpoint.arrays["ema"][name], expected, rtol=1e-4, atol=1e-6)
        assert (checkpoint.arrays["model"][name] == seen[-1][name]).all()
    assert trained_weights(checkpoint) is checkpoint.arrays["ema"]
    batches = list(HERE["averaged"].batches())
    own = evaluate_batches(trainer.model, batches).loss  # type: ignore[arg-type]
    with trainer.averaged():
        averaged = evaluate_batches(trainer.model, batches).loss  # type: ignore[arg-type]
    other = HERE["averaged"].model()
    other.load_state_dict(dict(trained_weights(checkpoint)))
    assert evaluate_batches(other, batches).loss == averaged != own


def test_evaluations_are_of_the_average(tmp_path: Path) -> None:
    trainer = make("averaged", tmp_path, eval_every=4, num_epochs=1)
    trainer.fit()
    last = [r for r in timeless(trainer) if r["event"] == "evaluation"][-1]
    held_out = list(HERE["averaged"].batches())[:3]
    with trainer.averaged():
        assert evaluate_batches(trainer.model, held_out).loss == last["loss"]  # type: ignore[arg-type]
    assert evaluate_batches(trainer.model, held_out).loss != last["loss"]  # type: ignore[arg-type]


def test_averages_that_were_not_kept(tmp_path: Path) -> None:
    plain, averaged = {"ema_decay": None}, {"ema_decay": 0.9}
    make("custom_transformer", tmp_path / "plain", StopAt(3), **plain).fit()
    make("custom_transformer", tmp_path / "averaged", StopAt(3), **averaged).fit()
    trainer = make("custom_transformer", tmp_path / "plain", **averaged)
    with pytest.raises(CheckpointError, match="holds no averaged weights, but ema_decay is 0.9"):
        trainer.resume(load_checkpoint(tmp_path / "plain"))
    with pytest.warns(ResumeWarning, match="averaged weights were not kept before and begin with the weights"):
        trainer.resume(load_checkpoint(tmp_path / "plain"), accept_changes=True)
    assert trainer.ema is not None and trainer.ema.updates == 0
    weights = trainer.model.state_dict()
    with trainer.averaged():
        assert all((trainer.model.state_dict()[name] == array).all() for name, array in weights.items())
    other = make("custom_transformer", tmp_path / "averaged", **plain)
    with pytest.raises(CheckpointError, match="holds averaged weights, but ema_decay is null"):
        other.resume(load_checkpoint(tmp_path / "averaged"))
    other.resume(load_checkpoint(tmp_path / "averaged"), accept_changes=True)


def test_an_average_that_does_not_fit(tmp_path: Path) -> None:
    make("averaged", tmp_path, StopAt(3)).fit()
    checkpoint = load_checkpoint(tmp_path)
    checkpoint.arrays["ema"].pop("model.norm.bias")
    with pytest.raises(CheckpointError, match="missing: model.norm.bias"):
        make("averaged", tmp_path).resume(checkpoint)


# -- the carried state -----------------------------------------------------------------------------


def test_a_new_epoch_begins_with_no_state(tmp_path: Path) -> None:
    """The text begins anew, and the state of its end says nothing of its beginning."""
    losses: list[float] = []

    class Watch(Callback):
        def on_step(self, report: StepReport) -> None:
            losses.append(report.loss)

    trainer = make("lstm carried", tmp_path, Watch(), optimizer="sgd", learning_rate=1e-30, eval_every=None)
    for layer in trainer.model.layers():
        if hasattr(layer, "p"):
            layer.p = 0.0  # without dropout and learning, both epochs must be the same
        if hasattr(layer, "dropout") and isinstance(layer.dropout, float):
            layer.dropout = 0.0
    trainer.fit()
    half = len(losses) // 2
    assert losses[:half] == losses[half:]
    assert len(set(losses[:half])) == half
