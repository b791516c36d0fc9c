"""Ctrl-C that waits for the step to end, and Ctrl-C twice that does not."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType
from typing import Any, Self

_MESSAGE = b"\nStopping after this step, and saving a checkpoint. Once more quits at once.\n"


class StopSignals:
    """While entered, the first SIGINT or SIGTERM sets :attr:`requested`; the second raises KeyboardInterrupt.

    Outside the main thread Python takes no signal handlers: nothing is installed there, and
    :attr:`requested` can be set by hand.

    Attributes
    ----------
    requested : whether to stop at the next good moment
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before.clear()

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        with contextlib.suppress(OSError):  # not print(): the signal may have come in the middle of one
            os.write(2, _MESSAGE)
