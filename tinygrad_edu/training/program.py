"""How a program ends: errors and warnings as sentences, and an exit status."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from ..errors import ConfigError, TinygradEduError

INTERRUPTED = 130  #: the status of a program that Ctrl-C ended, by the shells' convention


def run_program(work: Callable[[], int]) -> int:
    """Run `work` and give its exit status; what a user can cause is told without a traceback.

    Returns
    -------
    int
        What `work` returned; 2 for a :class:`~tinygrad_edu.errors.ConfigError`, 1 for every other error of
        this library, 130 after Ctrl-C. Errors that are mistakes of a program keep their traceback.
    """
    from rich.console import Console

    errors = Console(stderr=True)

    def tell(text: str) -> None:
        errors.print(text, markup=False, highlight=False, soft_wrap=True)

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        tell(f"warning: {message}")

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        try:
            return work()
        except TinygradEduError as error:
            tell(f"error: {error}")
            return 2 if isinstance(error, ConfigError) else 1
        except KeyboardInterrupt:
            tell("\nQuit at once. Checkpoints that were saved are whole.")
            return INTERRUPTED
