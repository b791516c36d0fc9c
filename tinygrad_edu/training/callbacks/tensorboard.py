"""The history in TensorBoard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from .base import Callback

if TYPE_CHECKING:
    from ..trainer import Trainer

#: Where the figures of an event stand.
_GROUPS = {"evaluation": "validation", "learning_rate": "train"}


class TensorBoard(Callback):
    """Writes every figure of the history for TensorBoard, through tensorboardX.

    Training figures are under ``train/``, those of evaluations under ``validation/``, gradients under
    ``gradients/``. A resumed run goes on in the same folder, and hides what an interrupted one wrote after
    its checkpoint. ``tensorboard --logdir FOLDER`` shows it.

    Parameters
    ----------
    folder : where the event files go; made if it is not there

    Raises
    ------
    ConfigError
        If tensorboardX is not installed: at once, not when training begins.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        try:
            import tensorboardX  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                "tensorboard: tensorboardX is not installed; run `pip install 'tinygrad_edu[tensorboard]'` "
                "or `pip install tensorboardX`"
            ) from error
        self._writer: Any = None

    def on_start(self, trainer: Trainer) -> None:
        from tensorboardX import SummaryWriter

        step = trainer.state.step
        resumed = {"purge_step": step + 1, "filename_suffix": f".{step}"} if step else {}
        try:  # the suffix, because files are named by the second, and a run may be resumed in the one it stopped in
            self._writer = SummaryWriter(str(self.folder), **resumed)
        except OSError as error:
            raise ConfigError(f"tensorboard: nothing can be written to {self.folder}: {error.strerror}") from error

    def on_record(self, record: Mapping[str, Any]) -> None:
        if self._writer is None:
            return
        event = record["event"]
        figures = {name: value for name, value in record.items() if name not in ("event", "step", "best")}
        for name, value in _numbers(figures):
            self._writer.add_scalar(f"{_GROUPS.get(event, event)}/{name}", value, record["step"])

    def on_end(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _numbers(figures: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """All numbers, those of mappings within under the names of both; ``groups`` needs no name of its own."""
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, prefix if name == "groups" else f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{name}", float(value)
