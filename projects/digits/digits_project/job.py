"""The course of a run, as both programs have it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from tinygrad_edu import __version__
from tinygrad_edu.errors import ConfigError
from tinygrad_edu.layers.base import Layer
from tinygrad_edu.storage import Checkpoint, encode_json
from tinygrad_edu.training import Callback, JsonlHistory, ProgressBar, Trainer
from tinygrad_edu.training.jobs import Job
from tinygrad_edu.training.progress import format_seconds

from .data import Digits, load_splits


class DigitsJob(Job):
    """Digits, a network in training, and what is written before and after.

    Attributes
    ----------
    digits : by split
    model : what is trained
    """

    name: ClassVar[str]
    #: Figures that the terminal shows after each evaluation: format texts by name.
    shown: ClassVar[Mapping[str, str]] = {}

    digits: dict[str, Digits]
    model: Layer  # type: ignore[assignment]

    # -- what a kind of job brings -------------------------------------------------------------------------

    @abstractmethod
    def build(self) -> tuple[Layer, Layer | None]:
        """A new network as the settings want it, and the loss of one that brings none."""

    @abstractmethod
    def figures(self, stop: Callable[[], bool]) -> dict[str, float]:
        """Figures on the validation digits, ``"loss"`` among them."""

    @abstractmethod
    def picture(self, path: Path) -> None:
        """Draw what the network makes of digits at this moment."""

    @abstractmethod
    def results(self) -> dict[str, Any]:
        """The figures of the finished run; pictures are drawn on the way."""

    # -- the course ----------------------------------------------------------------------------------------

    def _assemble(self) -> None:
        config, settings = self.config, self.config.training
        self.digits = load_splits(config.data)
        self.model, loss = self.build()
        self.trainer = Trainer(
            self.model,
            self.digits["train"].loader(settings.batch_size, settings.seed),
            settings,
            loss=loss,
            evaluate=self.figures,
            callbacks=self.callbacks(),
            checkpoints=self.checkpoints,
            documents={"config": config.model_dump(mode="json")},
        )

    def callbacks(self) -> list[Callback]:
        return [JsonlHistory(self.folder / "history.jsonl"), ProgressBar(self.console, self.shown)]

    @property
    def title(self) -> str:
        return f"{self.name}: {self.model.num_parameters():,} parameters, batch {self.config.training.batch_size}"

    def describe(self) -> Mapping[str, str]:
        trainer = self.trainer
        counts = {split: f"{len(digits):,}" for split, digits in self.digits.items()}
        return {
            "digits": f"{counts['train']} to train on, {counts['validation']} to watch by, {counts['test']} held out",
            "model": f"{self.model.num_parameters():,} parameters",
            "training": f"{trainer.total_steps:,} steps, {trainer.total_steps / trainer.steps_per_epoch:.1f} epochs",
        }

    def sample(self, name: str) -> None:
        path = (self.folder / name).with_suffix(".png")
        path.parent.mkdir(exist_ok=True)
        self.picture(path)

    def finish(self) -> None:
        state = self.trainer.state
        found = self.results()
        self.sample("sample_after")
        self.draw()
        results = {
            **found,
            "steps": state.step,
            "training_seconds": state.seconds,
            "parameters": self.model.num_parameters(),
            "digits": {split: len(digits) for split, digits in self.digits.items()},
            "tinygrad_edu": __version__,
        }
        self.write("results.json", encode_json(results, "results").decode())  # last: it says that the run is done
        self.say(f"{state.step:,} steps took {format_seconds(state.seconds)}. Everything is in {self.folder}")

    @classmethod
    def evaluate(cls, checkpoint: Checkpoint, args: Any, console: Any) -> int:
        raise ConfigError(f"{checkpoint.path}: the figures of a {cls.name} are in its results.json")

    @classmethod
    def generate(cls, checkpoint: Checkpoint, args: Any, console: Any) -> int:
        raise ConfigError(f"{checkpoint.path}: a {cls.name} writes no text")
