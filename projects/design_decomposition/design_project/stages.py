"""The course of a stage that trains: what all of them do before, after each epoch and at the end."""

from __future__ import annotations

import argparse
import json
import operator
import sys
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import tinygrad_edu as tg
from tinygrad_edu import __version__
from tinygrad_edu.data.designs import SyntheticDesignDataset
from tinygrad_edu.errors import CheckpointError, ConfigError, ShapeError
from tinygrad_edu.layers.base import Layer
from tinygrad_edu.storage import Checkpoint, encode_json, list_checkpoints, load_checkpoint
from tinygrad_edu.training import Callback, JsonlHistory, ProgressBar, ReduceLROnPlateau, Trainer, make_config
from tinygrad_edu.training import trained_weights
from tinygrad_edu.training.jobs import Job, train_program
from tinygrad_edu.training.progress import format_seconds
from tinygrad_edu.training.program import run_program
from tinygrad_edu.training.run_folder import checkpoints_of

from .data import prepare_designs
from .settings import DesignConfig

OPTIONS = {
    "--epochs": "training.num_epochs",
    "--batch_size": "training.batch_size",
    "--lr": "training.learning_rate",
    "--checkpoint": "training.begin_with",
}
_RELATIONS: dict[str, Callable[[float, float], bool]] = {">": operator.gt, "<": operator.lt}


@dataclass(frozen=True)
class Criterion:
    """What a figure is wanted to be: ``Criterion("text IoU", "text_iou", ">", 0.9)``."""

    name: str
    figure: str
    relation: str
    bound: float

    def judged(self, figures: Mapping[str, Any]) -> dict[str, Any]:
        """The criterion beside what was found, as plain data."""
        value = float(figures[self.figure])
        wanted = f"{self.relation} {self.bound:g}"
        return {
            "name": self.name,
            "value": value,
            "wanted": wanted,
            "met": _RELATIONS[self.relation](value, self.bound),
        }


class EachEvaluation(Callback):
    """Does something after each evaluation, with its record."""

    def __init__(self, do: Callable[[Mapping[str, Any]], None]):
        self.do = do

    def on_record(self, record: Mapping[str, Any]) -> None:
        if record["event"] == "evaluation":
            self.do(record)


