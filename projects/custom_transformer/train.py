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
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from tinygrad_edu.data import TokenLoader
from tinygrad_edu.errors import ConfigError, TinygradEduError
from tinygrad_edu.metrics import LanguageScore, ngram_bits_per_byte
from tinygrad_edu.models import CustomTransformerWrapper
from tinygrad_edu.training.assembly import TextData, build_model, prepare_data
from tinygrad_edu.training.checkpoint import list_checkpoints, load_checkpoint
from tinygrad_edu.training.config import RunConfig, dump_config, load_config
from tinygrad_edu.training.evaluation import evaluate_language_model
from tinygrad_edu.training.history import JsonlHistory, read_history
from tinygrad_edu.training.progress import ProgressBar, format_seconds
from tinygrad_edu.training.report import generate_text, score_figures, score_table, verdict
from tinygrad_edu.training.run_folder import (
    CHECKPOINTS,
    checkpoints_of,
    create_run_folder,
    newest_run,
    run_folder_of,
)
from tinygrad_edu.training.storage import encode_json, write_atomic
from tinygrad_edu.training.trainer import Trainer
from tinygrad_edu.viz import plot_history

HERE = Path(__file__).resolve().parent
NGRAM_ORDERS = (3, 4, 5, 6)
INTERRUPTED = 130  # the exit status of a program that Ctrl-C ended

console = Console()


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train a small transformer on real English text.",
        epilog="Settings are overridden as key=value, for example: training.max_steps=100 model.d_model=64",
    )
    parser.add_argument(
        "--config", metavar="FILE", help="settings (default: config.yaml beside this program)"
    )
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
            parser.error(
                f"unknown argument {word!r}; settings are given as key=value, such as training.max_steps=100"
            )
    if args.resume is not None and (args.config or args.name):
        parser.error(
            "--resume takes its settings from the run; it cannot be combined with --config or --name"
        )
    if args.resume is None and args.accept_changes:
        parser.error("--accept-changes is for --resume")
    return args


def settle_folder(args: argparse.Namespace) -> tuple[RunConfig, Path, Path | None]:
    """Settings, run folder, and what to resume from (None for a new run)."""
    if args.resume is None:
        config = load_config(args.config or HERE / "config.yaml", args.overrides)
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


def make_evaluator(
    config: RunConfig, model: CustomTransformerWrapper, data: TextData
) -> Callable[..., LanguageScore | None]:
    """A function that scores the model on a split, all of it or some batches."""
    token_bytes = data.tokenizer.token_bytes()

    def evaluate(
        split: str, max_batches: int | None, stop: Callable[[], bool] | None = None
    ) -> LanguageScore | None:
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


def write_sample(config: RunConfig, model: CustomTransformerWrapper, data: TextData, path: Path) -> str:
    settings = config.training
    text = generate_text(
        model,
        data.tokenizer,
        settings.sample_prompt,
        max_new_tokens=settings.sample_tokens,
        seed=settings.seed,
    )
    write_atomic(path, (text + "\n").encode())
    return text


def draw_curve(run: Path, title: str) -> None:
    records = read_history(run / "history.jsonl")
    if any(record["event"] in ("train", "evaluation") for record in records):
        plot_history(records, run / "loss_curve.png", title=title)


def describe(config: RunConfig, data: TextData, trainer: Trainer, run: Path) -> str:
    """Print what is about to happen; returns the line about the model."""
    train, vocabulary = data.tokens["train"], data.tokenizer.vocab_size
    model = (
        f"{trainer.model.num_parameters():,} parameters: {config.model.n_blocks} blocks, "
        f"width {config.model.d_model}, {config.model.n_heads} heads, T {config.data.max_length}, "
        f"batch {config.training.batch_size}"
    )
    epochs = trainer.total_steps / len(trainer.loader)
    rows = {
        "corpus": f"{data.corpus.name}, {train.text_bytes:,} bytes to train on, sha256 {data.corpus.content_hash[:12]}",
        "tokenizer": f"{vocabulary:,} tokens; the training text is {len(train):,}",
        "model": model,
        "training": f"{trainer.total_steps:,} steps, {epochs:.2f} epochs, {config.training.device}",
        "run folder": str(run),
    }
    for name, text in rows.items():
        console.print(f"{name:<12}{text}", markup=False, soft_wrap=True)
    return model


