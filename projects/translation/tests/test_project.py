"""The two programs: from the first step to a resumed run and a translated line, and what users get wrong."""

from __future__ import annotations

import json
import os
import re
import runpy
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tinygrad_edu.storage import list_checkpoints, load_checkpoint
from tinygrad_edu.training import FoundryConfig, load_config
from tinygrad_edu.training.history import JsonlHistory, read_history

pytest.importorskip("sacrebleu")

PROJECT = Path(__file__).resolve().parents[1]
TINY = [
    *("model.transformer.d_model=32", "model.transformer.n_blocks=1", "model.transformer.d_ffn=64"),
    *("data.task_size=400", "training.max_steps=24", "training.eval_every=8", "training.save_every=8"),
    *("training.batch_size=16", "training.warmup_steps=null"),
]


@pytest.fixture(scope="module")
def programs() -> tuple[Any, Any]:
    found = [runpy.run_path(str(PROJECT / name), run_name=name) for name in ("train.py", "evaluate.py")]
    train, evaluate = (SimpleNamespace(main=module["main"]) for module in found)
    return train, evaluate


def arguments(folder: Path, *more: str) -> list[str]:
    given = {word.partition("=")[0]: word for word in (*TINY, f"training.output_dir={folder}")}
    given.update({word.partition("=")[0]: word for word in more if not word.startswith("-")})
    return [*(word for word in more if word.startswith("-")), *given.values()]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["config.yaml", "dates.yaml"])
def test_the_settings_files_are_valid(name: str) -> None:
    config = load_config(PROJECT / name, schema=FoundryConfig)
    assert config.training.objective == "translation" and config.data.task == {"c": "numbers", "d": "dates"}[name[0]]


