"""The course of a stage that makes something of trained networks: arguments, networks, a folder, results."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tinygrad_edu as tg
from tinygrad_edu import __version__
from tinygrad_edu.data.designs import SyntheticDesignDataset
from tinygrad_edu.errors import ConfigError
from tinygrad_edu.models.diffusion import DiffusionProcess
from tinygrad_edu.storage import encode_json, load_checkpoint, write_atomic
from tinygrad_edu.training import load_config
from tinygrad_edu.training.progress import format_seconds
from tinygrad_edu.training.program import run_program
from tinygrad_edu.training.run_folder import checkpoints_of, create_run_folder, discard_run_folder

from .data import prepare_designs
from .decoder import load_decoder
from .networks import Reader, load_reader
from .stages import Criterion, criteria_table


@dataclass
class Making:
    """What a stage has to work with, and where it puts what it makes.

    Attributes
    ----------
    stage : its name
    config : its settings
    args : of the command line
    folder : its own, new; None where nothing is to be kept
    decoder, reader : the trained networks
    source : what the decoder was loaded from
    designs : opens a split of the designs, with given fields
    console : where to print
    """

    stage: str
    config: Any
    args: argparse.Namespace
    console: Any
    folder: Path | None
    decoder: DiffusionProcess
    reader: Reader
    source: str
    pictures: dict[str, str] = field(default_factory=dict)

    def designs(self, split: str, fields: tuple[str, ...]) -> SyntheticDesignDataset:
        """A split of the designs."""
        folder = prepare_designs(self.config.data, self.console)
        return SyntheticDesignDataset(folder, split, fields, verify=False)

    def place(self, name: str, caption: str) -> Path:
        """Where a picture goes, which the report then shows."""
        assert self.folder is not None
        self.pictures[name] = caption
        return self.folder / name

    def say(self, text: str) -> None:
        """Print a line as it is."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def finish(
        self,
        figures: Mapping[str, float],
        criteria: tuple[Criterion, ...],
        measured_on: str,
        seconds: float,
        tables: tuple[Mapping[str, Any], ...] = (),
    ) -> None:
        """Print figures and criteria, and write ``results.json`` last: it says that the stage is done."""
        results = {
            "stage": self.stage,
            "figures": dict(figures),
            "criteria": [criterion.judged(figures) for criterion in criteria],
            "measured_on": f"{measured_on}; {self.source}",
            "seconds": seconds,
            "pictures": self.pictures,
            "tables": list(tables),
            "tinygrad_edu": __version__,
        }
        self.console.print(criteria_table(results))
        if self.folder is not None:
            write_atomic(self.folder / "results.json", encode_json(results, "results"))
            self.say(f"{self.stage} took {format_seconds(seconds)}. Everything is in {self.folder}")


def making_parser(description: str, stage: str, options: Mapping[str, str]) -> argparse.ArgumentParser:
    """Arguments that all of these stages take; `options` are short for settings."""
    parser = argparse.ArgumentParser(
        description=description, epilog="Settings are overridden as key=value, for example: sampling.steps=50"
    )
    parser.add_argument("--config", metavar="FILE", help="settings (default: the file beside this program)")
    parser.add_argument("--name", default=stage, help=f"name of the folder it makes (default: {stage})")
    parser.add_argument(
        "--checkpoint", metavar="CKPT", help="run folder or checkpoint of the decoder (default: the run decoder)"
    )
    for option, path in options.items():
        parser.add_argument(option, dest=path, metavar="VALUE", help=f"short for {path}=VALUE")
    parser.add_argument("--validate", action="store_true", help="measure and print; keep nothing")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that override the file's")
    return parser


def making_program(
    parser: argparse.ArgumentParser,
    argv: list[str] | None,
    *,
    schema: type[Any],
    default: Path,
    options: Mapping[str, str],
    make: Callable[[Making], None],
) -> int:
    """Load what is there, make what the stage makes, leave nothing half made; the exit status."""
    from rich.console import Console

    args = parser.parse_intermixed_args(argv)
    args.overrides += [f"{path}={value}" for path in options.values() if (value := vars(args)[path]) is not None]
    for word in args.overrides:
        if "=" not in word:
            parser.error(f"unknown argument {word!r}; settings are given as key=value, such as sampling.steps=50")
    console = Console()

    def work() -> int:
        config = load_config(args.config or str(default), args.overrides, schema)
        runs = Path(config.training.output_dir)
        path = args.checkpoint or runs / "decoder"
        if not Path(path).is_dir():
            raise ConfigError(
                f"--checkpoint: there is no run {path}; train one first: "
                "python projects/design_decomposition/train_decoder.py"
            )
        with tg.use(config.training.device):
            source = load_checkpoint(checkpoints_of(path), which="best").path
            decoder, theirs = load_decoder(source)
            reader, _ = load_reader(runs / "encoder", runs / "abstractor")
            if theirs.data.size != config.data.size:
                console.print(f"pictures of {config.data.size} pixels by a decoder that learned {theirs.data.size}")
            folder = None if args.validate else create_run_folder(runs, args.name)
            making = Making(args.name, config, args, console, folder, decoder, reader, str(source))
            try:
                make(making)
            except BaseException:
                if folder is not None:
                    discard_run_folder(folder)
                raise
        return 0

    return run_program(work)