def finish(
    run: Path,
    config: RunConfig,
    model: CustomTransformerWrapper,
    data: TextData,
    trainer: Trainer,
    summary: str,
) -> None:
    """Measure, write and print what the run has come to."""
    evaluate = make_evaluator(config, model, data)
    windows = math.ceil(len(data.tokens["validation"]) / (config.data.max_length // 2))
    batches = math.ceil(
        windows / config.training.batch_size
    )  # as much training text as there is for validation
    scores = {"train": evaluate("train", batches), "validation": evaluate("validation", None)}
    ngrams = ngram_bits_per_byte(
        data.corpus.splits["train"], data.corpus.splits["validation"], orders=NGRAM_ORDERS
    )
    results = {
        **{split: score_figures(score) for split, score in scores.items()},
        "ngram_bits_per_byte": {str(order): bits for order, bits in ngrams.items()},
        "steps": trainer.state.step,
        "skipped_steps": trainer.state.skipped,
        "training_seconds": trainer.state.seconds,
        "tokens_per_second": trainer.state.tokens / max(trainer.state.seconds, 1e-9),
        "parameters": model.count_parameters(),
        "corpus": {"name": data.corpus.name, "content_hash": data.corpus.content_hash},
        "tinygrad_edu": tg.__version__,
    }
    write_atomic(run / "results.json", encode_json(results, "results"))
    after = write_sample(config, model, data, run / "sample_after.txt")
    draw_curve(run, summary)
    console.print(
        f"\nbefore:  {(run / 'sample_before.txt').read_text(encoding='utf-8').strip()!r}", markup=False
    )
    console.print(f"\nafter:   {after!r}\n", markup=False)
    console.print(score_table(scores, ngrams))
    console.print(verdict(scores["validation"], ngrams), markup=False)
    seconds = format_seconds(trainer.state.seconds)
    console.print(
        f"{trainer.state.step:,} steps in {seconds}. Everything is in {run}", markup=False, soft_wrap=True
    )


def train(args: argparse.Namespace) -> int:
    config, run, source = settle_folder(args)
    began = source is not None
    try:
        checkpoint = load_checkpoint(source) if source is not None else None
        with tg.use(config.training.device):
            data = prepare_data(config)
            model = build_model(config, data.tokenizer.vocab_size)
            loader = TokenLoader(
                data.tokens["train"],
                config.training.batch_size,
                config.data.max_length,
                seed=config.training.seed,
            )
            evaluate = make_evaluator(config, model, data)
            trainer = Trainer(
                model,
                loader,
                config.training,
                evaluate=lambda stop: evaluate("validation", config.training.eval_batches, stop),
                callbacks=[JsonlHistory(run / "history.jsonl"), ProgressBar(console)],
                checkpoints=run / CHECKPOINTS,
                documents={"config": config.model_dump(mode="json"), "data": data.document()},
            )
            if checkpoint is not None:
                trainer.resume(checkpoint, accept_changes=args.accept_changes)
                console.print(
                    f"resumed     {checkpoint.path.name}, {trainer.state.step:,} steps done", markup=False
                )
            else:
                write_sample(config, model, data, run / "sample_before.txt")
            write_atomic(run / "config.yaml", dump_config(config).encode())
            summary = describe(config, data, trainer, run)
            began = True
            result = trainer.fit()
            if result.interrupted:
                draw_curve(run, summary)
                say_how_to_resume(run, result.step, trainer.total_steps)
                return INTERRUPTED
            finish(run, config, model, data, trainer, summary)
    finally:
        if not began:  # nothing was trained: leave nothing behind
            shutil.rmtree(run, ignore_errors=True)
    return 0


def say_how_to_resume(run: Path, step: int, total: int) -> None:
    command = shlex.join([sys.executable, sys.argv[0], "--resume", str(run)])
    console.print(
        f"\nStopped after step {step:,} of {total:,}; a checkpoint is saved. Go on with:", markup=False
    )
    console.print(f"  {command}", markup=False, soft_wrap=True, highlight=False)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    errors = Console(stderr=True)

    def show(message: Warning | str, *_: Any) -> None:
        errors.print(f"warning: {message}", markup=False, highlight=False, soft_wrap=True)

    with warnings.catch_warnings():
        warnings.showwarning = show  # type: ignore[assignment]
        try:
            return train(args)
        except TinygradEduError as error:
            errors.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
            return 2 if isinstance(error, ConfigError) else 1
        except KeyboardInterrupt:
            errors.print(
                "\nQuit at once. Checkpoints saved before are whole; go on with --resume.", markup=False
            )
            return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
