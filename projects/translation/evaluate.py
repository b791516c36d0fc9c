"""Measures a trained translator on held-out pairs, or lets it translate.

python projects/translation/evaluate.py --checkpoint RUN [--split test] [--num-beams 4] [--json]
python projects/translation/evaluate.py --checkpoint RUN --translate "1,234" "56" [--num-beams 4] [--attention FILE]
"""

from __future__ import annotations

import tinygrad_edu as tg  # first: it settles the thread pools before NumPy loads

import argparse
import sys
from pathlib import Path

from rich.console import Console

from tinygrad_edu.storage import load_checkpoint
from tinygrad_edu.training.jobs.translation import TranslationJob, draw_attention, restore_translator
from tinygrad_edu.training.pairs import translate
from tinygrad_edu.training.program import run_program
from tinygrad_edu.training.run_folder import checkpoints_of


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure a trained translator, or let it translate.")
    parser.add_argument("--checkpoint", required=True, help="a run folder, or one checkpoint in it")
    parser.add_argument("--which", choices=("last", "best"), default="last", help="of a run folder (default: last)")
    parser.add_argument("--device", choices=("cpu", "cuda", "auto"), help="default: where it was trained")
    parser.add_argument("--num-beams", type=int, help="beams of the search (default: 4 to measure, 1 to translate)")
    parser.add_argument("--length-penalty", type=float, default=1.0, help="0 favours the short; default: 1")
    measuring = parser.add_argument_group("measuring")
    measuring.add_argument("--split", choices=TranslationJob.splits, default="test", help="default: test")
    measuring.add_argument("--json", action="store_true", help="print the figures as JSON")
    translating = parser.add_argument_group("translating")
    translating.add_argument("--translate", nargs="+", metavar="TEXT", help="translate these instead of measuring")
    translating.add_argument("--attention", metavar="FILE", help="draw where it looked in the first of them")
    args = parser.parse_args(argv)
    if args.num_beams is not None and args.num_beams < 1:
        parser.error(f"--num-beams: {args.num_beams}, wanted at least 1")
    if args.translate and args.json:
        parser.error("--json is for measuring; --translate prints translations alone")
    if args.attention and not args.translate:
        parser.error("--attention is for --translate")
    return args


def evaluate(args: argparse.Namespace) -> int:
    checkpoint = load_checkpoint(checkpoints_of(args.checkpoint), which=args.which)
    console = Console()
    if not args.translate:
        return TranslationJob.evaluate(checkpoint, args, console)
    config, model, tokenizer = restore_translator(checkpoint, args.device)
    with tg.use(model.config.get_device()):
        found = translate(
            model,
            tokenizer,
            args.translate,
            num_beams=args.num_beams or 1,
            length_penalty=args.length_penalty,
            max_new_tokens=config.data.max_length,
        )
        if args.attention:
            draw_attention(model, tokenizer, args.translate[0], Path(args.attention))
    for text in found:
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    return 0


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    return run_program(lambda: evaluate(args))


if __name__ == "__main__":
    sys.exit(main())
