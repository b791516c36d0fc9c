"""What the commands of ``run.py`` share: their options, and keeping a record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console

from bench.process import BENCHMARKS, save

console = Console()
Made = TypeVar("Made")

Vocab = Annotated[int, typer.Option(help="Vocabulary V.", min=2)]
Batch = Annotated[int, typer.Option(help="Sequences a batch.", min=1)]
Time = Annotated[int, typer.Option(help="Tokens a sequence.", min=2)]
Width = Annotated[int, typer.Option("--d-model", help="Width.", min=1)]
Blocks = Annotated[int, typer.Option(help="Blocks.", min=1)]
Heads = Annotated[int, typer.Option(help="Heads of a block.", min=1)]
Ffn = Annotated[int, typer.Option(help="Width inside the feed-forward part.", min=1)]
Untied = Annotated[bool, typer.Option("--untied", help="A head of its own instead of the token embedding.")]
Dtype = Annotated[str, typer.Option(help="float32 or float64.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Seed = Annotated[int, typer.Option(help="Of weights and data.", min=0)]
Pairs = Annotated[int, typer.Option(help="How often each side runs, in alternation.", min=1)]
Steps = Annotated[int, typer.Option(help="Timed steps of a run.", min=1)]
Warmup = Annotated[int, typer.Option(help="Steps before the timed ones.", min=1)]
Threads = Annotated[int | None, typer.Option(help="For both sides; each side's best otherwise.", min=1)]
TorchEnv = Annotated[list[str], typer.Option(help="NAME=VALUE for torch's processes; repeatable.")]
Output = Annotated[Path, typer.Option(help="Folder for the JSON record.")]
NoSave = Annotated[bool, typer.Option("--no-save", help="Write no record.")]

RESULTS = BENCHMARKS / "results"


def checked(make: Callable[..., Made], **settings: Any) -> Made:
    """``make(**settings)``, with a mistake in them reported as one of the command line."""
    try:
        return make(**settings)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def keep(name: str, record: dict[str, Any], output: Path, no_save: bool) -> None:
    """Write the record, and say where."""
    if not no_save:
        console.print(f"Record: {save(name, record, output)}", style="dim", highlight=False, soft_wrap=True)


def assignments(pairs: list[str]) -> dict[str, str]:
    """``["A=1"]`` as a dict."""
    for pair in pairs:
        if "=" not in pair or pair.startswith("="):
            raise typer.BadParameter(f"--torch-env must be NAME=VALUE, got {pair!r}")
    return dict(pair.split("=", 1) for pair in pairs)
