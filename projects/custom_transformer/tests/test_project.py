"""The programs of this project from end to end, on a corpus of a few kilobytes."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinygrad_edu.storage import list_checkpoints, load_checkpoint
from tinygrad_edu.training.config import load_config
from tinygrad_edu.training.history import read_history

PROJECT = Path(__file__).resolve().parents[1]
ROOT = PROJECT.parents[1]
WORDS = (
    "the",
    "model",
    "reads",
    "a",
    "line",
    "of",
    "text",
    "and",
    "learns",
    "which",
    "word",
    "comes",
    "next",
)
TINY = ["model.d_model=16", "model.n_blocks=1", "model.n_heads=2", "model.d_ffn=16", "model.dropout=0.1"]
TINY += ["model.max_seq_len=32", "data.max_length=32", "tokenizer.vocab_size=300", "training.batch_size=4"]
TINY += ["training.max_steps=12", "training.eval_every=6", "training.log_every=2", "training.save_every=null"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus, and a cache of its own."""
    folder = tmp_path_factory.mktemp("project")
    rng = np.random.default_rng(0)
    lines = [json.dumps({"text": " ".join(rng.choice(WORDS, 40))}) for _ in range(60)]
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(autouse=True)
def _own_cache(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYGRAD_EDU_CACHE", str(place / "cache"))
    monkeypatch.setenv("COLUMNS", "120")
    # The programs run as a user runs them, from wherever the library is.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))


@pytest.fixture(scope="module")
def programs() -> Any:
    """train.py and evaluate.py as modules, under names of their own: other projects have such files too."""

    def load(name: str) -> Any:
        spec = importlib.util.spec_from_file_location(f"custom_transformer_{name}", PROJECT / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load("train"), load("evaluate")


def arguments(place: Path, runs: Path, *more: str) -> list[str]:
    given = {word.partition("=")[0]: word for word in (*TINY, f"data.dataset={place / 'corpus.jsonl'}")}
    given["training.output_dir"] = f"training.output_dir={runs}"
    given.update({word.partition("=")[0]: word for word in more if not word.startswith("-")})
    return [*(word for word in more if word.startswith("-")), *given.values()]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_two_settings_files_are_valid() -> None:
    default, preset = load_config(PROJECT / "config.yaml"), load_config(PROJECT / "tiny_textbooks.yaml")
    assert default.data.dataset == "python-docs"
    m, d, t = preset.model, preset.data, preset.training
    assert (m.d_model, m.n_blocks, m.n_heads, m.d_ffn, d.max_length) == (256, 4, 4, 512, 256)
    assert (t.batch_size, t.learning_rate, t.num_epochs, t.eval_every) == (8, 0.001, 5, 500)
    assert (d.dataset, d.text_column, d.subset_size) == ("nampdn-ai/tiny-textbooks", "textbook", 5000)
    assert d.use_subset and preset.tokenizer.type == "gpt2"


def test_train_then_evaluate(place: Path, tmp_path: Path, programs: Any, capsys: Any) -> None:
    train, evaluate = programs
    assert train.main(arguments(place, tmp_path, "--name=first")) == 0
    run = tmp_path / "first"
    shown = capsys.readouterr().out
    for wanted in [
        "corpus.jsonl",
        "step 12/12",
        "validation loss",
        "3-gram of characters",
        "(best)",
        "bits/byte",
    ]:
        assert wanted in shown
    assert files(run) == [
        *("checkpoints", "config.yaml", "history.jsonl", "loss_curve.png"),
        *("results.json", "sample_after.txt", "sample_before.txt"),
    ]
    assert (run / "loss_curve.png").read_bytes().startswith(b"\x89PNG")
    assert load_config(run / "config.yaml").training.max_steps == 12
    assert [r["step"] for r in read_history(run / "history.jsonl") if r["event"] == "evaluation"] == [6, 12]
    results = json.loads((run / "results.json").read_text())
    assert results["steps"] == 12 and set(results["ngram_bits_per_byte"]) == {"3", "4", "5", "6"}
    assert 0 < results["validation"]["bits_per_byte"] < 10

    assert evaluate.main(["--checkpoint", str(run), "--split", "validation", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["loss"] == pytest.approx(results["validation"]["loss"], rel=1e-6)
    assert figures["bits_per_byte"] == pytest.approx(results["validation"]["bits_per_byte"], rel=1e-6)
    newest = list_checkpoints(run / "checkpoints")[0]
    assert evaluate.main(["--checkpoint", str(newest), "--ngrams"]) == 0
    assert "the best character n-gram" in capsys.readouterr().out
    writing = [
        "--checkpoint",
        str(run),
        "--generate",
        "--prompt",
        "the model",
        "--max-new-tokens",
        "5",
        "--seed",
        "1",
    ]
    assert evaluate.main(writing) == 0
    first = capsys.readouterr().out
    assert first.startswith("the model") and len(first) > len("the model\n")
    evaluate.main(writing)
    assert capsys.readouterr().out == first


def test_a_run_with_the_same_seed_is_the_same_run(place: Path, tmp_path: Path, programs: Any) -> None:
    train, _ = programs
    for name in ("one", "two"):
        assert train.main(arguments(place, tmp_path, f"--name={name}", "training.max_steps=4")) == 0
    one, two = (load_checkpoint(tmp_path / name / "checkpoints").arrays["model"] for name in ("one", "two"))
    assert all(one[name].tobytes() == two[name].tobytes() for name in one)


# Runs a program that gets SIGINT, as from Ctrl-C, when step 8 has been recorded: on no clock but its own.
INTERRUPTED_AT_8 = """
import os, runpy, signal, sys
from tinygrad_edu.training.history import JsonlHistory
record = JsonlHistory.on_record
def on_record(self, event):
    record(self, event)
    if event["step"] == 8:
        os.kill(os.getpid(), signal.SIGINT)
JsonlHistory.on_record = on_record
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_then_the_command_that_is_printed(place: Path, tmp_path: Path) -> None:
    """A run stopped by SIGINT and gone on with by the printed command equals one that was left alone."""

    def run(name: str, *python: str) -> subprocess.CompletedProcess[str]:
        overrides = arguments(place, tmp_path, f"--name={name}", "training.max_steps=30")
        command = [sys.executable, *python, str(PROJECT / "train.py"), *overrides]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)

    stopped = run("stopped", "-c", INTERRUPTED_AT_8)
    out = stopped.stdout
    assert stopped.returncode == 130, out + stopped.stderr
    assert "Stopping after this step" in stopped.stderr and "a checkpoint is saved" in out
    assert load_checkpoint(tmp_path / "stopped" / "checkpoints").step in (8, 9)  # the step at hand ends
    command = next(line.strip() for line in out.splitlines() if "--resume" in line)
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search("^resumed .*[89] steps are done", done.stdout, flags=re.MULTILINE)

    whole = run("whole")
    assert whole.returncode == 0, whole.stderr
    a, b = (load_checkpoint(tmp_path / name / "checkpoints") for name in ("stopped", "whole"))
    for group in ("model", "optimizer"):
        assert all(a.arrays[group][n].tobytes() == array.tobytes() for n, array in b.arrays[group].items())


def test_resume_takes_the_newest_run(place: Path, tmp_path: Path, programs: Any, capsys: Any) -> None:
    train, _ = programs
    for name in ("old", "new"):
        assert train.main(arguments(place, tmp_path, f"--name={name}", "training.max_steps=4")) == 0
    capsys.readouterr()
    assert train.main(["--resume", f"training.output_dir={tmp_path}"]) == 0
    out = capsys.readouterr().out
    assert "4 steps are done" in out and str(tmp_path / "new") in out
    assert train.main(["--resume", str(tmp_path / "old"), "training.max_steps=6"]) == 1
    assert "training.max_steps: 4 before, 6 now" in capsys.readouterr().err
    assert train.main(["--resume", str(tmp_path / "old"), "--accept-changes", "training.max_steps=6"]) == 0
    captured = capsys.readouterr()
    assert "warning: the resumed run may differ in its last bits" in captured.err
    assert load_checkpoint(tmp_path / "old" / "checkpoints").step == 6
    assert load_config(tmp_path / "old" / "config.yaml").training.max_steps == 6


def test_a_damaged_newest_checkpoint_is_passed_over(place: Path, tmp_path: Path, programs: Any, capsys: Any) -> None:
    train, _ = programs
    assert train.main(arguments(place, tmp_path, "--name=run", "training.save_every=3")) == 0
    newest = list_checkpoints(tmp_path / "run" / "checkpoints")[0]
    with (newest / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    capsys.readouterr()
    assert train.main(["--resume", str(tmp_path / "run")]) == 0
    captured = capsys.readouterr()
    assert "because this cannot be used" in captured.err and "model.safetensors: 1,000 bytes long" in captured.err
    assert "steps are done" in captured.out


# -- what users get wrong --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["training.max_step=3"], 2, "unknown key 'training.max_step'. Did you mean 'training.max_steps'?"),
        (["max_steps=3", "training.seed=x"], 2, "2 mistakes in the configuration"),
        (["--config", "no.yaml"], 2, "no.yaml: no such config file"),
        (["data.dataset=no.txt"], 1, "no.txt"),
        (["tokenizer.vocab_size=10"], 2, "found 10, wanted at least 257"),
        (["--name", "../evil"], 2, "run name: '../evil', wanted letters, digits"),
        (["--resume", "nowhere"], 2, "--resume: nowhere is no folder"),
        (["--resume"], 2, "nothing to resume"),
    ],
)
def test_mistakes(
    place: Path, tmp_path: Path, programs: Any, capsys: Any, words: list[str], status: int, message: str
) -> None:
    train, _ = programs
    runs = tmp_path / "runs"
    assert train.main([*words, f"training.output_dir={runs}"]) == status
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not runs.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["steps"], "unknown argument 'steps'; settings are given as key=value"),
        (["--accept-changes"], "--accept-changes is for --resume"),
        (["--resume", "x", "--config", "y"], "cannot be combined with --config or --name"),
        (["--bogus"], "unrecognized arguments: --bogus"),
    ],
)
def test_wrong_arguments(programs: Any, capsys: Any, words: list[str], message: str) -> None:
    train, _ = programs
    with pytest.raises(SystemExit) as caught:
        train.main(words)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_settings_may_stand_on_either_side_of_an_option(place: Path, tmp_path: Path, programs: Any) -> None:
    train, _ = programs
    first, *others = arguments(place, tmp_path, "training.max_steps=2")
    assert train.main([first, "--name", "mixed", *others]) == 0
    saved = (tmp_path / "mixed" / "config.yaml").read_text()
    assert "max_steps: 2" in saved and str(tmp_path) in saved


def test_output_folders_that_cannot_be_used(place: Path, tmp_path: Path, programs: Any, capsys: Any) -> None:
    train, _ = programs

    def attempt(runs: Path, *more: str) -> str:
        assert train.main(arguments(place, runs, *more)) == 2
        error: str = capsys.readouterr().err
        return error

    (tmp_path / "file").write_text("")
    assert "file is a file, wanted a folder" in attempt(tmp_path / "file")
    assert "nothing can be written to" in attempt(tmp_path / "file" / "below")
    (tmp_path / "runs" / "taken").mkdir(parents=True)
    (tmp_path / "runs" / "taken" / "thesis.tex").write_text("precious")
    error = attempt(tmp_path / "runs", "--name=taken")
    assert "taken is not empty; choose another name, or --resume" in error
    assert files(tmp_path / "runs" / "taken") == ["thesis.tex"]
    if os.name != "nt":
        (tmp_path / "link").symlink_to(tmp_path / "runs")
        assert "link is a symbolic link to" in attempt(tmp_path / "link")
    assert files(tmp_path / "runs") == ["taken"]


def test_evaluate_mistakes(place: Path, tmp_path: Path, programs: Any, capsys: Any) -> None:
    train, evaluate = programs
    assert evaluate.main(["--checkpoint", str(tmp_path / "none")]) == 1
    assert "none: does not exist; wanted a checkpoint" in capsys.readouterr().err
    assert train.main(arguments(place, tmp_path, "--name=run", "training.max_steps=2")) == 0
    run = str(tmp_path / "run")
    capsys.readouterr()
    for words, status, message in [
        (["--generate", "--temperature", "-1"], 2, "temperature must be a finite number >= 0"),
        (["--generate", "--prompt", "word " * 99], 1, "wanted fewer than the model's max_seq_len 32"),
        (["--generate", "--top-p", "2"], 2, "top_p must be in (0, 1]"),
        (["--stride", "32"], 2, "stride: 32, wanted at most 31"),
    ]:
        assert evaluate.main(["--checkpoint", run, *words]) == status
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        evaluate.main(["--checkpoint", run, "--prompt", "x"])
    assert "--prompt is for --generate" in capsys.readouterr().err
    for words in (["--json"], ["--ngrams"], ["--stride", "8"]):
        with pytest.raises(SystemExit):
            evaluate.main(["--checkpoint", run, "--generate", *words])
        assert "are for evaluating; --generate prints text alone" in capsys.readouterr().err


def test_evaluating_on_another_text_is_warned_of(place: Path, tmp_path: Path, programs: Any, capsys: Any) -> None:
    train, evaluate = programs
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_bytes((place / "corpus.jsonl").read_bytes())
    words = arguments(place, tmp_path, "--name=run", "training.max_steps=2", f"data.dataset={corpus}")
    assert train.main(words) == 0
    corpus.write_text(corpus.read_text() + '{"text": "a new line"}\n')
    assert evaluate.main(["--checkpoint", str(tmp_path / "run")]) == 0
    assert "is not the text the model was trained on" in capsys.readouterr().err
