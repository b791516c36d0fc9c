"""Speed and memory, measured: ``python benchmarks/run.py --help``.

This process loads neither the library nor torch. Every measurement runs in processes of its own, which so
settle their thread pools as they would for a user.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from bench import attention_commands, foundry_commands, report, vision_commands
from bench.options import (
    RESULTS,
    Batch,
    Blocks,
    Device,
    Dtype,
    Ffn,
    Heads,
    NoSave,
    Output,
    Pairs,
    Seed,
    Steps,
    Threads,
    Time,
    TorchEnv,
    Untied,
    Vocab,
    Warmup,
    Width,
    assignments,
    checked,
    console,
    keep,
)
from bench.process import ROOT, BenchmarkError, drop_pins, machine, run_worker
from bench.recurrent import GATES, Recurrence
from bench.recurrent import Plan as RecurrentPlan
from bench.recurrent import run as run_recurrent
from bench.summary import flatness, spread
from bench.transformer import Plan
from bench.transformer import run as run_transformer
from bench.workload import Workload

app = typer.Typer(
    help=__doc__,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
OPS_TOLERANCE = {"float32": 1e-4, "float64": 1e-10}


@app.callback()
def environment(
    keep_environment: Annotated[
        bool, typer.Option("--keep-environment", help="Keep variables that pin threads or BLAS kernels.")
    ] = False,
) -> None:
    """Speed and memory, measured, each time in fresh processes."""
    dropped = {} if keep_environment else drop_pins()
    if dropped:
        named = ", ".join(f"{name}={value}" for name, value in dropped.items())
        console.print(
            f"Left out of the environment of both sides: {named} (run.py --keep-environment ... keeps them).",
            style="dim",
            highlight=False,
        )


@app.command()
def transformer(
    device: Device = "cpu",
    vocab: Vocab = 50257,
    batch: Batch = 8,
    time: Time = 256,
    d_model: Width = 256,
    blocks: Blocks = 4,
    heads: Heads = 4,
    ffn: Ffn = 512,
    untied: Untied = False,
    dtype: Dtype = "float32",
    seed: Seed = 0,
    pairs: Pairs = 5,
    steps: Steps = 10,
    warmup: Warmup = 3,
    compile_twin: Annotated[bool, typer.Option("--compile", help="torch.compile for the twin.")] = False,
    reference: Annotated[bool, typer.Option("--reference", help="Also our readable ops without kernels.")] = False,
    threads: Threads = None,
    torch_env: TorchEnv = [],  # noqa: B006
    output: Output = RESULTS,
    no_save: NoSave = False,
) -> None:
    """A training step, ours and torch's, in alternation in separate processes."""
    w = checked(
        Workload,
        vocab=vocab,
        batch=batch,
        time=time,
        d_model=d_model,
        blocks=blocks,
        heads=heads,
        ffn=ffn,
        tied=not untied,
        dtype=dtype,
        device=device,
        seed=seed,
    )
    plan = Plan(w, pairs, steps, warmup, compile_twin, reference, threads, assignments(torch_env))
    with console.status("starting") as status:
        record = run_transformer(plan, status.update)
    report.show_transformer(record, console)
    name = f"transformer-{device}-V{vocab}" + ("-compile" if compile_twin else "")
    keep(name, record, output, no_save)


