"""Tables of the results for a terminal."""

from __future__ import annotations

import statistics
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.foundry import Published
from bench.vision import Pictures
from bench.workload import Workload


def _seconds(value: float) -> str:
    if value >= 1:
        return f"{value:.3f} s"
    return f"{value * 1e3:.1f} ms" if value >= 1e-3 else f"{value * 1e6:.1f} us"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _range(low: float, high: float) -> str:
    unit, factor = ("s", 1.0) if high >= 1 else ("ms", 1e3)
    return f"{low * factor:.4g} to {high * factor:.4g} {unit}"


def _mib(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.0f} MiB"


def _show_ratio(ratio: dict[str, Any], other: str, console: Console) -> None:
    speed, memory = ratio["speed"], ratio["memory"]
    console.print(
        f"tinygrad_edu is [bold]{speed['median']:.2f}[/] times as fast as {other} "
        f"(median of {_count(len(speed['pairs']), 'pair')}, {speed['min']:.2f} to {speed['max']:.2f})"
        + (f", with [bold]{memory['median']:.2f}[/] times its peak memory." if memory else ".")
    )


def show_transformer(record: dict[str, Any], console: Console) -> None:
    """The training step of our own model."""
    plan = record["plan"]
    w = Workload(**plan["workload"])
    title = (
        f"Training step: V {w.vocab:,}, width {w.d_model}, {w.blocks} blocks, {w.heads} heads, "
        f"ffn {w.ffn}, T {w.time}, batch {w.batch}, {w.dtype}, {w.device}"
    )
    _show_steps(record, title, "torch.compile" if plan["compile"] else "torch eager", console)


def show_published(record: dict[str, Any], console: Console) -> None:
    """The training step of GPT-2 or BERT."""
    w = Published(**record["plan"]["workload"])
    what = "the next token" if w.kind == "gpt2" else f"{w.labels} masked tokens"
    title = (
        f"Training step of {w.kind}, {what}: V {w.vocab:,}, width {w.width}, {_count(w.layers, 'block')}, "
        f"{_count(w.heads, 'head')}, T {w.time}, batch {w.batch}, dropout {w.dropout:g}, {w.dtype}"
    )
    _show_steps(record, title, "transformers", console)


def show_pictures(record: dict[str, Any], console: Console) -> None:
    """The training step of the U-Net or ResNet-18."""
    w = Pictures(**record["plan"]["workload"])
    what = f"U-Net, base width {w.base}" if w.kind == "unet" else f"ResNet-18, {w.outputs} classes"
    title = (
        f"Training step of {what}: {_count(w.batch, 'image')} of {w.channels} x {w.size} x {w.size}, {w.optimizer}, "
        f"{w.dtype}"
    )
    _show_steps(record, title, "torch", console, unit=w.unit)
    console.print(f"The faster of torch's memory formats here: {record['summary']['fastest_other']}.")


def _show_steps(record: dict[str, Any], title: str, theirs: str, console: Console, unit: str = "tokens") -> None:
    """Figures of each side, then the ratios."""
    summary = record["summary"]
    names = {name: name for name in summary["sides"]}
    names |= {"ours": "tinygrad_edu", "torch": theirs, "textbook": "textbook ops"}
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for column in ("time/step", "of the runs", f"{unit}/s", "peak", "of GEMM"):
        table.add_column(column, justify="right")
    for name, side in summary["sides"].items():
        table.add_row(
            names[name],
            _seconds(side["seconds"]),
            _range(side["seconds_min"], side["seconds_max"]),
            f"{side['tokens_per_second']:,.0f}",
            _mib(side["peak_mib"]),
            f"{side['gemm_share']:.0%}",
        )
    console.print(table)
    for name, ratio in summary["ratios"].items():
        _show_ratio(ratio, "its own textbook ops" if name == "textbook" else names[name], console)
    worst = record["agreement"]["largest_relative_difference"]
    console.print(
        f"Same model on both sides: losses of {len(record['agreement']['ours']['losses'])} steps agree to "
        f"{worst['losses']:.0e}, gradient norms to {worst['grad_norms']:.0e}. "
        f"GEMM rate {summary['gemm_gflops']:,.0f} GFLOP/s; "
        f"a step is {record['model_flops_per_step'] / 1e9:,.4g} GFLOP."
    )
    _warn_of_settings(record["facts"]["ours"], console)
    _warn_if_busy(record, console)


def _warn_if_busy(record: dict[str, Any], console: Console) -> None:
    at_start, cores = record["machine"]["load_at_start"], record["machine"]["logical_cores"]
    if at_start is not None and at_start > 0.25 * (cores or 1):
        console.print(
            f"[yellow]The machine was busy (load {at_start:.1f} on {cores} cores when this began): "
            "the times are not worth quoting, the ratios only with care.[/]"
        )


