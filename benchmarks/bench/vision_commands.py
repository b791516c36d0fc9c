"""The commands of ``run.py`` for images: a convolution, the U-Net and ResNet-18."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bench import report
from bench.convolution import KINDS, Convolution
from bench.convolution import Plan as ConvolutionPlan
from bench.convolution import run as run_convolution
from bench.options import (
    RESULTS,
    Dtype,
    NoSave,
    Output,
    Pairs,
    Seed,
    Steps,
    Threads,
    TorchEnv,
    Warmup,
    assignments,
    checked,
    console,
    keep,
)
from bench.vision import PicturePlan, Pictures, train

Images = Annotated[int, typer.Option("--batch", help="Images a step.", min=1)]
Size = Annotated[int, typer.Option(help="Height and width of an image.", min=1)]
Optimizer = Annotated[str, typer.Option(help="adamw, or sgd with momentum.")]


def convolution(
    kinds: Annotated[list[str] | None, typer.Argument(help="3x3, 1x1, strided; all if none.")] = None,
    batch: Images = 16,
    size: Size = 64,
    channels: Annotated[int, typer.Option(help="Before and after.", min=1)] = 64,
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
    """Forward and backward of a convolution, ours and torch's in both memory formats, in alternation."""
    layers = [
        checked(Convolution, kind=kind, batch=batch, size=size, in_channels=channels, out_channels=channels,
                dtype=dtype, seed=seed)
        for kind in kinds or KINDS
    ]  # fmt: skip
    records = []
    with console.status("starting") as status:
        for layer in layers:
            plan = ConvolutionPlan(layer, pairs, steps, warmup, threads, assignments(torch_env))
            records.append(run_convolution(plan, status.update))
    report.show_convolution(records, console)
    for record in records:
        keep(f"convolution-{record['plan']['layer']['kind']}-B{batch}-S{size}", record, output, no_save)


def unet(
    batch: Images = 8,
    size: Size = 64,
    base: Annotated[int, typer.Option(help="Channels of the first level.", min=1)] = 32,
    outputs: Annotated[int, typer.Option(help="Channels of the map.", min=1)] = 4,
    optimizer: Optimizer = "adamw",
    dtype: Dtype = "float32",
    seed: Seed = 0,
    pairs: Pairs = 5,
    steps: Steps = 10,
    warmup: Warmup = 3,
    threads: Threads = None,
    torch_env: TorchEnv = [],  # noqa: B006
    output: Output = RESULTS,
    no_save: NoSave = False,
) -> None:
    """A training step of the U-Net, ours and torch's in both memory formats, in alternation in separate processes."""
    w = checked(Pictures, kind="unet", batch=batch, size=size, base=base, outputs=outputs, optimizer=optimizer,
                dtype=dtype, seed=seed)  # fmt: skip
    _train(PicturePlan(w, pairs, steps, warmup, threads=threads, torch_env=assignments(torch_env)), output, no_save)


def resnet(
    batch: Images = 16,
    size: Size = 64,
    outputs: Annotated[int, typer.Option(help="Classes.", min=2)] = 10,
    optimizer: Optimizer = "sgd",
    dtype: Dtype = "float32",
    seed: Seed = 0,
    pairs: Pairs = 5,
    steps: Steps = 10,
    warmup: Warmup = 3,
    threads: Threads = None,
    torch_env: TorchEnv = [],  # noqa: B006
    output: Output = RESULTS,
    no_save: NoSave = False,
) -> None:
    """A training step of ResNet-18, likewise."""
    w = checked(Pictures, kind="resnet", batch=batch, size=size, outputs=outputs, optimizer=optimizer,
                dtype=dtype, seed=seed)  # fmt: skip
    _train(PicturePlan(w, pairs, steps, warmup, threads=threads, torch_env=assignments(torch_env)), output, no_save)


def _train(plan: PicturePlan, output: Any, no_save: bool) -> None:
    with console.status("starting") as status:
        record = train(plan, status.update)
    report.show_pictures(record, console)
    w = record["plan"]["workload"]
    keep(f"{w['kind']}-B{w['batch']}-S{w['size']}", record, output, no_save)


COMMANDS = (convolution, unet, resnet)
