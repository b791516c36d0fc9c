"""The program from end to end on some hundred names, and what it says of mistakes."""

from __future__ import annotations

import importlib.util
import json
import sys
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinygrad_edu.data import train_character
from tinygrad_edu.models import from_pretrained
from tinygrad_edu.training import read_history

PROGRAM = Path(__file__).resolve().parents[1] / "train.py"
TINY = ["--names", "400", "--hidden_size", "24", "--batch_size", "16", "--epochs", "3"]


@pytest.fixture(scope="module")
def program() -> Any:
    spec = importlib.util.spec_from_file_location("simple_lstm_train", PROGRAM)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_train_and_generate(program: Any, kind: str, tmp_path: Path, capfd: Any) -> None:
    run = tmp_path / "run"
    assert program.main([*TINY, "--model", kind, "--num_layers", "2", "--output", str(run)]) == 0
    shown = capfd.readouterr().out
    assert "Before training it writes" in shown and "7-gram of characters" in shown
    assert {"model", "history.jsonl", "loss_curve.png", "inside.png", "results.json"} <= {p.name for p in run.iterdir()}
    assert (run / "inside.png").stat().st_size > 10_000
    results = json.loads((run / "results.json").read_text())
    uniform = np.log2(41)  # what a model costs a character that has learned nothing
    assert results["model"] == kind and 0 < results["test"]["bits_per_byte"] < 0.9 * uniform
    losses = [r["loss"] for r in read_history(run / "history.jsonl") if r["event"] == "evaluation"]
    assert len(losses) == 3 and losses[-1] < losses[0]
    model = from_pretrained(run / "model")
    assert model.model_type == kind and model.get_parameter_count() == results["parameters"]

    assert program.main(["--output", str(run), "--generate", "LATIN"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 5 and all(line.startswith("LATIN") for line in lines)


def test_the_names_are_those_that_somebody_chose(program: Any) -> None:
    names = program.unicode_names()
    assert len(set(names)) == len(names) > 30_000
    assert "GREEK SMALL LETTER ALPHA" in names
    assert unicodedata.name("\u4e00") not in names and unicodedata.name("\uac00") not in names
    assert all(name.isascii() for name in names)  # so a byte is a character


def test_no_name_is_in_two_parts(program: Any) -> None:
    names = program.unicode_names()
    parts = program.split(names, seed=1)
    assert sum(map(len, parts)) == len(names)
    assert set().union(*parts) == set(names)
    assert program.split(names, seed=1) == parts != program.split(names, seed=2)


def test_batches_predict_first_character_and_end(program: Any) -> None:
    names = ["AB", "ABCD"]
    tokenizer = train_character(names, special_tokens=("<pad>", "</s>", "<unk>"))
    (batch,) = program.loader_of(names, tokenizer, 2)
    end, a, b = tokenizer.eos_token_id, *tokenizer.encode("AB")
    row = batch["labels"][batch["attention_mask"].sum(axis=1).argmin()]
    assert row.tolist() == [end, a, b, end, -100, -100]
    # Every character of every name and each end is a target, so the bits are those of the n-grams' texts.
    assert int((batch["labels"][:, 1:] != -100).sum()) == sum(len(name) + 1 for name in names)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--generate", "LATIN"], "--generate wants --output DIR"),
        (["--names", "3"], "--names: 3, wanted at least 40"),
        (["--model", "gpt2"], "invalid choice: 'gpt2'"),
    ],
)
def test_mistakes_in_the_arguments(program: Any, argv: list[str], message: str, capfd: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        program.main(argv)
    assert ended.value.code == 2
    assert message in capfd.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--epochs", "0"], "num_epochs: 0, wanted an integer >= 1"),
        (["--hidden_size", "0"], "hidden_size must be an integer >= 1, got 0"),
        (["--batch_size", "0"], "batch_size: 0"),
        (["--lr", "-1"], "learning_rate"),
    ],
)
def test_mistakes_that_the_library_tells(
    program: Any, argv: list[str], message: str, tmp_path: Path, capfd: Any
) -> None:
    assert program.main([*TINY, *argv, "--output", str(tmp_path / "run")]) == 2
    assert message in capfd.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "run").exists()


def test_folders_that_cannot_be_used(program: Any, tmp_path: Path, capfd: Any) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert program.main([*TINY, "--output", str(tmp_path)]) == 2
    assert "is there and not empty" in capfd.readouterr().err
    assert program.main(["--output", str(tmp_path), "--generate", "A"]) == 2
    assert "holds no finished run" in capfd.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