class DesignJob(Job):
    """A network of this project in training, on designs.

    A kind of job says its :attr:`stage`, :attr:`schema`, :attr:`criteria` and :attr:`shown`, and makes its parts.

    Attributes
    ----------
    model : the network whose checkpoints are kept; it brings its loss, or :meth:`make_loss` does
    designs : by split
    """

    stage: ClassVar[str]
    schema: ClassVar[type[DesignConfig]]
    criteria: ClassVar[tuple[Criterion, ...]] = ()
    #: Figures that the terminal shows after each evaluation: format texts by name.
    shown: ClassVar[Mapping[str, str]] = {}
    #: What is read of each design.
    fields: ClassVar[tuple[str, ...]]

    model: Layer  # type: ignore[assignment]

    # -- what a kind of job brings -------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def build(cls, config: Any) -> Layer:
        """A new network as the settings want it."""

    def make_loss(self) -> Layer | None:
        """The loss, of a network that brings none."""
        return None

    @abstractmethod
    def loader(self, split: str) -> Any:
        """Batches of a split; those to train on are shuffled."""

    @abstractmethod
    def figures(self, split: str, stop: Callable[[], bool] = lambda: False) -> dict[str, float]:
        """Figures of the network as it is now on a split, ``"loss"`` among them; `stop` is asked before each batch."""

    @abstractmethod
    def picture(self, path: Path) -> None:
        """Draw what the network makes of some designs at this moment."""

    # -- the course ----------------------------------------------------------------------------------------

    def _assemble(self) -> None:
        config = self.config
        self.prepare()
        self.model = self.build(config)
        if config.training.begin_with is not None and not list_checkpoints(self.checkpoints):
            self._begin_with(config.training.begin_with)  # a run that has checkpoints of its own goes on from those
        loader = self.loader("train")
        accumulated = config.training.gradient_accumulation_steps
        epoch = -(-len(loader) // accumulated)
        given = config.training
        settings = given.model_copy(
            update={"eval_every": given.eval_every or epoch, "save_every": given.save_every or epoch}
        )
        self.trainer = Trainer(
            self.model,
            loader,
            settings,
            loss=self.make_loss(),
            evaluate=lambda stop: self.figures("validation", stop),
            callbacks=self.callbacks(),
            checkpoints=self.checkpoints,
            documents={"config": config.model_dump(mode="json")},
        )

    def prepare(self) -> None:
        """Open the designs."""
        folder = prepare_designs(self.config.data, self.console)
        self.designs = {
            split: SyntheticDesignDataset(folder, split, self.fields, verify=split == "train") for split in self.splits
        }

    def _begin_with(self, path: str) -> None:
        checkpoint = load_checkpoint(checkpoints_of(path), which="best")
        try:
            self.model.load_state_dict(dict(trained_weights(checkpoint)))
        except ShapeError as error:
            raise CheckpointError(f"{checkpoint.path}: {error}") from error

    def callbacks(self) -> list[Callback]:
        settings = self.config.training
        hung: list[Callback] = [
            JsonlHistory(self.folder / "history.jsonl"),
            ProgressBar(self.console, self.shown),
            EachEvaluation(lambda record: self.sample(f"predictions/step_{record['step']:06d}.png")),
        ]
        if settings.plateau_patience is not None:
            hung.append(ReduceLROnPlateau(settings.plateau_factor, settings.plateau_patience))
        return hung

    @property
    def title(self) -> str:
        size, batch = self.config.data.size, self.config.training.batch_size
        return f"{self.stage}: {self.model.num_parameters():,} parameters, {size} pixels, batch {batch}"

    def describe(self) -> Mapping[str, str]:
        trainer, data = self.trainer, self.config.data
        return {
            "stage": self.stage,
            "designs": f"{data.folder}: {len(self.designs['train']):,} to train on, {data.size} pixels",
            "model": f"{self.model.num_parameters():,} parameters",
            "training": f"{trainer.total_steps:,} steps, {trainer.total_steps / trainer.steps_per_epoch:.1f} epochs",
        }

    def sample(self, name: str) -> None:
        path = (self.folder / name).with_suffix(".png")
        path.parent.mkdir(exist_ok=True)
        self.picture(path)

    def finish(self) -> None:
        state = self.trainer.state
        best = load_checkpoint(self.checkpoints, which="best")
        self.model.load_state_dict(dict(trained_weights(best)))
        figures = self.figures("test")
        results = {
            "stage": self.stage,
            "figures": figures,
            "criteria": [criterion.judged(figures) for criterion in self.criteria],
            "measured_on": f"{len(self.designs['test']):,} test designs, best weights of step {best.step:,}",
            "steps": state.step,
            "epochs": self.trainer.epoch,
            "training_seconds": state.seconds,
            "parameters": self.model.num_parameters(),
            "tinygrad_edu": __version__,
        }
        self.sample("sample_after.png")
        self.draw()
        self.console.print(criteria_table(results))
        self.say(f"{state.step:,} steps took {format_seconds(state.seconds)}. Everything is in {self.folder}")
        self.write("results.json", encode_json(results, "results").decode())  # last: it says that the stage is done

    # -- measuring what was trained ------------------------------------------------------------------------

    @classmethod
    def evaluate(cls, checkpoint: Checkpoint, args: Any, console: Any) -> int:
        """Measure a checkpoint on a split, and print the figures; the exit status."""
        config = make_config(
            checkpoint.documents.get("config", {}), args.overrides, cls.schema, where=f"{checkpoint.path}/config.json"
        )
        job = cls.__new__(cls)
        job.config, job.folder, job.console = config, checkpoint.path, console
        with tg.use(config.training.device):
            job.prepare()
            job.model = cls.build(config)
            try:
                job.model.load_state_dict(dict(trained_weights(checkpoint)))
            except ShapeError as error:
                raise CheckpointError(f"{checkpoint.path}: {error}") from error
            figures = job.figures(args.split)
        criteria = [criterion.judged(figures) for criterion in cls.criteria]
        if args.json:
            print(json.dumps({"checkpoint": str(checkpoint.path), "split": args.split, **figures}))
            return 0
        on = f"{len(job.designs[args.split]):,} designs of the {args.split} split, {checkpoint.path.name}"
        console.print(criteria_table({"stage": cls.stage, "criteria": criteria, "measured_on": on, "figures": figures}))
        return 0

    @classmethod
    def generate(cls, checkpoint: Checkpoint, args: Any, console: Any) -> int:
        raise ConfigError(f"{checkpoint.path}: {cls.stage} writes nothing")


def criteria_table(results: Mapping[str, Any]) -> Any:
    """Criteria of a stage and all its other figures, for the terminal."""
    from rich.table import Table

    table = Table(title=f"{results['stage']}: {results['measured_on']}", title_justify="left")
    for column in ("", "found", "wanted", ""):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for criterion in results["criteria"]:
        met = "met" if criterion["met"] else "MISSED"
        table.add_row(criterion["name"], f"{criterion['value']:.4f}", criterion["wanted"], met)
    table.add_section()
    for name, value in results["figures"].items():
        table.add_row(name.replace("_", " "), f"{value:.4f}", "", "")
    return table


# -- programs ----------------------------------------------------------------------------------------------


def stage_program(argv: list[str] | None, *, job: type[DesignJob], default: Path, description: str) -> int:
    """Train a stage, or with ``--validate`` measure what was trained, as the command line says; the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if "--validate" in argv:
        return _validate(argv, job, default)
    return train_program(
        argv,
        default=default,
        schema=job.schema,
        job=job,
        name=job.stage,
        options=OPTIONS,
        description=f"{description} With --validate, measure a checkpoint instead (--validate --help says how).",
    )


def _validate(argv: list[str], job: type[DesignJob], default: Path) -> int:
    from rich.console import Console

    parser = argparse.ArgumentParser(description=f"Measure a trained {job.stage}.")
    parser.add_argument("--validate", action="store_true", help="measure instead of training")
    parser.add_argument(
        "--checkpoint", help=f"a run folder (its best checkpoint), or one checkpoint; default: the run {job.stage}"
    )
    parser.add_argument("--split", choices=DesignJob.splits, default="validation", help="default: validation")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, such as data.folder=FOLDER")
    args = parser.parse_intermixed_args(argv)

    def work() -> int:
        from tinygrad_edu.training import load_config

        source = args.checkpoint
        if source is None:
            source = Path(load_config(default, args.overrides, job.schema).training.output_dir) / job.stage
        return job.evaluate(load_checkpoint(checkpoints_of(source), which="best"), args, Console())

    return run_program(work)
