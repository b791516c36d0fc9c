"""Progress in the terminal: a bar where there is one, plain lines where there is not."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .callbacks import Callback, StepReport

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from .trainer import Trainer

_LINE_EVERY = 10.0  # seconds between lines where no bar can be drawn
_SMOOTHING = 0.95  # of the figures on the bar, which would flicker otherwise


#: What a line on an evaluation shows besides the loss, where it was measured.
_FIGURES = {
    "perplexity": ", perplexity {:.2f}",
    "bits_per_byte": ", {:.3f} bits/byte",
    "exact_match": ", exact match {:.1%}",
    "bleu": ", BLEU {:.1f}",
}


def _is_number(record: Mapping[str, Any], name: str) -> bool:
    return isinstance(record.get(name), int | float) and math.isfinite(record[name])


def format_seconds(seconds: float) -> str:
    """``8s``, ``2:05`` or ``1:02:05``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class ProgressBar(Callback):
    """Shows step, loss, tokens per second, gradient norm and the time left.

    Parameters
    ----------
    console : rich's console; standard error's if None
    figures : what a line on an evaluation shows besides the usual figures: format texts by the figure's name
    """

    def __init__(self, console: Console | None = None, figures: Mapping[str, str] | None = None):
        self.console = console
        self._figures = {**_FIGURES, **(figures or {})}
        self._bar: Progress | None = None

    def on_start(self, trainer: Trainer) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self.console = self.console or Console(stderr=True)
        self._total, self._unit = trainer.total_steps, trainer.unit
        self._first_step, self._began = trainer.state.step, time.perf_counter()
        self._last_line = self._began
        self._loss = self._norm = self._rate = 0.0
        self._weight = 0.0
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.completed}/{task.total}"),
                BarColumn(None),
                TextColumn("{task.fields[text]}"),
            )
            self._bar = Progress(*columns, console=self.console, expand=True, refresh_per_second=4)
            self._task = self._bar.add_task("", total=self._total, completed=trainer.state.step, text="")
            self._bar.start()

    def on_step(self, report: StepReport) -> None:
        rest = 1 - _SMOOTHING
        self._weight = _SMOOTHING * self._weight + rest  # undoes the start from zero, as Adam does
        self._loss = _SMOOTHING * self._loss + rest * report.loss
        self._norm = _SMOOTHING * self._norm + rest * report.grad_norm
        self._rate = _SMOOTHING * self._rate + rest * report.seconds / report.tokens
        now = time.perf_counter()
        text = (
            f"loss {self._loss / self._weight:.3f}  {self._weight / max(self._rate, 1e-12):,.0f} {self._unit}/s  "
            f"|grad| {self._norm / self._weight:.2f}{self._time_left(report.step, now)}"
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=report.step, text=text)
        elif now - self._last_line >= _LINE_EVERY or report.step == self._total:
            self._last_line = now
            self._print(f"step {report.step}/{self._total}  {text}")

    def _time_left(self, step: int, now: float) -> str:
        """``  2:05 left``, by the mean of the steps so far without the first, in which the kernels compile."""
        done = step - self._first_step - 1
        if done == 0:
            self._began = now
            return ""
        return f"  {format_seconds((now - self._began) / done * (self._total - step))} left"

    def on_record(self, record: Mapping[str, Any]) -> None:
        if record["event"] == "evaluation":
            best = "  best so far" if record["best"] else ""
            figures = "".join(
                text.format(record[name]) for name, text in self._figures.items() if _is_number(record, name)
            )
            self._print(f"step {record['step']}/{self._total}  validation loss {record['loss']:.4f}{figures}{best}")
        elif record["event"] == "skipped":
            self._print(f"step {record['step']} skipped: loss {record['loss']}, gradient norm {record['grad_norm']}")

    def on_end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _print(self, text: str) -> None:
        assert self.console is not None
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)