def _warn_of_settings(facts: dict[str, Any], console: Console) -> None:
    for line in facts["advice"]:
        console.print(f"This library was slowed down: {line}", style="yellow", markup=False)


def show_generate(record: dict[str, Any], console: Console) -> None:
    """Time with and without the cache."""
    result = record["result"]
    table = Table(title=f"Greedy generation of {record['tokens']} tokens", title_justify="left")
    table.add_column("")
    table.add_column("time", justify="right")
    table.add_column("tokens/s", justify="right")
    for name in ("with_cache", "without_cache", "forward_each_token"):
        seconds = statistics.median(result[name])
        table.add_row(name.replace("_", " "), _seconds(seconds), f"{record['tokens'] / seconds:,.0f}")
    console.print(table)
    ratio, to_forward = record["summary"]["ratio"], record["summary"]["ratio_to_forward"]["median"]
    console.print(
        f"The cache makes it [bold]{ratio['median']:.1f}[/] times as fast "
        f"({ratio['min']:.1f} to {ratio['max']:.1f} over {_count(len(ratio['pairs']), 'prompt')}), and "
        f"[bold]{to_forward:.1f}[/] times as fast as a forward for each token. Tokens "
        + ("[red]DIFFER[/]" if result["differences"] else "equal one by one")
        + f"; {min(result['distinct'])} or more different tokens in each text."
    )
    _warn_if_busy(record, console)


def show_writing(record: dict[str, Any], console: Console) -> None:
    """Generation beside ``transformers``."""
    plan, summary, parameters = record["plan"], record["summary"], record["parameters"]
    w = Published(**plan["model"])
    table = Table(
        title=f"Greedy generation of {_count(plan['tokens'], 'token')} with {w.kind}, prompt {plan['prompt']}: "
        f"V {w.vocab:,}, width {w.width}, {_count(w.layers, 'block')}, {parameters / 1e6:,.4g}M parameters",
        title_justify="left",
    )
    table.add_column("")
    for column in ("time", "of the runs", "tokens/s", "GB/s", "peak"):
        table.add_column(column, justify="right")
    for name, side in summary["sides"].items():
        rate = plan["tokens"] / side["seconds"]
        table.add_row(
            "tinygrad_edu" if name == "ours" else "transformers",
            _seconds(side["seconds"]),
            _range(side["seconds_min"], side["seconds_max"]),
            f"{rate:,.0f}",
            f"{4 * parameters * rate / 1e9:.3g}",  # of weights, read once a token
            _mib(side["peak_mib"]),
        )
    console.print(table)
    _show_ratio(summary["ratios"]["torch"], "transformers", console)
    parted = len(record["partings"])
    console.print(
        f"Same weights on both sides; {_count(plan['repeats'] + 1, 'text')}, "
        + (f"of which {parted} part where two tokens are (nearly) tied" if parted else "equal token by token")
        + f"; {min(record['distinct'])} or more different tokens in each."
    )
    _warn_of_settings(record["facts"]["ours"], console)
    _warn_if_busy(record, console)


def show_import(record: dict[str, Any], console: Console) -> None:
    """Import times."""
    table = Table(title="Import, in fresh processes", title_justify="left")
    for column in ("", "median", "min", "max"):
        table.add_column(column, justify="right" if column else "left")
    for name, seconds in record["seconds"].items():
        row = (statistics.median(seconds), min(seconds), max(seconds))
        table.add_row(f"import {name}", *map(_seconds, row))
    console.print(table)
    _warn_if_busy(record, console)


def show_memory(record: dict[str, Any], console: Console) -> None:
    """Whether memory is flat."""
    found = record["summary"]
    console.print(
        f"Resident memory over {record['steps']:,} training steps: {found['first_mib']:,.1f} MiB at the "
        f"beginning (after {record['skip']} steps), {found['last_mib']:,.1f} MiB at the end; growth "
        f"{found['growth_mib']:+.2f} MiB, slope {found['kib_per_step']:+.3f} KiB a step: "
        + ("[green]flat[/]" if found["flat"] else f"[red]not flat[/] (allowed: {record['tolerance_mib']} MiB)")
    )


