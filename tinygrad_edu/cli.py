"""The command ``tinygrad-edu``. Each command stays thin: it reads arguments and hands over to the library."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from . import __version__
from .check.command import check
from .errors import TinygradEduError

app = typer.Typer(
    name="tinygrad-edu",
    help="Deep learning from scratch on NumPy and CuPy, every gradient by hand.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Deep learning from scratch on NumPy and CuPy, every gradient by hand."""


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print all facts and findings as JSON.")] = False,
    measure: Annotated[bool, typer.Option(help="Measure the rate of matrix products (some seconds).")] = True,
) -> None:
    """Say what is installed and in use, what is wrong or slow, and the exact line that mends it.

    The exit status is 1 if something is wrong; things that are only slow leave it 0.
    """
    from . import doctor as examination

    report = examination.examine(measure=measure)
    if as_json:
        typer.echo(json.dumps(report.as_dict(), indent=2))
    else:
        examination.show(report)
    if any(finding.level == "wrong" for finding in report.findings):
        raise typer.Exit(1)


app.command()(check)

#: These read their own arguments, ``--help`` among them: they are the same programs that the projects run.
_AS_IS = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command(context_settings=_AS_IS, add_help_option=False)
def train(context: typer.Context) -> None:
    """Train a language or translation model: train --config FILE [key=value ...], or train --resume RUN."""
    from .training import FoundryConfig
    from .training.jobs import train_program

    about = "Train a language or translation model as a config file says."
    raise typer.Exit(
        train_program(context.args, default=None, schema=FoundryConfig, description=about, program="tinygrad-edu train")
    )


@app.command(context_settings=_AS_IS, add_help_option=False)
def evaluate(context: typer.Context) -> None:
    """Measure a trained model: evaluate --checkpoint RUN [--split test] [--ngrams] [--json]."""
    from .training.jobs import evaluate_program

    about = "Measure a trained model, or let it write."
    raise typer.Exit(evaluate_program(context.args, description=about, program="tinygrad-edu evaluate"))


@app.command(context_settings=_AS_IS, add_help_option=False)
def generate(context: typer.Context) -> None:
    """Let a trained model write: generate --checkpoint RUN --prompt TEXT."""
    from .training.jobs import generate_program

    about = "Let a trained model write, token by token."
    raise typer.Exit(generate_program(context.args, description=about, program="tinygrad-edu generate"))


def main() -> None:
    """Run the command line; an error that the user can mend is one line, not a traceback."""
    try:
        app()
    except TinygradEduError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
