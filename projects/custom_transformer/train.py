"""Train a small transformer on real English text.

    python projects/custom_transformer/train.py [--config F] [--resume [RUN]] [key=value ...]

A run writes a folder of its own: config.yaml, history.jsonl, loss_curve.png, checkpoints/,
sample_before.txt, sample_after.txt, results.json. Ctrl-C saves a checkpoint and says how to go on.
"""

from __future__ import annotations

import tinygrad_edu as tg  # first: it settles the thread pools before NumPy loads

import argparse
import math
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from tinygrad_edu.data import TokenLoader
from tinygrad_edu.errors import ConfigError
from tinygrad_edu.metrics import LanguageScore, ngram_bits_per_byte
from tinygrad_edu.models import CustomTransformerWrapper
from tinygrad_edu.training.assembly import TextData, build_model, prepare_data
from tinygrad_edu.storage import list_checkpoints, load_checkpoint
from tinygrad_edu.training.config import RunConfig, dump_config, load_config
from tinygrad_edu.training.evaluation import evaluate_language_model
from tinygrad_edu.training.history import JsonlHistory, read_history
from tinygrad_edu.training.program import INTERRUPTED, run_program
from tinygrad_edu.training.progress import ProgressBar, format_seconds
from tinygrad_edu.training.report import generate_text, score_figures, score_table, verdict
from tinygrad_edu.training.run_folder import (
    CHECKPOINTS,
    checkpoints_of,
    create_run_folder,
    newest_run,
    run_folder_of,
)
from tinygrad_edu.storage import encode_json, write_atomic
from tinygrad_edu.training.trainer import Trainer
from tinygrad_edu.viz import plot_history

HERE = Path(__file__).resolve().parent
NGRAM_ORDERS = (3, 4, 5, 6)

Evaluator = Callable[..., LanguageScore]

