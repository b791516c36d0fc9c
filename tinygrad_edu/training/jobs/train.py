"""The program that trains: arguments, run folder, resuming, and leaving nothing half-begun behind."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...backend import use
from ...errors import ConfigError
from ...runtime import advice
from ...storage import list_checkpoints, load_checkpoint
from ..config import RunConfig, dump_config, load_config
from ..program import INTERRUPTED, run_program
from ..run_folder import CHECKPOINTS, checkpoints_of, create_run_folder, discard_run_folder, newest_run, run_folder_of
from .job import Job, job_class


def train_program(
    argv: list[str] | None,
    *,
    default: Path | None,
    schema: type[Any] = RunConfig,
    description: str,
    program: str = "",
    job: type[Job] | None = None,
    name: str | None = None,
    options: Mapping[str, str] | None = None,
) -> int:
    """Train as the command line says; the exit status.

    Parameters
    ----------
    argv : arguments; those of the process if None
    default : settings that are read where ``--config`` is not given; None if it must be
    schema : of the settings
    description : for ``--help``
    program : name of the program, for its messages; what the process was called if empty
    job : what runs; what the settings ask for by ``training.objective`` if None
    name : of a new run's folder where ``--name`` is not given; date and time if None
    options : further options, each short for a setting: ``{"--epochs": "training.num_epochs"}``
    """
    from rich.console import Console

    args = _parse(argv, default, description, program, name, options or {})
    console = Console()
    return run_program(lambda: _train(args, default, schema, console, job))


def _parse(
    argv: list[str] | None,
    default: Path | None,
    description: str,
    program: str,
    name: str | None,
    options: Mapping[str, str],
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=program or None,
        description=description,
        epilog="Settings are overridden as key=value, for example: training.max_steps=100",
    )
    beside = f" (default: {default.name} beside this program)" if default else ""
    parser.add_argument("--config", metavar="FILE", help=f"settings{beside}")
    parser.add_argument("--name", help=f"name of the run folder (default: {name or 'date and time'})")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="RUN",
        help="go on with a run folder or checkpoint" + (" (default: the newest)" if default else ""),
    )
    parser.add_argument(
        "--accept-changes", action="store_true", help="resume although settings or data differ from the checkpoint's"
    )
    for option, path in options.items():
        parser.add_argument(option, dest=path, metavar="VALUE", help=f"short for {path}=VALUE")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that override the file's")
    args = parser.parse_intermixed_args(argv)  # settings may stand on either side of an option
    if args.resume and "=" in args.resume and not Path(args.resume).exists():  # --resume key=value
        args.overrides.insert(0, args.resume)
        args.resume = ""
    args.overrides += [f"{path}={value}" for path in options.values() if (value := vars(args)[path]) is not None]
    for word in args.overrides:
        if "=" not in word:
            parser.error(f"unknown argument {word!r}; settings are given as key=value, such as training.max_steps=100")
    if args.resume is not None and (args.config or args.name):
        parser.error("--resume takes its settings from the run; it cannot be combined with --config or --name")
    if args.resume is None and args.accept_changes:
        parser.error("--accept-changes is for --resume")
    if default is None and not args.config and not args.resume:
        parser.error("give --config FILE, or --resume RUN")
    args.name = args.name or name
    args.program = [program] if program else [sys.executable, sys.argv[0]]
    return args


def _settle_folder(args: argparse.Namespace, default: Path | None, schema: type[Any]) -> tuple[Any, Path, Path | None]:
    """Settings, run folder, and what to resume from (None for a new run)."""
    if args.resume is None:
        config = load_config(args.config or str(default), args.overrides, schema)
        return config, create_run_folder(config.training.output_dir, args.name), None
    if args.resume:
        source = checkpoints_of(args.resume)
        # A run folder holds its checkpoints in a folder; a single checkpoint lies one deeper.
        run = Path(args.resume) if source != Path(args.resume) else _run_around(source)
    else:
        run = newest_run(load_config(str(default), args.overrides, schema).training.output_dir)
        source = run / CHECKPOINTS
    return load_config(run / "config.yaml", args.overrides, schema), run, source


def _run_around(source: Path) -> Path:
    """The run folder of a checkpoint, or of a folder of checkpoints."""
    if not source.is_dir():
        raise ConfigError(f"--resume: {source} is no folder; wanted a run folder or a checkpoint")
    return source.resolve().parent if list_checkpoints(source) else run_folder_of(source)


def _train(
    args: argparse.Namespace, default: Path | None, schema: type[Any], console: Any, kind: type[Job] | None
) -> int:
    """Run or resume, from the folder to the table; returns the exit status."""
    config, folder, source = _settle_folder(args, default, schema)
    leave_nothing = source is None  # until training begins, a new run's folder holds nothing worth keeping
    try:
        checkpoint = None if source is None else load_checkpoint(source)
        with use(config.training.device):
            job = (kind or job_class(config))(config, folder, console)
            if checkpoint is None:
                job.sample("sample_before.txt")
            else:
                job.trainer.resume(checkpoint, accept_changes=args.accept_changes)
            job.write("config.yaml", dump_config(config))
            _describe(job)
            leave_nothing = False
            result = job.trainer.fit()
            if result.interrupted:
                job.draw()
                command = shlex.join([*args.program, "--resume", str(folder)])
                job.say(f"\nStopped after step {result.step:,} of {job.trainer.total_steps:,}; a checkpoint is saved.")
                job.say(f"Go on with:\n  {command}")
                return INTERRUPTED
            job.finish()
    finally:
        if leave_nothing:
            discard_run_folder(folder)
    return 0


def _describe(job: Job) -> None:
    """Print what is about to happen."""
    rows = {**job.describe(), "run folder": str(job.folder)}
    if job.trainer.state.step:
        rows["resumed"] = f"{job.trainer.state.step:,} steps are done"
    for name, text in rows.items():
        job.console.print(f"{name:<12}{text}", markup=False, soft_wrap=True)
    for line in advice():
        job.console.print(f"{'slow':<12}{line}", style="yellow", markup=False, highlight=False, soft_wrap=True)
