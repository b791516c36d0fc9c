"""The programs that use what was trained: measuring it, and letting it write."""

from __future__ import annotations

import argparse
from typing import Any

from ...errors import ConfigError
from ...storage import Checkpoint, load_checkpoint
from ..assembly import config_of
from ..program import run_program
from ..run_folder import checkpoints_of
from .job import Job, job_class


def evaluate_program(argv: list[str] | None, *, description: str, program: str = "") -> int:
    """Measure a trained model as the command line says (or with ``--generate`` let it write); the exit status."""
    parser = argparse.ArgumentParser(prog=program or None, description=description)
    _add_source(parser)
    parser.add_argument("--split", choices=Job.splits, default="test", help="default: test")
    parser.add_argument("--stride", type=int, help="tokens scored in each window (default: half of it)")
    parser.add_argument("--ngrams", action="store_true", help="measure character n-grams on the same split")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    writing = parser.add_argument_group("writing")
    writing.add_argument("--generate", action="store_true", help="write text instead of evaluating")
    _add_writing(writing)
    args = parser.parse_args(argv)
    if args.prompt is not None and not args.generate:
        parser.error("--prompt is for --generate")
    if args.generate and (args.json or args.ngrams or args.stride is not None):
        parser.error("--json, --ngrams and --stride are for evaluating; --generate prints text alone")
    _check_writing(parser, args)
    return _run(args, "generate" if args.generate else "evaluate")


def generate_program(argv: list[str] | None, *, description: str, program: str = "") -> int:
    """Let a trained model write as the command line says; the exit status."""
    parser = argparse.ArgumentParser(prog=program or None, description=description)
    _add_source(parser)
    _add_writing(parser)
    args = parser.parse_args(argv)
    _check_writing(parser, args)
    return _run(args, "generate")


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, help="a run folder, or one checkpoint in it")
    parser.add_argument("--which", choices=("last", "best"), default="last", help="of a run folder (default: last)")
    parser.add_argument("--device", choices=("cpu", "cuda", "auto"), help="default: where it was trained")


def _add_writing(parser: Any) -> None:
    parser.add_argument("--prompt", help="what to go on from, or to translate (default: the run's sample_prompt)")
    parser.add_argument("--max-new-tokens", type=int, default=200, help="default: 200, or what fits the model")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest token; default: 0.8")
    parser.add_argument("--top-k", type=int, default=40, help="0 for no limit; default: 40")
    parser.add_argument("--top-p", type=float, help="default: no limit")
    parser.add_argument("--num-beams", type=int, default=1, help="beams of a search; default: 1, no search")
    parser.add_argument("--seed", type=int, help="default: a new one each time")


def _check_writing(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if args.max_new_tokens < 1:
        parser.error(f"--max-new-tokens: {args.max_new_tokens}, wanted at least 1")
    if args.num_beams < 1:
        parser.error(f"--num-beams: {args.num_beams}, wanted at least 1")


def _run(args: argparse.Namespace, what: str) -> int:
    from rich.console import Console

    console = Console()

    def work() -> int:
        checkpoint = load_checkpoint(checkpoints_of(args.checkpoint), which=args.which)
        status: int = getattr(_job_of(checkpoint), what)(checkpoint, args, console)
        return status

    return run_program(work)


def _job_of(checkpoint: Checkpoint) -> type[Job]:
    try:
        return job_class(config_of(checkpoint))
    except KeyError as error:
        raise ConfigError(f"{checkpoint.path}: an objective that is unknown here: {error}") from None
