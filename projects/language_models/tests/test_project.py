"""Every config of this project from end to end, on a corpus of a few kilobytes."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinygrad_edu.cli import main as command_line
from tinygrad_edu.models import available_architectures
from tinygrad_edu.storage import list_checkpoints, load_checkpoint
from tinygrad_edu.training import FoundryConfig, load_config
from tinygrad_edu.training.history import read_history

PROJECT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(path.stem for path in (PROJECT / "configs").glob("*.yaml"))
WORDS = ("the", "model", "reads", "a", "line", "of", "text", "and", "learns", "which", "word", "comes", "next")
SHAPES = {
    "bert": ["model.bert.hidden_size=16", "model.bert.num_hidden_layers=1", "model.bert.num_attention_heads=2"],
    **{name: ["model.rnn.hidden_size=12", "model.rnn.num_layers=1"] for name in ("lstm", "gru", "rnn")},
    **{
        name: ["model.transformer.d_model=16", "model.transformer.n_blocks=1", "model.transformer.n_heads=2"]
        for name in ("gpt2", "custom_transformer")
    },
}
TINY = ["model.dropout=0.1", "data.max_length=17", "tokenizer.vocab_size=300", "training.batch_size=4"]
TINY += ["training.eval_every=4", "training.eval_batches=2", "training.log_every=2", "training.keep_checkpoints=9"]
TINY += ["training.warmup_steps=2", "training.sample_tokens=5"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("language_models")
    rng = np.random.default_rng(0)
    lines = [json.dumps({"text": " ".join(rng.choice(WORDS, 40))}) for _ in range(60)]
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(autouse=True)
def _surroundings(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYGRAD_EDU_CACHE", str(place / "cache"))
    monkeypatch.setenv("COLUMNS", "140")


def program(name: str) -> Any:
    """A program of this project as a module, under a name of its own: other projects have such files too."""
    spec = importlib.util.spec_from_file_location(f"language_models_{name}", PROJECT / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def settings(place: Path, runs: Path, architecture: str, steps: int) -> list[str]:
    words = [*TINY, *SHAPES[architecture], f"training.max_steps={steps}"]
    words.append("training.save_every=4")
    return [*words, f"data.dataset={place / 'corpus.jsonl'}", f"training.output_dir={runs}"]


def run(*argv: str) -> int:
    """``tinygrad-edu`` with these arguments; its exit status."""
    before, sys.argv = sys.argv, ["tinygrad-edu", *argv]
    try:
        command_line()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    return 0


def test_there_is_a_config_for_every_architecture_that_reads_one_text() -> None:
    assert set(CONFIGS) == set(available_architectures()) - {"seq2seq"}
    for name in CONFIGS:
        assert load_config(PROJECT / "configs" / f"{name}.yaml", schema=FoundryConfig).model.architecture == name


@pytest.mark.parametrize("name", CONFIGS)
def test_train_resume_evaluate_generate(name: str, place: Path, tmp_path: Path, capfd: Any) -> None:
    """Each architecture, by the project's programs and by the command line; resumed, it is as if never stopped."""
    train, config = program("train"), str(PROJECT / "configs" / f"{name}.yaml")
    assert train.main(["--config", config, "--name", "whole", *settings(place, tmp_path, name, 8)]) == 0
    shown = capfd.readouterr().out
    for wanted in ("corpus.jsonl", "step 8/8", "bits/byte", "n-gram"):
        assert wanted.replace("n-gram", "-gram of characters") in shown
    whole = tmp_path / "whole"
    results = json.loads((whole / "results.json").read_text())
    assert results["architecture"] == name and results["steps"] == 8
    assert 0 < results["validation"]["bits_per_byte"] < 8
    assert {"sample_before.txt", "sample_after.txt", "loss_curve.png", "config.yaml"} <= {
        path.name for path in whole.iterdir()
    }
    first = read_history(whole / "history.jsonl")
    assert first[-1]["event"] in ("evaluation", "train")

    # The same run, stopped after 4 of its steps and gone on with: the same losses to the last bit.
    halves = ["--config", config, "--name", "parts", *settings(place, tmp_path, name, 8)]
    assert run("train", *halves) == 0
    checkpoints = list_checkpoints(tmp_path / "parts" / "checkpoints")
    middle = next(path for path in checkpoints if load_checkpoint(path).step == 4)
    assert run("train", "--resume", str(middle)) == 0
    again = read_history(tmp_path / "parts" / "history.jsonl")
    losses = [(record["step"], record["loss"]) for record in first if record["event"] == "train"]
    assert [(record["step"], record["loss"]) for record in again if record["event"] == "train"] == losses

    capfd.readouterr()
    assert run("evaluate", "--checkpoint", str(whole), "--split", "validation", "--json") == 0
    figures = json.loads(capfd.readouterr().out)
    np.testing.assert_allclose(figures["loss"], results["validation"]["loss"], rtol=1e-6)
    if results["objective"] == "masked_lm":
        assert run("generate", "--checkpoint", str(whole), "--prompt", "the [MASK] reads") == 0
        assert capfd.readouterr().out.count("%") == 5
        assert run("generate", "--checkpoint", str(whole), "--prompt", "the model") == 2
        assert "learned masked_lm: it fills in [MASK]" in capfd.readouterr().err
    else:
        argv = ("--checkpoint", str(whole), "--prompt", "the model", "--max-new-tokens", "5", "--seed", "3")
        assert run("generate", *argv) == 0
        text = capfd.readouterr().out
        assert text.startswith("the model") and len(text) > len("the model\n")
        assert program("evaluate").main([*argv, "--generate"]) == 0
        assert capfd.readouterr().out == text


def test_compare(place: Path, tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    compare = program("compare")
    monkeypatch.setattr(compare, "CALIBRATION_SECONDS", 0.2)
    common = [word for word in TINY if not word.startswith("training.eval_every")]
    argv = ["--seconds", "0.2", "--only", "gpt2", "custom_transformer", "--output", str(tmp_path), "--name", "c"]
    assert compare.main([*argv, *common, *SHAPES["gpt2"], f"data.dataset={place / 'corpus.jsonl'}"]) == 0
    shown = capfd.readouterr().out
    assert "0.2 s of training each" in shown and "(best)" in shown
    plain = json.loads((tmp_path / "c" / "comparison.json").read_text())
    assert list(plain["results"]) == ["gpt2", "custom_transformer"]
    assert (tmp_path / "c" / "comparison.png").stat().st_size > 10_000
    for figures in plain["results"].values():
        assert figures["peak_memory_bytes"] is None or figures["peak_memory_bytes"] > 50 << 20


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.architecture=gpt3"], "Did you mean 'gpt2'"),
        (["training.objective=masked_lm"], "masked_lm is not for gpt2"),
        (["model.transformer.d_model=15"], "is not a multiple of n_heads"),
        (["training.max_step=3"], "Did you mean 'training.max_steps'"),
    ],
)
def test_mistakes_are_told_before_anything_is_done(words: list[str], message: str, tmp_path: Path, capfd: Any) -> None:
    config = str(PROJECT / "configs" / "gpt2.yaml")
    runs = tmp_path / "runs"
    assert run("train", "--config", config, f"training.output_dir={runs}", *words) == 2
    assert message in capfd.readouterr().err.replace("\n", " ")
    assert not runs.exists()


def test_the_command_line_wants_a_config(capfd: Any) -> None:
    assert run("train") == 2
    assert "give --config FILE, or --resume RUN" in capfd.readouterr().err
