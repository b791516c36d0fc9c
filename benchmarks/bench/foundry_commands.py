"""The commands of ``run.py`` that stand beside ``transformers``."""

from __future__ import annotations

from typing import Annotated

import typer

from bench import report
from bench.foundry import POSITIONS, Published, Writing, check_partings, run_writing
from bench.options import (
    RESULTS,
    Batch,
    Heads,
    NoSave,
    Output,
    Pairs,
    Seed,
    Steps,
    Threads,
    Time,
    TorchEnv,
    Vocab,
    Warmup,
    assignments,
    checked,
    console,
    keep,
)
from bench.transformer import Plan, run

Width = Annotated[int, typer.Option(help="Width C.", min=1)]
Layers = Annotated[int, typer.Option(help="Blocks.", min=1)]
Rate = Annotated[float, typer.Option(help="Rate of dropout, of embeddings, branches and attention weights.")]


def gpt2(
    batch: Batch = 4,
    time: Time = 64,
    layers: Layers = 12,
    width: Width = 768,
    heads: Heads = 12,
    vocab: Vocab = 50257,
    dropout: Rate = 0.0,
    seed: Seed = 0,
    pairs: Pairs = 5,
    steps: Steps = 5,
    warmup: Warmup = 2,
    threads: Threads = None,
    torch_env: TorchEnv = [],  # noqa: B006
    output: Output = RESULTS,
    no_save: NoSave = False,
) -> None:
    """A training step of GPT-2, ours and that of `transformers`, in alternation in separate processes."""
    w = checked(
        Published,
        kind="gpt2",
        vocab=vocab,
        batch=batch,
        time=time,
        width=width,
        layers=layers,
        heads=heads,
        dropout=dropout,
        seed=seed,
    )
    train(Plan(w, pairs, steps, warmup, threads=threads, torch_env=assignments(torch_env)), output, no_save)


def bert(
    batch: Batch = 8,
    time: Time = 128,
    layers: Layers = 4,
    width: Width = 768,
    heads: Heads = 12,
    vocab: Vocab = 30522,
    dropout: Rate = 0.0,
    seed: Seed = 0,
    pairs: Pairs = 5,
    steps: Steps = 5,
    warmup: Warmup = 2,
    threads: Threads = None,
    torch_env: TorchEnv = [],  # noqa: B006
    output: Output = RESULTS,
    no_save: NoSave = False,
) -> None:
    """A training step of BERT, with 15% of the tokens masked, ours and that of `transformers`, likewise."""
    w = checked(
        Published,
        kind="bert",
        vocab=vocab,
        batch=batch,
        time=time,
        width=width,
        layers=layers,
        heads=heads,
        dropout=dropout,
        seed=seed,
    )
    train(Plan(w, pairs, steps, warmup, threads=threads, torch_env=assignments(torch_env)), output, no_save)


def train(plan: Plan, output: Output, no_save: bool) -> None:
    """Run the comparison of one architecture, show it, and keep its record."""
    with console.status("starting") as status:
        record = run(plan, status.update)
    report.show_published(record, console)
    w = record["plan"]["workload"]
    keep(f"{w['kind']}-L{w['layers']}-B{w['batch']}-T{w['time']}", record, output, no_save)


def generate_gpt2(
    tokens: Annotated[int, typer.Option(help="Tokens to generate.", min=1)] = 100,
    prompt: Annotated[int, typer.Option(help="Tokens of the prompt.", min=1)] = 8,
    repeats: Annotated[int, typer.Option(help="Timed prompts of a run.", min=1)] = 5,
    pairs: Pairs = 3,
    layers: Layers = 12,
    width: Width = 768,
    heads: Heads = 12,
    vocab: Vocab = 50257,
    seed: Seed = 0,
    threads: Threads = None,
    torch_env: TorchEnv = [],  # noqa: B006
    output: Output = RESULTS,
    no_save: NoSave = False,
) -> None:
    """Greedy generation with GPT-2, ours and that of `transformers`, both with their caches; fails if tokens differ."""
    model = checked(
        Published,
        kind="gpt2",
        vocab=vocab,
        batch=1,
        time=min(prompt + tokens, POSITIONS["gpt2"]),
        width=width,
        layers=layers,
        heads=heads,
        initializer_range=1.5 / width**0.5,  # so large that the next token depends on those before it
        seed=seed,
    )
    plan = checked(
        Writing,
        model=model,
        prompt=prompt,
        tokens=tokens,
        repeats=repeats,
        pairs=pairs,
        threads=threads,
        torch_env=assignments(torch_env),
    )
    with console.status("starting") as status:
        record = run_writing(plan, status.update)
    report.show_writing(record, console)
    keep(f"generate-gpt2-L{layers}", record, output, no_save)
    check_partings(record["partings"])


COMMANDS = (gpt2, bert, generate_gpt2)
