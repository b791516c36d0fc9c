"""Run folders, samples, tables, programs, and the picture of the loss."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from tinygrad_edu.data import train_bpe
from tinygrad_edu.errors import ConfigError, DataError, ShapeError
from tinygrad_edu.metrics import LanguageScore
from tinygrad_edu.models import CustomTransformerConfig, CustomTransformerWrapper
from tinygrad_edu.storage import save_checkpoint
from tinygrad_edu.training import progress
from tinygrad_edu.training.callbacks import StepReport
from tinygrad_edu.training.program import run_program
from tinygrad_edu.training.progress import format_seconds
from tinygrad_edu.training.report import generate_text, score_table, verdict
from tinygrad_edu.training.run_folder import (
    checkpoints_of,
    create_run_folder,
    discard_run_folder,
    newest_run,
    run_folder_of,
)

# -- run folders -----------------------------------------------------------------------------------


def test_each_run_has_a_new_folder(tmp_path: Path) -> None:
    folders = {create_run_folder(tmp_path / "a" / "runs") for _ in range(5)}
    assert len(folders) == 5
    assert all(folder.is_dir() and not list(folder.iterdir()) for folder in folders)
    assert create_run_folder(tmp_path / "a" / "runs", "mine").name == "mine"
    assert create_run_folder(tmp_path / "a" / "runs", "mine").name == "mine"  # still empty
    assert len(list((tmp_path / "a" / "runs").iterdir())) == 6  # and no probe is left


def test_a_run_in_which_nothing_came_about_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    first = create_run_folder(tmp_path / "mine" / "a" / "runs")
    second = create_run_folder(tmp_path / "mine" / "a" / "runs", "second")
    (first / "config.yaml").write_text("")
    discard_run_folder(first)  # the folders above were made for it, but the second run is in them
    assert [path.name for path in (tmp_path / "mine" / "a" / "runs").iterdir()] == ["second"]
    discard_run_folder(second)
    discard_run_folder(create_run_folder(tmp_path / "mine" / "b" / "runs", "third"))
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["a"]  # the second did not make a/runs
    discard_run_folder(create_run_folder(tmp_path / "mine", "fourth"))
    assert (tmp_path / "mine").is_dir()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", ".hidden", "x" * 101, "a\n"])
def test_names_of_runs_are_plain(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="run name: "):
        create_run_folder(tmp_path / "runs", name)
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(os.name == "nt", reason="links need privileges on Windows")
def test_links_are_refused_dangling_ones_too(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"training.output_dir: .*link is a symbolic link to .*nowhere"):
        create_run_folder(tmp_path / "link")
    (tmp_path / "run").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match=r"run folder: .*run is a symbolic link"):
        create_run_folder(tmp_path, "run")
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(self: Path, data: bytes) -> int:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "write_bytes", read_only)
    with pytest.raises(ConfigError, match=r"nothing can be written to .*: Read-only file system"):
        create_run_folder(tmp_path / "runs")


def test_the_newest_run_is_that_of_the_youngest_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to resume: .* holds no run with a checkpoint"):
        newest_run(tmp_path / "none")
    for age, name in enumerate(["a", "c", "b"]):
        checkpoint = save_checkpoint(tmp_path / name / "checkpoints", 1, {})
        os.utime(checkpoint, (1000 + age, 1000 + age))
    (tmp_path / "d" / "checkpoints").mkdir(parents=True)
    assert newest_run(tmp_path).name == "b"
    assert checkpoints_of(tmp_path / "b") == tmp_path / "b" / "checkpoints"
    assert checkpoints_of(tmp_path / "b" / "checkpoints") == tmp_path / "b" / "checkpoints"
    assert run_folder_of(tmp_path / "b" / "checkpoints" / "0001-step-1") == (tmp_path / "b").resolve()


# -- programs --------------------------------------------------------------------------------------


def test_errors_of_the_library_become_sentences(capsys: Any) -> None:
    def failing(error: BaseException) -> Any:
        def work() -> int:
            raise error

        return work

    assert run_program(lambda: 7) == 7
    assert run_program(failing(ConfigError("a [bold]setting[/bold]"))) == 2
    assert run_program(failing(DataError("a file"))) == 1
    assert run_program(failing(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err.startswith("error: a [bold]setting[/bold]\nerror: a file\n\nQuit at once.")
    with pytest.raises(ZeroDivisionError):
        run_program(failing(ZeroDivisionError()))


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (59.4, "59s"), (59.6, "1:00"), (125, "2:05"), (3725, "1:02:05")]
)
def test_format_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_time_left_leaves_out_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 60.0, 61.0, 62.0])  # the kernels compile in the first step
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(clock))
    bar = progress.ProgressBar(Console(file=io.StringIO()))
    bar.on_start(SimpleNamespace(total_steps=10, unit="tokens", state=SimpleNamespace(step=4)))  # resumed
    for step in (5, 6, 7):
        bar.on_step(StepReport(step, 1.0, 1.0, 0.1, 64, 1.0))
    lines = bar.console.file.getvalue().splitlines()
    assert ["left" in line for line in lines] == [False]  # a line every ten seconds
    assert bar._time_left(8, 63.0) == "  2s left"


# -- samples and tables ----------------------------------------------------------------------------


def test_generate_text() -> None:
    tokenizer = train_bpe(["a text to learn from, and another text"], 270)
    model = CustomTransformerWrapper(
        CustomTransformerConfig(tokenizer.vocab_size, max_seq_len=20, n_blocks=1, n_heads=2, d_model=8, d_ffn=8)
    )
    one = generate_text(model, tokenizer, "a text", max_new_tokens=500, seed=3)
    assert one.startswith("a text") and one == generate_text(model, tokenizer, "a text", max_new_tokens=500, seed=3)
    assert one != generate_text(model, tokenizer, "a text", max_new_tokens=500, seed=4)
    assert generate_text(model, tokenizer, "", max_new_tokens=5, seed=0) is not None
    with pytest.raises(ShapeError, match="prompt: 101 tokens, wanted fewer than the model's max_seq_len 20"):
        generate_text(model, tokenizer, "z" * 100, max_new_tokens=5)


def test_the_table_and_its_verdict() -> None:
    from rich.console import Console

    score = LanguageScore(total_nll=200.0, n_tokens=100, n_correct=50, n_bytes=200)
    table = score_table({"validation": score}, {3: 2.5, 4: 1.25}, "Title")
    console = Console(width=80, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(table)
    console.file.close()
    text = console.export_text()
    for wanted in ["validation", "2.0000", "7.39", "50.0%", "1.443", "4-gram of characters (best)", "1.250"]:
        assert wanted in text
    assert verdict(score, {3: 2.5, 4: 1.25}) == (
        "The model does not beat the best character n-gram, of order 4: 1.443 bits per byte against 1.250."
    )
    assert verdict(score, {3: 2.5, 4: 1.5}).startswith("The model beats the best character n-gram, of order 4: 1.443")


def test_heavy_packages_load_late() -> None:
    code = (
        "import sys, tinygrad_edu.training, tinygrad_edu.viz\n"
        "heavy = ('matplotlib', 'datasets', 'tokenizers', 'rich', 'torch', 'safetensors', 'yaml')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
