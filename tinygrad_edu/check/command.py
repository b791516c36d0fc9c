"""``tinygrad-edu check``: the table from the command line, or a learner's own class in the place of the library's."""

from __future__ import annotations

import importlib.util
import runpy
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import ConfigError, did_you_mean
from . import cases, op_cases
from .case import Case
from .op_cases import OpCase
from .report import Report, show_error

PIP_TORCH = "pip install torch"
SIZES = ((3, 4), (1, 4), (3, 1), (1, 1))  # batch and time


def rows(name: str) -> list[Case | OpCase]:
    """The rows for the name of a layer, loss or op, or all of them.

    Raises
    ------
    ConfigError
        If the name is in neither table.
    """
    table: list[Case | OpCase] = [*cases.CASES, *op_cases.OP_CASES]
    known = [case.of for case in table]
    found = [case for case in table if name in ("all", case.of)]
    if not found:
        raise ConfigError(
            f"check: there is no layer, loss or op named {name!r}.{did_you_mean(name, [*known, 'all'])} "
            f"There are: all, {', '.join(dict.fromkeys(known))}"
        )
    return found


def load_mine(path: Path, wanted: set[str]) -> dict[str, Any]:
    """Run a learner's file and take from it what it defines of `wanted`.

    Raises
    ------
    ConfigError
        If the file cannot be read, does not run (naming the line), or defines none of it.
    """
    if not path.is_file():
        raise ConfigError(f"--mine: there is no file {path}")
    try:
        found = runpy.run_path(str(path))
    except SyntaxError as error:
        raise ConfigError(f"--mine: {path}, line {error.lineno}: {error.msg}: {(error.text or '').strip()}") from None
    except Exception as error:
        raise ConfigError(
            f"--mine: {path} does not run: {type(error).__name__}: {error}{_where(error, path)}"
        ) from None
    mine = {name: found[name] for name in wanted if name in found}
    if not mine:
        own = [name for name, value in found.items() if callable(value) and not name.startswith("_")]
        hint = did_you_mean(min(wanted), own)
        raise ConfigError(f"--mine: {path} defines no {' or '.join(sorted(wanted))}.{hint}")
    return mine


def _where(error: BaseException, path: Path) -> str:
    """`` (line 7: y = x.foo)`` for the last line of the learner's file that `error` came through."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == path]
    return f" (line {frames[-1].lineno}: {frames[-1].line})" if frames else ""


def attempt(case: Case | OpCase, size: tuple[int, int], path: Path | None, **settings: Any) -> Report:
    """Check one row; what a learner's forward or constructor raises becomes a report too."""
    try:
        report = case.check(*size, **settings)
    except Exception as error:
        if path is None:
            raise
        return Report(case.name, failure=f"{type(error).__name__}: {error}{_where(error, path)}", stage="forward")
    if size != SIZES[0]:
        report.name += f" at batch {size[0]}, time {size[1]}"
    return report


def check(
    name: Annotated[str, typer.Argument(help="A layer, loss or op, such as LayerNorm or softmax; or all.")],
    mine: Annotated[
        Path | None, typer.Option(help="A Python file with your own class (or functions) of that name.", metavar="FILE")
    ] = None,
    torch: Annotated[
        bool | None, typer.Option("--torch/--no-torch", help="Add torch's gradient; by default if torch is installed.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Of inputs, weights and directions.")] = 0,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the numbers of what is right, too.")] = False,
) -> None:
    """Check gradients: yours against central differences and torch, and say where they are wrong.

    With --mine, your own class stands in for the library's of the same name, in every row of the table that
    builds it; the same tests apply. For an op, define `softmax` and `softmax_backward`, say.
    The exit status is 1 if anything is wrong.
    """
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    chosen = rows(name)
    own: Mapping[str, Any] = {}
    if mine is not None:
        if name == "all":
            raise ConfigError("check: --mine needs the name of one layer, loss or op, not 'all'")
        wanted = {part for case in chosen for part in (case.ops if isinstance(case, OpCase) else (case.of,))}
        own = load_mine(mine, wanted)
    torch_absent = importlib.util.find_spec("torch") is None
    if torch is None:
        torch = not torch_absent
    elif torch and torch_absent:
        raise ConfigError(f"check: --torch was given, but torch is not installed: {PIP_TORCH}")
    wrong = 0
    for case in chosen:
        reports = []
        for size in SIZES:
            reports.append(attempt(case, size, mine, torch=torch, device=device, mine=own, seed=seed))
            if not reports[-1].ok:
                break
        wrong += not reports[-1].ok
        _show(console, reports, verbose)
    ending = "all is right" if not wrong else f"{wrong} {'is' if wrong == 1 else 'are'} wrong"
    console.print(
        f"{len(chosen)} {'check' if len(chosen) == 1 else 'checks'}, {ending}",
        style="bold red" if wrong else "bold green",
    )
    if mine is not None and torch_absent:
        console.print(
            "Without torch your backward was held against your own forward alone; whether that forward is the right "
            f"function was not checked. For that: {PIP_TORCH}"
        )
    if wrong:
        raise typer.Exit(1)


def _show(console: Any, reports: list[Report], verbose: bool) -> None:
    """One line for what is right at every size; the whole report of what is wrong, or of all if asked for."""
    last = reports[-1]
    if not last.ok:
        console.print(last)
        console.print()
    elif verbose:
        console.print(reports[0])
        console.print()
    else:
        console.print(
            f"{last.name.partition(' at batch')[0]:56} ok  error {show_error(max(r.error for r in reports))}",
            style="green",
        )