@app.command()
def generate(
    device: Device = "cpu",
    vocab: Vocab = 50257,
    time: Time = 256,
    d_model: Width = 256,
    blocks: Blocks = 4,
    heads: Heads = 4,
    ffn: Ffn = 512,
    dtype: Dtype = "float32",
    seed: Seed = 0,
    tokens: Annotated[int, typer.Option(help="Tokens to generate.", min=1)] = 200,
    prompt: Annotated[int, typer.Option(help="Tokens of the prompt.", min=1)] = 16,
    repeats: Annotated[int, typer.Option(help="Prompts.", min=1)] = 5,
    output: Output = RESULTS,
    no_save: NoSave = False,
) -> None:
    """Greedy generation with and without the key/value cache; fails unless the tokens are equal."""
    w = checked(
        Workload,
        vocab=vocab,
        time=time,
        d_model=d_model,
        blocks=blocks,
        heads=heads,
        ffn=ffn,
        dtype=dtype,
        device=device,
        seed=seed,
    )
    if prompt + tokens > time:
        raise typer.BadParameter(f"--prompt and --tokens together must fit in --time {time}, got {prompt + tokens}")
    facts = machine()
    settings = {"tokens": tokens, "prompt": prompt, "repeats": repeats}
    with console.status("generating"):
        result = run_worker("ours", {"job": "generate", "workload": asdict(w), **settings})
    ratio, ratio_to_forward = (
        spread([b / a for a, b in zip(result["with_cache"], result[other], strict=True)])
        for other in ("without_cache", "forward_each_token")
    )
    record = {
        "benchmark": "generate",
        "workload": asdict(w),
        **settings,
        "machine": facts,
        "result": result,
        "summary": {"ratio": ratio, "ratio_to_forward": ratio_to_forward, "equal": not result["differences"]},
    }
    report.show_generate(record, console)
    keep(f"generate-{device}-V{vocab}", record, output, no_save)
    if result["differences"]:
        first = result["differences"][0]
        raise BenchmarkError(
            "greedy generation with the cache gives other tokens than without it, first at position "
            f"{first['position']}, where the two likeliest logits are {first['relative_gap_of_logits']:.1e} "
            "of their standard deviation apart (below 1e-5 it would be a tie)"
        )


@app.command("import")
def import_time(
    repeats: Annotated[int, typer.Option(help="Processes for each module.", min=1)] = 11,
    output: Output = RESULTS,
    no_save: NoSave = False,
) -> None:
    """The time of `import tinygrad_edu` in fresh processes, beside `import numpy`, which is part of it."""
    facts = machine()
    seconds: dict[str, list[float]] = {"numpy": [], "tinygrad_edu": []}
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    for repeat in range(repeats + 1):  # the first round fills the caches of files and compiled modules
        for name, values in seconds.items():
            code = f"import time; t = time.perf_counter(); import {name}; print(time.perf_counter() - t)"
            done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
            if done.returncode:
                raise BenchmarkError(f"import {name} failed:\n{done.stderr.strip()}")
            if repeat:
                values.append(float(done.stdout))
    record = {"benchmark": "import", "machine": facts, "seconds": seconds}
    report.show_import(record, console)
    keep("import", record, output, no_save)


@app.command()
def memory(
    device: Device = "cpu",
    vocab: Vocab = 1024,
    batch: Batch = 8,
    time: Time = 64,
    d_model: Width = 64,
    blocks: Blocks = 2,
    heads: Heads = 2,
    ffn: Ffn = 128,
    dtype: Dtype = "float32",
    seed: Seed = 0,
    steps: Annotated[int, typer.Option(help="Training steps.", min=110)] = 2500,
    skip: Annotated[int, typer.Option(help="First steps, in which caches fill up.", min=1)] = 1500,
    tolerance: Annotated[float, typer.Option(help="Growth allowed, in MiB.", min=0)] = 1.0,
    output: Output = RESULTS,
    no_save: NoSave = False,
) -> None:
    """Resident memory over many training steps; fails unless it is flat."""
    w = checked(
        Workload,
        vocab=vocab,
        batch=batch,
        time=time,
        d_model=d_model,
        blocks=blocks,
        heads=heads,
        ffn=ffn,
        dtype=dtype,
        device=device,
        seed=seed,
    )
    if steps < skip + 10:
        raise typer.BadParameter(f"--steps must be at least --skip + 10, got {steps} and {skip}")
    facts = machine()
    with console.status(f"{steps} training steps"):
        result = run_worker("ours", {"job": "memory", "workload": asdict(w), "steps": steps})
    if None in result["resident_mib"]:
        raise BenchmarkError("resident memory is read from /proc, which only Linux has")
    found = flatness(result["resident_mib"], skip, tolerance)
    record = {
        "benchmark": "memory",
        "workload": asdict(w),
        "steps": steps,
        "skip": skip,
        "tolerance_mib": tolerance,
        "machine": facts,
        "summary": found,
        **result,
    }
    report.show_memory(record, console)
    keep(f"memory-{device}", record, output, no_save)
    if not found["flat"]:
        raise BenchmarkError(f"memory grew by {found['growth_mib']:.2f} MiB over {steps - skip} steps")


