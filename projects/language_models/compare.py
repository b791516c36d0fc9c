"""Train every architecture for the same time at about the same number of parameters, and compare them.

    python projects/language_models/compare.py [--seconds 90] [--only gpt2 lstm ...] [--output runs/comparison]

For each config in configs/, first a few seconds show how many steps fit into the time, so that the learning rate
comes to its end when the time does; then train.py runs in a process of its own. Written are comparison.json,
comparison.png and the run folders.
"""

from __future__ import annotations

import tinygrad_edu as tg  # first: it settles the thread pools before NumPy loads

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tinygrad_edu.errors import ConfigError, TinygradEduError
from tinygrad_edu.storage import encode_json, write_atomic
from tinygrad_edu.training import FoundryConfig, load_config
from tinygrad_edu.training.history import read_history
from tinygrad_edu.training.jobs import job_class
from tinygrad_edu.training.program import run_program
from tinygrad_edu.training.run_folder import create_run_folder
from tinygrad_edu.viz import plot_comparison

HERE = Path(__file__).resolve().parent
CONFIGS = HERE / "configs"
CALIBRATION_SECONDS = 8.0
_NEVER = ["training.eval_every=null", "training.save_every=null"]

console = Console()


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    names = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    parser = argparse.ArgumentParser(description="Train every architecture for the same time, and compare them.")
    parser.add_argument("--seconds", type=float, default=90.0, help="of training for each; default: 90")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=names, help=f"some of {', '.join(names)}")
    parser.add_argument("--output", default="runs/comparison", help="where its folder goes; default: runs/comparison")
    parser.add_argument("--name", help="of the folder; default: date and time")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings for all of them")
    args = parser.parse_args(argv)
    if not args.seconds > 0:
        parser.error(f"--seconds: {args.seconds}, wanted more than 0")
    for word in args.overrides:
        if "=" not in word:
            parser.error(f"unknown argument {word!r}; settings are given as key=value, such as training.seed=1")
    args.names = args.only or names
    return args


def steps_within(seconds: float, config_file: Path, overrides: list[str]) -> int:
    """How many steps fit into `seconds`, from a few seconds of training."""
    limit = min(CALIBRATION_SECONDS, seconds)
    of_length = ("training.max_steps=", "training.warmup_steps=")
    kept = [word for word in overrides if not word.startswith(of_length)] + ["training.warmup_steps=0"]
    with tempfile.TemporaryDirectory() as folder:
        for length in (["training.max_steps=3"], ["training.max_steps=1000000", f"training.max_seconds={limit}"]):
            words = [*kept, *_NEVER, *length]  # the first three load the kernels
            config = load_config(config_file, words, FoundryConfig)
            job = job_class(config)(config, Path(folder), Console(file=io.StringIO()))
            with tg.use(config.training.device):
                job.trainer.fit()
    return max(10, int(job.trainer.state.step / job.trainer.state.seconds * seconds))


def run(name: str, folder: Path, seconds: float, overrides: list[str]) -> dict[str, Any]:
    """Train one architecture in a process of its own; its figures."""
    file = CONFIGS / f"{name}.yaml"
    steps = steps_within(seconds, file, overrides)
    console.rule(f"{name}: {steps:,} steps in {seconds:g} s")
    words = [f"training.max_steps={steps}", f"training.eval_every={max(1, steps // 10)}", "training.save_every=null"]
    words += [f"training.output_dir={folder}", *overrides]
    if not any(word.startswith("training.eval_batches=") for word in overrides):
        words.append("training.eval_batches=null")  # all of the text, so that the curve ends at the table's figure
    command = [sys.executable, str(HERE / "train.py"), "--config", str(file), "--name", name, *words]
    process = subprocess.Popen(command)
    peak = None
    if hasattr(os, "wait4"):  # the memory of this child alone; Windows has no such call
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    if process.wait():
        raise ConfigError(f"{name}: train.py ended with status {process.returncode}; what it said stands above")
    results: dict[str, Any] = json.loads((folder / name / "results.json").read_text(encoding="utf-8"))
    return {**results, "peak_memory_bytes": peak}


def curve(folder: Path) -> list[tuple[float, float]]:
    """Seconds of training and bits per byte at each evaluation."""
    points, seconds = [], 0.0
    for record in read_history(folder / "history.jsonl"):
        seconds = record.get("seconds", seconds) if record["event"] == "train" else seconds
        if record["event"] == "evaluation" and record.get("bits_per_byte"):
            points.append((seconds, record["bits_per_byte"]))
    return points


def table(results: dict[str, dict[str, Any]], seconds: float) -> Table:
    """One row an architecture, best first, and the n-grams of characters below."""
    shown = Table(title=f"{seconds:g} s of training each", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    shown.add_column("", no_wrap=True)
    for column in ("bits/byte", "perplexity", "parameters", "s", "tokens/s", "MiB"):  # 80 columns
        shown.add_column(column, justify="right", no_wrap=True)
    ordered = sorted(results.items(), key=lambda item: item[1]["validation"]["bits_per_byte"])
    for masked in (False, True):
        for name, r in ordered:
            if (r["objective"] == "masked_lm") is not masked:
                continue
            memory = "" if r["peak_memory_bytes"] is None else f"{r['peak_memory_bytes'] / 2**20:,.0f}"
            figures = f"{r['validation']['bits_per_byte']:.3f}", f"{r['validation']['perplexity']:.2f}"
            shown.add_row(
                f"{name} (masked)" if masked else name,
                *figures,
                f"{r['parameters']:,}",
                f"{r['training_seconds']:.1f}",
                f"{r['tokens_per_second']:,.0f}",
                memory,
            )
        shown.add_section()
    ngrams = next(iter(results.values()))["ngram_bits_per_byte"]
    for order, bits in ngrams.items():
        best = " (best)" if bits == min(ngrams.values()) else ""
        shown.add_row(f"{order}-gram{best}", f"{bits:.3f}", "", "", "", "", "")
    return shown


def compare(args: argparse.Namespace) -> int:
    for name in args.names:  # all mistakes before minutes are spent
        load_config(CONFIGS / f"{name}.yaml", args.overrides, FoundryConfig)
    folder = create_run_folder(args.output, args.name)
    results: dict[str, dict[str, Any]] = {}
    for name in args.names:
        try:
            results[name] = run(name, folder, args.seconds, args.overrides)
        except TinygradEduError as error:
            raise type(error)(f"{error} ({len(results)} of {len(args.names)} are done, in {folder})") from error
    plain = {"seconds": args.seconds, "results": results}
    write_atomic(folder / "comparison.json", encode_json(plain, "comparison"))
    ngrams = next(iter(results.values()))["ngram_bits_per_byte"]
    plot_comparison(
        {name: curve(folder / name) for name in results},
        folder / "comparison.png",
        baseline=(f"best character n-gram, {min(ngrams.values()):.3f}", min(ngrams.values())),
        dashed=[name for name, r in results.items() if r["objective"] == "masked_lm"],
        title=f"{args.seconds:g} s of training each",
    )
    console.print(table(results, args.seconds))
    if any(r["objective"] == "masked_lm" for r in results.values()):
        console.print(
            "Masked models are scored by their pseudo-perplexity: they see both sides of each token, which is an "
            "easier question, so their figures stand apart.",
            markup=False,
            soft_wrap=True,
        )
    console.print(f"Everything is in {folder}", markup=False, soft_wrap=True)
    return 0


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    return run_program(lambda: compare(args))


if __name__ == "__main__":
    sys.exit(main())