def test_train_then_evaluate_and_translate(tmp_path: Path, programs: Any, capsys: Any) -> None:
    train, evaluate = programs
    assert train.main(arguments(tmp_path, "--name=run")) == 0
    run, shown = tmp_path / "run", capsys.readouterr().out
    for wanted in (
        "numbers: 360 to train on, 20 for validation, 20 for testing",
        "step 24/24",
        "exact match",
        "On the 20 pairs held out for testing",
        "greedy",
        "4 beams",
        "BLEU",
        "Mistakes of the greedy translations",
    ):
        assert wanted in shown
    assert files(run) == [
        *("attention.png", "checkpoints", "config.yaml", "history.jsonl", "loss_curve.png", "mistakes.txt"),
        *("results.json", "sample_after.txt", "sample_before.txt"),
    ]
    for picture in ("attention.png", "loss_curve.png"):
        assert (run / picture).read_bytes().startswith(b"\x89PNG")
    records = read_history(run / "history.jsonl")
    evaluations = [record for record in records if record["event"] == "evaluation"]
    assert [record["step"] for record in evaluations] == [8, 16, 24]
    assert evaluations[-1]["loss"] < evaluations[0]["loss"]
    assert all(0 <= record["exact_match"] <= 1 for record in evaluations)
    results = json.loads((run / "results.json").read_text())
    assert results["steps"] == 24 and results["test"]["pairs"] == 20
    assert results["test"].keys() == {"loss", "perplexity", "accuracy", "pairs", "greedy", "4 beams"}
    mistakes = (run / "mistakes.txt").read_text().count("wanted ")
    assert results["test"]["greedy"]["exact_match"] == pytest.approx(1 - mistakes / 20)

    for source in (run, list_checkpoints(run / "checkpoints")[0]):
        assert evaluate.main(["--checkpoint", str(source), "--json"]) == 0
        figures = json.loads(capsys.readouterr().out)
        assert figures["loss"] == pytest.approx(results["test"]["loss"], rel=1e-6)
        assert figures["4 beams"] == results["test"]["4 beams"]
    assert evaluate.main(["--checkpoint", str(run), "--split", "validation", "--num-beams", "2"]) == 0
    assert "2 beams" in capsys.readouterr().out
    picture = tmp_path / "look.svg"
    words = ["--checkpoint", str(run), "--translate", "1,234", "56"]
    assert evaluate.main([*words, "--attention", str(picture)]) == 0
    greedy = capsys.readouterr().out.splitlines()
    assert len(greedy) == 2 and "<svg" in picture.read_text()
    assert evaluate.main([*words, "--num-beams", "3", "--length-penalty", "0"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_the_commands_of_the_library_do_the_same(tmp_path: Path, programs: Any, capsys: Any) -> None:
    from tinygrad_edu.training.jobs import evaluate_program, generate_program

    train, evaluate = programs
    assert train.main(arguments(tmp_path, "--name=run", "data.task=dates", "training.max_steps=2")) == 0
    run = ["--checkpoint", str(tmp_path / "run")]
    capsys.readouterr()
    assert evaluate.main([*run, "--json"]) == 0
    ours = capsys.readouterr().out
    assert evaluate_program([*run, "--json"], description="") == 0
    assert capsys.readouterr().out == ours
    assert evaluate.main([*run, "--translate", "5 March 2021"]) == 0
    ours = capsys.readouterr().out
    assert generate_program([*run, "--prompt", "5 March 2021"], description="") == 0
    assert capsys.readouterr().out == ours
    for words, message in (
        (["--ngrams"], "--ngrams and --stride are for language models; this one translates"),
        (["--generate"], "give --prompt with the text that is to be translated"),
    ):
        assert evaluate_program([*run, *words], description="") == 2
        assert message in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_then_resume_is_as_if_nothing_had_been(
    tmp_path: Path, programs: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, _ = programs
    on_record: Callable[..., None] = JsonlHistory.on_record

    def interrupt(self: Any, record: Any) -> None:
        on_record(self, record)
        if record["event"] == "train" and record["step"] == 11:
            os.kill(os.getpid(), signal.SIGINT)

    every = ("training.log_every=1", "model.dropout=0.1")
    monkeypatch.setattr(JsonlHistory, "on_record", interrupt)
    assert train.main(arguments(tmp_path, "--name=stopped", *every)) == 130
    monkeypatch.undo()
    shown = capsys.readouterr().out
    assert "a checkpoint is saved" in shown and f"--resume {tmp_path / 'stopped'}" in shown
    assert load_checkpoint(tmp_path / "stopped" / "checkpoints").step == 11
    assert train.main(["--resume", str(tmp_path / "stopped")]) == 0
    assert re.search("^resumed .*11 steps are done", capsys.readouterr().out, flags=re.MULTILINE)
    assert train.main(arguments(tmp_path, "--name=whole", *every)) == 0
    a, b = (load_checkpoint(tmp_path / name / "checkpoints") for name in ("stopped", "whole"))
    for group in ("model", "optimizer"):
        assert all(a.arrays[group][n].tobytes() == array.tobytes() for n, array in b.arrays[group].items())
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("stopped", "whole")]
    assert results[0]["test"] == results[1]["test"]


def test_two_files_of_ones_own(tmp_path: Path, programs: Any, capsys: Any) -> None:
    train, evaluate = programs
    source, target = tmp_path / "a.txt", tmp_path / "b.txt"
    source.write_text("".join(f"das Haus {n}\n" for n in range(80)))
    target.write_text("".join(f"the house {n}\n" for n in range(80)))
    own = ["data.task=null", f"data.src_path={source}", f"data.tgt_path={target}", "training.max_steps=3"]
    assert train.main(arguments(tmp_path / "runs", "--name=own", *own)) == 0
    assert "72 to train on, 4 for validation, 4 for testing" in capsys.readouterr().out
    target.write_text(target.read_text().replace("house 7", "home 7"))
    assert evaluate.main(["--checkpoint", str(tmp_path / "runs" / "own")]) == 0
    assert "these are not the pairs the model was trained on" in capsys.readouterr().err


# -- what users get wrong ------------------------------------------------------------------------------


def test_mistakes(tmp_path: Path, programs: Any, capsys: Any) -> None:
    train, _ = programs
    runs, one, two, empty = (tmp_path / name for name in ("runs", "one.txt", "two.txt", "empty.txt"))
    one.write_text("a\nb\nc\n")
    two.write_text("x\ny\n")
    empty.write_text("")
    paths = ["data.task=null", f"data.src_path={one}"]
    for words, status, message in (
        (["data.task=poems"], 2, "task: 'poems' is unknown; wanted numbers (digits to English words), dates"),
        (["data.task=null"], 2, "translation wants pairs: give data.src_path and data.tgt_path, or data.task"),
        ([*paths], 2, "src_path and tgt_path belong together"),
        ([*paths, f"data.tgt_path={two}"], 1, "one.txt has 3 lines"),
        ([*paths, f"data.tgt_path={empty}"], 1, "no examples in"),
        ([*paths, f"data.tgt_path={tmp_path / 'none.txt'}"], 1, "none.txt"),
        (["tokenizer.vocab_size=259"], 2, "259; wanted an integer of at least 260"),
        (["data.max_length=2"], 1, "data.max_length 2 tokens long on both sides; make it larger"),
        (["training.objective=causal_lm"], 2, "causal_lm is not for seq2seq"),
    ):
        size = "data.task_size=400"
        assert train.main([*words, size, f"training.output_dir={runs}"]) == status
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error
        assert not runs.exists() or files(runs) == []


def test_wrong_arguments_of_evaluate(tmp_path: Path, programs: Any, capsys: Any) -> None:
    train, evaluate = programs
    assert train.main(arguments(tmp_path, "--name=run", "training.max_steps=1")) == 0
    run = ["--checkpoint", str(tmp_path / "run")]
    capsys.readouterr()
    for words, status, message in (
        (["--translate", ""], 1, "text 0: 0 tokens, wanted 1 to the model's max_seq_len 32"),
        (["--translate", "7 " * 40], 1, "wanted 1 to the model's max_seq_len 32"),
        (["--translate", "7", "--length-penalty", "nan", "--num-beams", "2"], 2, "length_penalty must be a finite"),
        (["--translate", "7", "--attention", str(tmp_path / "a.xyz")], 1, "cannot be drawn"),
    ):
        assert evaluate.main([*run, *words]) == status
        assert message in capsys.readouterr().err
    for words, message in (
        (["--num-beams", "0"], "--num-beams: 0, wanted at least 1"),
        (["--attention", "a.png"], "--attention is for --translate"),
        (["--translate", "7", "--json"], "--json is for measuring"),
    ):
        with pytest.raises(SystemExit):
            evaluate.main([*run, *words])
        assert message in capsys.readouterr().err


# -- the whole thing -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["config.yaml", "dates.yaml"])
def test_at_least_95_of_100_held_out_pairs_are_exactly_right(name: str, tmp_path: Path, programs: Any) -> None:
    train, _ = programs
    assert train.main(["--config", str(PROJECT / name), "--name=run", f"training.output_dir={tmp_path}"]) == 0
    test = json.loads((tmp_path / "run" / "results.json").read_text())["test"]
    assert test["pairs"] == 1000
    assert test["greedy"]["exact_match"] >= 0.95
    assert test["4 beams"]["exact_match"] >= 0.95
