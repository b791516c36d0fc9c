"""Training in one call or one object: what comes back, and that mistakes are told before anything is trained."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu.data import Tokenizer, TokenLoader, train_bpe
from tinygrad_edu.errors import ConfigError, DataError, TinygradEduError
from tinygrad_edu.layers import GELU, Linear, Sequential
from tinygrad_edu.losses import CrossEntropyLoss, MeanSquaredError
from tinygrad_edu.metrics import LanguageScore
from tinygrad_edu.models import BaseLanguageModel, create_model, from_pretrained
from tinygrad_edu.optim import SGD
from tinygrad_edu.storage import load_checkpoint
from tinygrad_edu.training import (
    Callback,
    EpochTrainer,
    GradientStatistics,
    History,
    LanguageModelTrainer,
    TransformerTrainer,
    evaluate_batches,
    read_history,
    train_model,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4))
Y = X[:, :3].argmax(axis=1)
BATCHES = [(X[at : at + 10], Y[at : at + 10]) for at in range(0, 40, 10)]
HELD_OUT = [(X[40:], Y[40:])]
TEXT = "the cat sat on the mat and the dog sat on the log. " * 30


def net() -> Sequential:
    generator = tg.backend.Generator(0)
    return Sequential(Linear(4, 16, generator=generator), GELU(), Linear(16, 3, generator=generator))


def fit(*arguments: Any, **options: Any) -> History:
    given = {"loss": CrossEntropyLoss(), "progress": False, **options}
    return train_model(*(arguments or (net(), BATCHES, HELD_OUT)), **given)


class StopAtEpoch(Callback):
    def __init__(self, epoch: int):
        self.epoch = epoch

    def on_start(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_record(self, record: Any) -> None:
        if record["event"] == "evaluation" and record["epoch"] == self.epoch:
            self.trainer.stop()


# -- train_model -----------------------------------------------------------------------------------


def test_a_classifier_is_trained_and_its_history_is_plain_data(tmp_path: Path) -> None:
    model = net()
    history = fit(model, BATCHES, HELD_OUT, epochs=20, learning_rate=1e-2)
    train, evaluation = history["train"], history["evaluation"]
    assert train["epoch"] == evaluation["epoch"] == list(range(1, 21))
    assert train["step"] == list(range(4, 81, 4)) and train["examples"][-1] == 800
    assert evaluation["loss"][-1] < 0.5 * evaluation["loss"][0] and evaluation["accuracy"][-1] > 0.8
    assert train["learning_rate"] == [1e-2] * 20
    assert history.best is not None and history.best["loss"] == min(evaluation["loss"])
    right = (model.eval()(X[40:].astype("float32")).argmax(axis=1) == Y[40:]).mean()
    assert evaluation["accuracy"][-1] == pytest.approx(right)
    assert history.plot(tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert "80 steps, 40 records, best validation loss" in repr(history)


def test_the_loss_of_an_epoch_is_the_mean_of_its_steps() -> None:
    history = fit(net(), BATCHES, epochs=1, learning_rate=1e-9)
    logits = net()(X[:40].astype("float32"))
    assert history["train"]["loss"] == [pytest.approx(CrossEntropyLoss()(logits, Y[:40]), rel=1e-5)]


def test_histories_are_written_and_read(tmp_path: Path) -> None:
    history = fit(net(), BATCHES, HELD_OUT, epochs=2, callbacks=[GradientStatistics(4)])
    history.records.append({"event": "skipped", "step": 9, "loss": math.nan})
    again = History.read(history.to_json(tmp_path / "h.json"))
    assert again.records[:-1] == json.loads(json.dumps(history.records[:-1])) and again.records[-1]["loss"] is None
    with history.to_csv(tmp_path / "h.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(history) == 7
    assert [row["event"] for row in rows].count("train") == 2
    trained = next(row for row in rows if row["event"] == "train")
    assert float(trained["loss"]) == history["train"]["loss"][0] and trained["accuracy"] == ""
    figures = next(record for record in history if record["event"] == "gradients")["groups"]["0"]
    assert float(next(row for row in rows if row["event"] == "gradients")["groups.0.norm"]) == figures["norm"]
    assert (
        History().to_json(tmp_path / "none.json").read_text() == "[]\n"
        and len(History.read(tmp_path / "none.json")) == 0
    )
    assert History().best is None and History()["train"] == {}
    (tmp_path / "h.jsonl").write_text('{"event": "train", "step": 1}\n')
    assert History.read(tmp_path / "h.jsonl")["train"] == {"step": [1]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("h.json", "{", "h.json: not JSON"),
        ("h.json", '{"a": 1}', "h.json: wanted a list of records"),
        ("h.json", "[1]", "h.json: wanted a list of records"),
        ("h.json", None, "h.json: cannot be read: No such file"),
        ("h.jsonl", "x\n", "h.jsonl, line 1: not JSON"),
    ],
)
def test_histories_that_cannot_be_read(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        History.read(tmp_path / name)
    with pytest.raises(DataError, match="cannot be written: No such file"):
        History().to_csv(tmp_path / "none" / "h.csv")


def test_early_stopping_and_the_best_weights() -> None:
    """A rate so high that the best evaluation is not the last one."""
    last, best = net(), net()
    history = fit(last, BATCHES, HELD_OUT, epochs=50, learning_rate=0.3, early_stopping_patience=3)
    fit(best, BATCHES, HELD_OUT, epochs=50, learning_rate=0.3, early_stopping_patience=3, restore_best=True)
    losses = history["evaluation"]["loss"]
    assert len(losses) < 50 and min(losses) == losses[-4]
    targets = HELD_OUT[0][1]
    scores = [CrossEntropyLoss()(model.eval()(X[40:].astype("float32")), targets) for model in (last, best)]
    assert scores == [pytest.approx(losses[-1], rel=1e-5), pytest.approx(min(losses), rel=1e-5)]


def test_averaged_weights_are_what_is_left() -> None:
    plain, averaged, best = net(), net(), net()
    fit(plain, BATCHES, HELD_OUT, epochs=3, learning_rate=0.1)
    history = fit(averaged, BATCHES, HELD_OUT, epochs=3, learning_rate=0.1, ema_decay=0.9)
    fit(best, BATCHES, HELD_OUT, epochs=3, learning_rate=0.1, ema_decay=0.9, restore_best=True)
    score = CrossEntropyLoss()(averaged.eval()(X[40:].astype("float32")), HELD_OUT[0][1])
    assert score == pytest.approx(history["evaluation"]["loss"][-1], rel=1e-5)
    assert (averaged[0].weight.data != plain[0].weight.data).any()
    score = CrossEntropyLoss()(best.eval()(X[40:].astype("float32")), HELD_OUT[0][1])
    assert score == pytest.approx(min(history["evaluation"]["loss"]), rel=1e-5)


def test_any_optimizer_and_checkpoints(tmp_path: Path) -> None:
    model = net()
    optimizer = SGD(model, momentum=0.9)
    fit(model, BATCHES, HELD_OUT, epochs=2, optimizer=optimizer, checkpoints=tmp_path / "c")
    assert optimizer.state_dict()["step"] == 8
    saved = load_checkpoint(tmp_path / "c")
    assert saved.step == 8 and (saved.arrays["model"]["0.weight"] == model[0].weight.data).all()
    fit(net(), BATCHES, epochs=1, optimizer="sgd", momentum=0.5, schedule="cosine", gradient_accumulation_steps=3)


def test_ctrl_c_returns_what_there_is() -> None:
    assert fit(net(), BATCHES, HELD_OUT, epochs=9, callbacks=[StopAtEpoch(2)])["evaluation"]["epoch"] == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"epochs": 0}, ConfigError, "epochs: 0, wanted an integer >= 1"),
        ({"epochs": 1.5}, ConfigError, "epochs: 1.5, wanted an integer >= 1"),
        ({"learning_rate": -1.0}, ConfigError, "1 mistake in the arguments:\n  learning_rate: found -1.0, wanted"),
        ({"learning_rate": math.nan}, ConfigError, "learning_rate: found .*finite"),
        ({"learning_rate": "fast"}, ConfigError, "learning_rate: found .fast."),
        ({"optimizer": "adamv"}, ConfigError, "optimizer: found .adamv..* Did you mean 'adam"),
        ({"schedule": "cosin"}, ConfigError, "schedule: found .cosin..* Did you mean 'cosine'"),
        ({"weight_decai": 0.1}, ConfigError, "weight_decai: unknown key. Did you mean 'weight_decay'"),
        ({"gradient_accumulation_steps": 0}, ConfigError, "gradient_accumulation_steps: found 0, wanted at least 1"),
        ({"ema_decay": 1.0, "clip_norm": 0.0}, ConfigError, "2 mistakes in the arguments"),
        ({"early_stopping_patience": 0}, ConfigError, "early_stopping_patience: found 0, wanted at least 1"),
        ({"min_learning_rate": 1.0}, ConfigError, "min_learning_rate: 1.0 is above learning_rate 0.001"),
        ({"train_dataloader": []}, DataError, "train_dataloader: it has no batches"),
        ({"val_dataloader": []}, DataError, "val_dataloader: it has no batches"),
        ({"train_dataloader": iter(BATCHES)}, ConfigError, r"train_dataloader: list_iterator has no len\(\)"),
        (
            {"val_dataloader": None, "early_stopping_patience": 2},
            ConfigError,
            "there is no validation data: give some",
        ),
        ({"val_dataloader": None, "restore_best": True}, ConfigError, "restore_best: there is no validation data"),
        ({"loss": None}, ConfigError, "loss: Sequential brings none of its own"),
        ({"model": None}, ConfigError, "model: must be a layer or a language model, got NoneType"),
        ({"tensorboard": True}, ConfigError, "tensorboard: there is no run folder"),
        ({"warmup_steps": 99, "schedule": "cosine"}, ConfigError, "total_steps must be >= 1 and >= warmup_steps 99"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(arguments: Any, error: Any, message: str) -> None:
    model = net()
    before = {name: array.copy() for name, array in model.state_dict().items()}
    given = {"model": model, "train_dataloader": BATCHES, "val_dataloader": HELD_OUT, "loss": CrossEntropyLoss()}
    with pytest.raises(error, match=message):
        train_model(**{**given, "progress": False, **arguments})
    assert all((model.state_dict()[name] == array).all() for name, array in before.items())


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (X, "a batch is a ndarray, wanted a tuple"),
        ((X,), r"a batch is \(inputs, targets\)"),
        ((X[:, :3], Y), r"Linear: expected \(..., 4\), got \(60, 3\)"),
        ((X, Y + 1), r"targets must be in \[0, 3\) or ignore_index -100, got 3"),
        ((X, Y[:-1]), r"logits \(..., classes\) and targets \(...\) must agree, got \(60, 3\) and \(59,\)"),
    ],
)
def test_batches_that_do_not_fit(batch: Any, message: str) -> None:
    with pytest.raises(TinygradEduError, match=message):
        fit(net(), [batch])


# -- going on --------------------------------------------------------------------------------------


def test_training_goes_on_where_it_was() -> None:
    whole, parts = net(), net()
    options = {"loss": CrossEntropyLoss(), "progress": False, "schedule": "constant"}
    EpochTrainer(whole, BATCHES, HELD_OUT, **options).train(5)
    trainer = EpochTrainer(parts, BATCHES, HELD_OUT, **options)
    trainer.train(2)
    history = trainer.train(3)
    assert history is trainer.history and history["evaluation"]["epoch"] == [1, 2, 3, 4, 5]
    assert all((whole.state_dict()[name] == array).all() for name, array in parts.state_dict().items())


def test_evaluating_by_hand() -> None:
    trainer = EpochTrainer(net(), BATCHES, HELD_OUT, loss=CrossEntropyLoss(), progress=False, ema_decay=0.9)
    before = trainer.evaluate()
    trainer.train(2)
    assert trainer.evaluate()["loss"] == trainer.history["evaluation"]["loss"][-1] < before["loss"]
    assert trainer.evaluate(BATCHES)["loss"] != trainer.evaluate()["loss"]
    with pytest.raises(ConfigError, match="evaluate: there is no val_loader; give a loader"):
        EpochTrainer(net(), BATCHES, loss=CrossEntropyLoss(), progress=False).evaluate()


def test_progress_is_shown_in_the_units_of_the_model(capfd: Any) -> None:
    fit(net(), BATCHES, HELD_OUT, epochs=2, progress=True)
    shown = capfd.readouterr().err
    assert "examples/s" in shown and "validation loss" in shown and "perplexity" not in shown


# -- transformers ----------------------------------------------------------------------------------


def small_model(vocab_size: int = 50, **settings: Any) -> BaseLanguageModel:
    given = {"max_seq_len": 32, "n_blocks": 1, "n_heads": 2, "d_model": 16, "d_ffn": 16, **settings}
    return create_model({"architecture": "custom_transformer", "vocab_size": vocab_size, **given})


IDS = np.tile(np.arange(10), 60)


def loaders() -> tuple[TokenLoader, TokenLoader]:
    return TokenLoader(IDS, 4, 16, seed=0), TokenLoader(IDS[:200], 4, 16, seed=1)


@pytest.mark.parametrize("schedule", ["noam", "cosine"])
def test_a_transformer_is_trained(tmp_path: Path, schedule: str) -> None:
    model = small_model()
    trainer = TransformerTrainer(
        model, *loaders(), learning_rate=1e-2, schedule=schedule, warmup_steps=10, progress=False
    )
    before = trainer.perplexity()
    history = trainer.train(4)
    after = trainer.perplexity()
    assert after < 0.5 * before and after == pytest.approx(history["evaluation"]["perplexity"][-1])
    assert isinstance(trainer.evaluate(), LanguageScore) and model.label_smoothing == 0.1
    rates = [trainer.trainer.schedule(step) for step in range(trainer.trainer.total_steps)]  # type: ignore[union-attr]
    assert np.argmax(rates) in (9, 10) and max(rates) == pytest.approx(1e-2) and rates[-1] < 0.6e-2
    for draw in (trainer.plot_training_history, trainer.plot_learning_rate):
        assert draw(tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_smoothing_is_for_training_alone() -> None:
    model, (train, held_out) = small_model(), loaders()
    smooth = TransformerTrainer(model, train, held_out, label_smoothing=0.5, progress=False)
    before = evaluate_batches(small_model(), held_out).loss
    assert smooth.evaluate().loss == pytest.approx(before)
    model.label_smoothing = 0.5
    assert evaluate_batches(model, held_out).loss == pytest.approx(before)
    batch = next(iter(TokenLoader(IDS, 4, 16, seed=0)))
    assert model.train().forward_backward(*batch) != small_model().train().forward_backward(*batch)


def test_the_learning_rate_of_a_training_that_has_not_begun(tmp_path: Path) -> None:
    trainer = TransformerTrainer(small_model(), *loaders(), progress=False)
    with pytest.raises(ConfigError, match="plot_learning_rate: nothing was trained yet; give epochs="):
        trainer.plot_learning_rate(tmp_path / "rate.png")
    assert trainer.plot_learning_rate(tmp_path / "rate.png", epochs=50).exists()
    with pytest.raises(DataError, match="no training or evaluation records to draw"):
        trainer.plot_training_history(tmp_path / "loss.png")
    other = TransformerTrainer(net(), BATCHES, HELD_OUT, loss=CrossEntropyLoss(), progress=False)
    with pytest.raises(ConfigError, match="perplexity: Sequential is no language model"):
        other.perplexity()
    with pytest.raises(ConfigError, match="label_smoothing: 0.1, but MeanSquaredError has no labels to smooth"):
        TransformerTrainer(net(), BATCHES, loss=MeanSquaredError(), progress=False).train()


# -- language models -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def words() -> Any:
    tokenizer = train_bpe([TEXT], 280)
    return tokenizer, np.array(tokenizer.encode(TEXT))


def language_trainer(words: Any, **options: Any) -> LanguageModelTrainer:
    tokenizer, ids = words
    loaders = TokenLoader(ids, 4, 16, seed=0), TokenLoader(ids[:100], 2, 16, seed=1)
    model = small_model(tokenizer.vocab_size, max_seq_len=40)
    return LanguageModelTrainer(model, tokenizer, *loaders, progress=False, learning_rate=1e-2, **options)


def test_a_language_model_is_trained_saved_and_writes(tmp_path: Path, words: Any) -> None:
    trainer = language_trainer(words, ema_decay=0.5)
    before = trainer.evaluate()
    trainer.train(num_epochs=2, save_dir=tmp_path / "runs", model_name="small")
    history = trainer.train(num_epochs=2, save_dir=tmp_path / "runs", model_name="small")
    after = trainer.evaluate()
    assert after["perplexity"] < 0.5 * before["perplexity"]
    assert after["bits_per_byte"] == pytest.approx(history["evaluation"]["bits_per_byte"][-1])
    folder = tmp_path / "runs" / "small"
    assert {"history.jsonl", "loss_curve.png", "checkpoints", "model"} == {p.name for p in folder.iterdir()}
    written = read_history(folder / "history.jsonl")
    assert [r["step"] for r in written if r["event"] == "evaluation"] == history["evaluation"]["step"]
    assert load_checkpoint(folder / "checkpoints").step == history["evaluation"]["step"][-1]
    again = from_pretrained(folder / "model")
    assert Tokenizer.from_pretrained(folder / "model").encode(TEXT) == words[0].encode(TEXT)
    held_out = trainer.val_loader
    assert evaluate_batches(again, held_out).loss == pytest.approx(after["loss"], rel=1e-6)
    text = trainer.generate("the cat", max_length=20, seed=0)
    assert text.startswith("the cat") and text == trainer.generate("the cat", max_length=20, seed=0)
    assert len(text) < len(trainer.generate("the cat", max_length=40, seed=0))


def test_what_a_language_trainer_refuses(tmp_path: Path, words: Any) -> None:
    tokenizer, _ = words
    trainer = language_trainer(words)
    for epochs in (0, True, "3"):
        with pytest.raises(ConfigError, match="num_epochs: .*, wanted an integer >= 1"):
            trainer.train(epochs)  # type: ignore[arg-type]
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("precious")
    with pytest.raises(ConfigError, match="run folder: .*taken is not empty"):
        trainer.train(1, tmp_path, "taken")
    with pytest.raises(ConfigError, match="run name: '../evil'"):
        trainer.train(1, tmp_path, "../evil")
    assert trainer.trainer is None
    for length in (2, 1.5):
        with pytest.raises(ConfigError, match="max_length: .*, wanted an integer > .*the tokens of the prompt"):
            trainer.generate("the cat sat", max_length=length)  # type: ignore[arg-type]
    trainer.train(1)
    with pytest.raises(ConfigError, match="save_dir: training began without a folder"):
        trainer.train(1, tmp_path, "late")
    with pytest.raises(
        ConfigError, match="tokenizer: its .* tokens are more than the model's vocab_size 20; model.res"
    ):
        LanguageModelTrainer(small_model(20), tokenizer, BATCHES)
    with pytest.raises(ConfigError, match="model: must be a language model, got Sequential"):
        LanguageModelTrainer(net(), tokenizer, BATCHES)  # type: ignore[arg-type]
    saved = language_trainer(words)
    saved.train(1, tmp_path, "one")
    with pytest.raises(ConfigError, match="save_dir: training began in .*one and cannot move to .*two"):
        saved.train(1, tmp_path, "two")
    alone = LanguageModelTrainer(small_model(tokenizer.vocab_size), tokenizer, BATCHES, progress=False)
    with pytest.raises(ConfigError, match="evaluate: there is no val_loader"):
        alone.evaluate()


def test_a_given_optimizer_keeps_its_own_settings() -> None:
    """Its rate is not replaced in silence, and settings beside it are refused."""
    from tinygrad_edu.models import create_model
    from tinygrad_edu.optim import AdamW

    model = create_model({"architecture": "gpt2", "vocab_size": 9, "n_embd": 4, "n_head": 1, "n_layer": 1})
    batches = [(np.ones((1, 4), np.int64),)]
    optimizer = AdamW(model, lr=0.25)
    history = train_model(model, batches, epochs=1, optimizer=optimizer, progress=False)
    assert history.records[0]["learning_rate"] == 0.25
    with pytest.raises(ConfigError, match="weight_decay: the optimizer that was given has its own"):
        train_model(model, batches, epochs=1, optimizer=optimizer, weight_decay=0.1, progress=False)
    train_model(model, batches, epochs=1, label_smoothing=0.3, progress=False)
    train_model(model, batches, epochs=1, label_smoothing=0.0, progress=False)
    assert model.label_smoothing == 0.0
