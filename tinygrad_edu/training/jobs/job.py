"""A run with all its parts, whatever it trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ...models import BaseLanguageModel
from ...storage import Checkpoint, write_atomic
from ...viz import plot_history
from ..callbacks import Callback
from ..history import JsonlHistory, read_history
from ..progress import ProgressBar
from ..run_folder import CHECKPOINTS
from ..trainer import Trainer

if TYPE_CHECKING:
    from rich.console import Console

#: Where the job of each objective stands, so that none is imported but the one that runs.
_JOBS = {
    "causal_lm": ("language", "LanguageJob"),
    "masked_lm": ("masked", "MaskedLanguageJob"),
    "translation": ("translation", "TranslationJob"),
}


class Job(ABC):
    """Data, model and trainer of a run, and what it writes and prints before and after.

    Parameters
    ----------
    config : settings of the run
    folder : the run folder, which is there and empty, or that of the run to be resumed
    console : where to print

    Attributes
    ----------
    model, trainer : made by :meth:`_assemble`
    """

    #: What `evaluate` calls the splits of the data.
    splits: ClassVar[tuple[str, ...]] = ("train", "validation", "test")

    model: BaseLanguageModel
    trainer: Trainer

    def __init__(self, config: Any, folder: Path, console: Console):
        self.config, self.folder, self.console = config, folder, console
        self._assemble()

    # -- what a kind of job brings --------------------------------------------------------------------

    @abstractmethod
    def _assemble(self) -> None:
        """Make data, model and trainer, as the settings ask for them."""

    @abstractmethod
    def describe(self) -> Mapping[str, str]:
        """What is about to happen: rows of a table."""

    @abstractmethod
    def sample(self, name: str) -> None:
        """Write a file `name` in the run folder that shows what the model can do at this moment."""

    @abstractmethod
    def finish(self) -> None:
        """Measure, write and print what the run has come to."""

    @classmethod
    @abstractmethod
    def evaluate(cls, checkpoint: Checkpoint, args: Any, console: Console) -> int:
        """Measure a trained model on one of the splits; the exit status."""

    @classmethod
    @abstractmethod
    def generate(cls, checkpoint: Checkpoint, args: Any, console: Console) -> int:
        """Let a trained model write; the exit status."""

    # -- what all jobs have ---------------------------------------------------------------------------

    @property
    def title(self) -> str:
        """One line on the model and its training."""
        return f"{self.model.get_parameter_count():,} parameters"

    def callbacks(self) -> list[Callback]:
        """What is hung onto the trainer."""
        hung: list[Callback] = [JsonlHistory(self.folder / "history.jsonl"), ProgressBar(self.console)]
        return hung

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints go."""
        return self.folder / CHECKPOINTS

    def draw(self) -> None:
        """Write the picture of the run so far."""
        records = read_history(self.folder / "history.jsonl")
        if any(record["event"] in ("train", "evaluation") for record in records):
            plot_history(records, self.folder / "loss_curve.png", title=self.title)

    def write(self, name: str, text: str) -> None:
        """Write a file of the run folder, whole or not at all."""
        write_atomic(self.folder / name, text.encode())

    def say(self, text: str = "") -> None:
        """Print a line as it is."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def job_class(config: Any) -> type[Job]:
    """The kind of job that a config asks for, by its ``training.objective``."""
    module, name = _JOBS[getattr(config.training, "objective", "causal_lm")]
    found: type[Job] = getattr(import_module(f"{__package__}.{module}"), name)
    return found