console = Console()


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train a small transformer on real English text.",
        epilog="Settings are overridden as key=value, for example: training.max_steps=100 model.d_model=64",
    )
    parser.add_argument("--config", metavar="FILE", help="settings (default: config.yaml beside this program)")
    parser.add_argument("--name", help="name of the run folder (default: date and time)")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="RUN",
        help="go on with a run folder or checkpoint (default: the newest)",
    )
    parser.add_argument(
        "--accept-changes",
        action="store_true",
        help="resume although settings or data differ from the checkpoint's",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that override the file's")
    args = parser.parse_args(argv)
    if args.resume and "=" in args.resume and not Path(args.resume).exists():  # --resume key=value
        args.overrides.insert(0, args.resume)
        args.resume = ""
    for word in args.overrides:
        if "=" not in word:
            parser.error(f"unknown argument {word!r}; settings are given as key=value, such as training.max_steps=100")
    if args.resume is not None and (args.config or args.name):
        parser.error("--resume takes its settings from the run; it cannot be combined with --config or --name")
    if args.resume is None and args.accept_changes:
        parser.error("--accept-changes is for --resume")
    return args


def settle_folder(args: argparse.Namespace) -> tuple[RunConfig, Path, Path | None]:
    """Settings, run folder, and what to resume from (None for a new run)."""
    if args.resume is None:
        config: RunConfig = load_config(args.config or HERE / "config.yaml", args.overrides)
        return config, create_run_folder(config.training.output_dir, args.name), None
    if args.resume:
        source = checkpoints_of(args.resume)
        # A run folder holds its checkpoints in a folder; a single checkpoint lies one deeper.
        run = Path(args.resume) if source != Path(args.resume) else _run_around(source)
    else:
        run = newest_run(load_config(HERE / "config.yaml", args.overrides).training.output_dir)
        source = run / CHECKPOINTS
    return load_config(run / "config.yaml", args.overrides), run, source


def _run_around(source: Path) -> Path:
    """The run folder of a checkpoint, or of a folder of checkpoints."""
    if not source.is_dir():
        raise ConfigError(f"--resume: {source} is no folder; wanted a run folder or a checkpoint")
    return source.resolve().parent if list_checkpoints(source) else run_folder_of(source)


@dataclass
class Job:
    """A run with all its parts."""

    folder: Path
    config: RunConfig
    data: TextData
    model: CustomTransformerWrapper
    trainer: Trainer

    @property
    def title(self) -> str:
        model, length = self.config.model, self.config.data.max_length
        return (
            f"{self.model.count_parameters():,} parameters: {model.n_blocks} blocks, width {model.d_model}, "
            f"{model.n_heads} heads, T {length}, batch {self.config.training.batch_size}"
        )

    def sample(self, name: str) -> None:
        """Write what the model makes of the prompt at this moment."""
        settings = self.config.training
        text = generate_text(
            self.model,
            self.data.tokenizer,
            settings.sample_prompt,
            max_new_tokens=settings.sample_tokens,
            seed=settings.seed,
        )
        write_atomic(self.folder / name, (text + "\n").encode())

    def draw(self) -> None:
        records = read_history(self.folder / "history.jsonl")
        if any(record["event"] in ("train", "evaluation") for record in records):
            plot_history(records, self.folder / "loss_curve.png", title=self.title)


def evaluator(config: RunConfig, model: CustomTransformerWrapper, data: TextData) -> Evaluator:
    """A function that scores the model on a split: all of it, or some batches spread over it."""
    token_bytes = data.tokenizer.token_bytes()

    def evaluate(split: str, max_batches: int | None, stop: Any = None) -> LanguageScore:
        return evaluate_language_model(
            model,
            data.tokens[split],
            seq_len=config.data.max_length,
            batch_size=config.training.batch_size,
            max_batches=max_batches,
            token_bytes=token_bytes,
            stop=stop,
        )

    return evaluate


def assemble(config: RunConfig, folder: Path) -> Job:
    """Data, model and trainer, as the settings ask for them."""
    settings = config.training
    data = prepare_data(config)
    model = build_model(config, data.tokenizer.vocab_size)
    evaluate = evaluator(config, model, data)
    trainer = Trainer(
        model,
        TokenLoader(data.tokens["train"], settings.batch_size, config.data.max_length, seed=settings.seed),
        settings,
        evaluate=lambda stop: evaluate("validation", settings.eval_batches, stop),
        callbacks=[JsonlHistory(folder / "history.jsonl"), ProgressBar(console)],
        checkpoints=folder / CHECKPOINTS,
        documents={"config": config.model_dump(mode="json"), "data": data.document()},
    )
    return Job(folder, config, data, model, trainer)


def describe(job: Job) -> None:
    """Print what is about to happen."""
    corpus, tokens, trainer = job.data.corpus, job.data.tokens["train"], job.trainer
    content, epochs = corpus.content_hash[:12], trainer.total_steps / len(trainer.loader)
    rows = {
        "corpus": f"{corpus.name}, {tokens.text_bytes:,} bytes to train on, sha256 {content}",
        "tokenizer": f"{job.data.tokenizer.vocab_size:,} tokens; the training text is {len(tokens):,}",
        "model": job.title,
        "training": f"{trainer.total_steps:,} steps, {epochs:.2f} epochs, {job.model.config.get_device()}",
        "run folder": str(job.folder),
    }
    if trainer.state.step:
        rows["resumed"] = f"{trainer.state.step:,} steps are done"
    for name, text in rows.items():
        console.print(f"{name:<12}{text}", markup=False, soft_wrap=True)
    for advice in tg.runtime.advice():
        console.print(f"{'slow':<12}{advice}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def finish(job: Job) -> None:
    """Measure, write and print what the run has come to."""
    splits, state = job.data.corpus.splits, job.trainer.state
    console.print("Measuring on all validation text ...", markup=False)
    evaluate = evaluator(job.config, job.model, job.data)
    scored_at_once = job.config.training.batch_size * (job.config.data.max_length // 2)
    as_much = math.ceil(len(job.data.tokens["validation"]) / scored_at_once)  # of the training text
    scores = {"train": evaluate("train", as_much), "validation": evaluate("validation", None)}
    ngrams = ngram_bits_per_byte(splits["train"], splits["validation"], orders=NGRAM_ORDERS)
    results = {
        **{split: score_figures(score) for split, score in scores.items()},
        "ngram_bits_per_byte": {str(order): bits for order, bits in ngrams.items()},
        "steps": state.step,
        "skipped_steps": state.skipped,
        "training_seconds": state.seconds,
        "tokens_per_second": state.tokens / max(state.seconds, 1e-9),
        "parameters": job.model.count_parameters(),
        "corpus": {"name": job.data.corpus.name, "content_hash": job.data.corpus.content_hash},
        "tinygrad_edu": tg.__version__,
    }
    write_atomic(job.folder / "results.json", encode_json(results, "results"))
    job.sample("sample_after.txt")
    job.draw()
    for name in ("before", "after"):
        text = (job.folder / f"sample_{name}.txt").read_text(encoding="utf-8").strip()
        console.print(f"\nA sample {name} training:\n{text}", markup=False, highlight=False, soft_wrap=True)
    console.print()
    console.print(score_table(scores, ngrams, "On all validation text, and on as much training text"))
    console.print(verdict(scores["validation"], ngrams), markup=False, soft_wrap=True)
    seconds = format_seconds(state.seconds)
    console.print(f"{state.step:,} steps took {seconds}. Everything is in {job.folder}", markup=False, soft_wrap=True)


def train(args: argparse.Namespace) -> int:
    """Run or resume, from the folder to the table; returns the exit status."""
    config, folder, source = settle_folder(args)
    leave_nothing = source is None  # until training begins, a new run's folder holds nothing worth keeping
    try:
        checkpoint = None if source is None else load_checkpoint(source)
        with tg.use(config.training.device):
            job = assemble(config, folder)
            if checkpoint is None:
                job.sample("sample_before.txt")
            else:
                job.trainer.resume(checkpoint, accept_changes=args.accept_changes)
            write_atomic(folder / "config.yaml", dump_config(config).encode())
            describe(job)
            leave_nothing = False
            result = job.trainer.fit()
            if result.interrupted:
                job.draw()
                say_how_to_resume(folder, result.step, job.trainer.total_steps)
                return INTERRUPTED
            finish(job)
    finally:
        if leave_nothing:
            shutil.rmtree(folder, ignore_errors=True)
    return 0


def say_how_to_resume(folder: Path, step: int, total: int) -> None:
    command = shlex.join([sys.executable, sys.argv[0], "--resume", str(folder)])
    console.print(f"\nStopped after step {step:,} of {total:,}; a checkpoint is saved. Go on with:", markup=False)
    console.print(f"  {command}", markup=False, soft_wrap=True, highlight=False)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    return run_program(lambda: train(args))


if __name__ == "__main__":
    sys.exit(main())