@app.command()
def ops(
    only: Annotated[list[str] | None, typer.Argument(help="Names of ops; all that have a kernel if none.")] = None,
    device: Device = "cpu",
    vocab: Vocab = 50257,
    batch: Batch = 8,
    time: Time = 256,
    d_model: Width = 256,
    heads: Heads = 4,
    ffn: Ffn = 512,
    dtype: Dtype = "float32",
    repeats: Annotated[int, typer.Option(help="Calls of each side, in alternation.", min=1)] = 7,
    output: Output = RESULTS,
    no_save: NoSave = False,
) -> None:
    """Each kernel against the readable op that it stands in for, on the arrays of a training step."""
    w = checked(
        Workload, vocab=vocab, batch=batch, time=time, d_model=d_model, heads=heads, ffn=ffn, dtype=dtype, device=device
    )
    if device != "cpu":
        raise typer.BadParameter("ops: only kernels of the cpu are timed one by one")
    facts = machine()
    with console.status("timing kernels"):
        result = run_worker("ours", {"job": "ops", "workload": asdict(w), "repeats": repeats, "only": only or []})
    record = {"benchmark": "ops", "workload": asdict(w), "machine": facts, **result}
    report.show_ops(record, console)
    keep(f"ops-{device}", record, output, no_save)
    wrong = [row["op"] for row in result["ops"] if not row["difference"] <= OPS_TOLERANCE[dtype]]
    if wrong:
        raise BenchmarkError(
            f"kernels differ from their ops by more than {OPS_TOLERANCE[dtype]:.0e}: {', '.join(wrong)}"
        )


@app.command()
def recurrent(
    kinds: Annotated[list[str] | None, typer.Argument(help="rnn, lstm, gru; all if none.")] = None,
    batch: Batch = 32,
    time: Annotated[int, typer.Option(help="Steps T of a sequence.", min=1)] = 64,
    width: Annotated[int, typer.Option(help="Of input and state.", min=1)] = 256,
    layers: Annotated[int, typer.Option(help="Layers.", min=1)] = 1,
    bidirectional: Annotated[bool, typer.Option("--bidirectional", help="Both directions.")] = False,
    lengths: Annotated[bool, typer.Option("--lengths", help="Sequences of lengths from T/2 to T.")] = False,
    inference: Annotated[bool, typer.Option("--inference", help="The forward pass alone.")] = False,
    dtype: Dtype = "float32",
    seed: Seed = 0,
    pairs: Pairs = 5,
    steps: Steps = 20,
    warmup: Warmup = 5,
    threads: Threads = None,
    torch_env: TorchEnv = [],  # noqa: B006
    output: Output = RESULTS,
    no_save: NoSave = False,
) -> None:
    """Forward and backward of RNN, LSTM and GRU, ours and torch's, in alternation in separate processes."""
    unknown = [kind for kind in kinds or [] if kind not in GATES]
    if unknown:
        raise typer.BadParameter(f"kinds: one of {', '.join(GATES)}, got {', '.join(unknown)}")
    if dtype not in OPS_TOLERANCE:
        raise typer.BadParameter(f"dtype must be float32 or float64, got {dtype!r}")
    records = []
    with console.status("starting") as status:
        for kind in kinds or GATES:
            w = Recurrence(kind, batch, time, width, layers, bidirectional, lengths, inference, dtype, seed)
            plan = RecurrentPlan(w, pairs, steps, warmup, threads, assignments(torch_env))
            records.append(run_recurrent(plan, status.update))
    report.show_recurrent(records, console)
    for record in records:
        w = record["plan"]["layer"]
        name = f"recurrent-{w['kind']}-B{batch}-T{time}" + ("-lengths" if lengths else "")
        keep(name + ("-inference" if inference else ""), record, output, no_save)


app.command()(attention_commands.attention)
for command in (*foundry_commands.COMMANDS, *vision_commands.COMMANDS):
    app.command()(command)


def main() -> None:
    """Run the command line; a failed measurement is one message, not a traceback."""
    try:
        app()
    except BenchmarkError as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
