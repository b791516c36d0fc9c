"""The command of ``run.py`` for attention at length."""

from __future__ import annotations

from typing import Annotated

import typer

from bench import report
from bench.attention import Heads, Plan, run
from bench.options import (
    RESULTS,
    Batch,
    Dtype,
    NoSave,
    Output,
    Pairs,
    Seed,
    Steps,
    Threads,
    Time,
    TorchEnv,
    Warmup,
    assignments,
    checked,
    console,
    keep,
)


def attention(
    batch: Batch = 1,
    heads: Annotated[int, typer.Option(help="Heads H.", min=1)] = 4,
    time: Time = 4096,
    dim: Annotated[int, typer.Option("--head-dim", help="Width of a head.", min=1)] = 64,
    causal: Annotated[bool | None, typer.Option(help="One of the two alone; both otherwise.")] = None,
    padded: Annotated[bool, typer.Option("--padded", help="Sequences of lengths from T/2 to T, by a mask.")] = False,
    dtype: Dtype = "float32",
    seed: Seed = 0,
    pairs: Pairs = 5,
    steps: Steps = 5,
    warmup: Warmup = 2,
    threads: Threads = None,
    torch_env: TorchEnv = [],  # noqa: B006
    output: Output = RESULTS,
    no_save: NoSave = False,
) -> None:
    """Forward and backward of attention at length, ours and torch's, and the memory of both, in separate processes."""
    records = []
    with console.status("starting") as status:
        for masked in (False, True) if causal is None else (causal,):
            w = checked(Heads, batch=batch, heads=heads, time=time, dim=dim, causal=masked, padded=padded,
                        dtype=dtype, seed=seed)  # fmt: skip
            plan = Plan(w, pairs, steps, warmup, threads, assignments(torch_env))
            records.append(run(plan, status.update))
    report.show_attention(records, console)
    for record in records:
        keep(f"attention-{'causal' if record['plan']['heads']['causal'] else 'all'}-T{time}", record, output, no_save)