def show_recurrent(records: list[dict[str, Any]], console: Console) -> None:
    """Each kind of layer, ours beside torch's."""
    w = records[0]["plan"]["layer"]
    table = Table(
        title=f"{'Forward alone' if w['inference'] else 'Forward and backward'}: batch {w['batch']}, T {w['time']}, "
        f"width {w['width']}, {_count(w['layers'], 'layer')}{', both directions' if w['bidirectional'] else ''}"
        f"{', lengths from T/2 to T' if w['lengths'] else ''}, {w['dtype']}",
        title_justify="left",
    )
    table.add_column("layer", no_wrap=True)
    for column in ("ours", "torch", "faster", "of the pairs", "of GEMM", "difference"):
        table.add_column(column, justify="right")
    for record in records:
        seconds, ratio = record["summary"]["seconds"], record["summary"]["ratio"]
        table.add_row(
            record["plan"]["layer"]["kind"],
            _seconds(seconds["ours"]),
            _seconds(seconds["torch"]),
            f"{ratio['median']:.2f} x",
            f"{ratio['min']:.2f} to {ratio['max']:.2f}",
            f"{record['flops'] / seconds['ours'] / 1e9 / record['summary']['gemm_gflops']:.0%}",
            f"{record['largest_difference']:.0e}",
        )
    console.print(table)
    _warn_of_settings(records[0]["facts"]["ours"], console)
    _warn_if_busy(records[0], console)


def show_convolution(records: list[dict[str, Any]], console: Console) -> None:
    """Each kind of convolution, ours beside torch's in both memory formats."""
    w = records[0]["plan"]["layer"]
    others = [side for side in records[0]["summary"]["seconds"] if side != "ours"]
    table = Table(
        title=f"Convolution, forward and backward: {w['in_channels']} to {w['out_channels']} channels, "
        f"{w['size']} x {w['size']}, batch {w['batch']}, {w['dtype']}",
        title_justify="left",
    )
    table.add_column("kind", no_wrap=True)
    for column in ("ours", *others, "faster", "of the pairs", "of GEMM", "difference"):
        table.add_column(column, justify="right")
    for record in records:
        summary = record["summary"]
        seconds, ratio = summary["seconds"], summary["ratio"]
        table.add_row(
            record["plan"]["layer"]["kind"],
            *(_seconds(seconds[side]) for side in ("ours", *others)),
            f"{ratio['median']:.2f} x",
            f"{ratio['min']:.2f} to {ratio['max']:.2f}",
            f"{record['flops'] / seconds['ours'] / 1e9 / summary['gemm_gflops']:.0%}",
            f"{record['largest_difference']:.0e}",
        )
    console.print(table)
    for record in records:
        grown = ", ".join(f"{side} {_mib(mib)}" for side, mib in record["summary"]["memory_mib"].items())
        console.print(f"Memory that a step of {record['plan']['layer']['kind']} adds: {grown}.")
    console.print('"faster" is beside the faster of torch\'s memory formats.')
    _warn_of_settings(records[0]["facts"]["ours"], console)
    _warn_if_busy(records[0], console)


def show_attention(records: list[dict[str, Any]], console: Console) -> None:
    """Attention with and without the causal mask, ours beside torch's."""
    w = records[0]["plan"]["heads"]
    table = Table(
        title=f"Attention, forward and backward: batch {w['batch']}, {_count(w['heads'], 'head')}, T {w['time']}, "
        f"head width {w['dim']}{', padded' if w['padded'] else ''}, {w['dtype']}",
        title_justify="left",
    )
    table.add_column("queries see", no_wrap=True)
    for column in ("ours", "torch", "faster", "of the pairs", "of GEMM", "difference"):
        table.add_column(column, justify="right")
    for record in records:
        summary = record["summary"]
        seconds, ratio = summary["seconds"], summary["ratio"]
        table.add_row(
            "no later key" if record["plan"]["heads"]["causal"] else "all keys",
            _seconds(seconds["ours"]),
            _seconds(seconds["torch"]),
            f"{ratio['median']:.2f} x",
            f"{ratio['min']:.2f} to {ratio['max']:.2f}",
            f"{record['flops'] / seconds['ours'] / 1e9 / summary['gemm_gflops']:.0%}",
            f"{record['largest_difference']:.0e}",
        )
    console.print(table)
    for record in records:
        sides = record["summary"]["memory_mib"]
        found = (f"{side} {', '.join(_mib(mib) for mib in own.values())}" for side, own in sides.items())
        which = "causal" if record["plan"]["heads"]["causal"] else "all keys"
        console.print(f"Memory that a step adds at T {', '.join(sides['ours'])} ({which}): {'; '.join(found)}.")
    _warn_of_settings(records[0]["facts"]["ours"], console)
    _warn_if_busy(records[0], console)


def show_ops(record: dict[str, Any], console: Console) -> None:
    """Each kernel beside its op."""
    table = Table(title="Kernels and the readable ops they stand in for", title_justify="left")
    table.add_column("op", no_wrap=True)
    for column in ("textbook", "kernel", "faster", "difference"):
        table.add_column(column, justify="right")
    for row in record["ops"]:
        table.add_row(
            row["op"],
            _seconds(row["op_seconds"]),
            _seconds(row["kernel_seconds"]),
            f"{row['ratio']['median']:.2f} x",
            f"{row['difference']:.0e}",
        )
    console.print(table)
    _warn_of_settings(record["facts"], console)
    _warn_if_busy(record, console)
