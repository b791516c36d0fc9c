"""Paints designs with a trained decoder, and measures how good and how faithful they are.

python projects/design_decomposition/sample_decoder.py [--checkpoint CKPT] [--batch_size N] [key=value ...]
python projects/design_decomposition/sample_decoder.py --validate
python projects/design_decomposition/sample_decoder.py --goal sell --format poster --tone 0.8 0 -0.5 --name mine

The first paints the meanings of test designs; its folder holds samples.png (every goal in every format), alike.png
(pictures of one meaning), denoising.png, results.json with FID (beside that of real designs and of noise) and how often
the frozen networks find the goal and format that were asked for. --validate prints these and keeps nothing. The third
paints one meaning of yours. The encoder and abstractor are read from the runs beside the decoder's.
"""

from __future__ import annotations

import tinygrad_edu  # noqa: F401  (first: it settles the thread pools before NumPy loads)

import sys
from pathlib import Path

from design_project.decoder_settings import DecoderConfig
from design_project.making import Making, making_parser, making_program
from design_project.sampling import measure_samples, paint_one_meaning

HERE = Path(__file__).resolve().parent
OPTIONS = {"--batch_size": "training.batch_size", "--steps": "sampling.steps", "--guidance": "sampling.guidance"}


def main(argv: list[str] | None = None) -> int:
    parser = making_parser("Paint designs with a trained decoder.", "samples", OPTIONS)
    parser.add_argument("--goal", help="paint this goal, such as sell")
    parser.add_argument("--format", help="in this format, such as poster")
    parser.add_argument(
        "--tone", nargs=3, type=float, default=[0.0, 0.0, 0.0], metavar=("WARM", "PLAYFUL", "DENSE"), help="each -1..1"
    )
    parser.add_argument("--count", type=int, default=8, help="how often, with --goal (default: 8)")

    def make(making: Making) -> None:
        args = making.args
        if args.goal is None and args.format is None:
            measure_samples(making)
            return
        paint_one_meaning(making, args.goal, args.format, args.tone, args.count)

    args = parser.parse_intermixed_args(argv)
    if (args.goal is None) != (args.format is None):
        parser.error("--goal and --format go together")
    if args.goal is not None and (args.validate or args.name == "samples"):
        parser.error("--goal paints into a folder of its own: give --name, and leave out --validate")
    if args.count < 1:
        parser.error(f"--count must be at least 1, got {args.count}")
    return making_program(parser, argv, schema=DecoderConfig, default=HERE / "decoder.yaml", options=OPTIONS, make=make)


if __name__ == "__main__":
    sys.exit(main())
