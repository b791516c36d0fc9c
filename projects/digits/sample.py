"""Draws digits with a network that train_diffusion.py has trained.

python projects/digits/sample.py --digits 3141592653
python projects/digits/sample.py --digits 0123456789 --rows 8 --guidance 3 --steps 100 --output digits.png
python projects/digits/sample.py --digits 7777 --strip --output seven.png
"""

from __future__ import annotations

import tinygrad_edu as tg  # first: it settles the thread pools before NumPy loads

import argparse
import sys
from pathlib import Path

import numpy as np

from digits_project.data import SIDE
from digits_project.diffusion import build_process
from digits_project.pictures import draw_sheet
from digits_project.settings import DiffusionConfig

from tinygrad_edu.backend import asarray, to_host
from tinygrad_edu.errors import CheckpointError, ConfigError
from tinygrad_edu.storage import load_checkpoint
from tinygrad_edu.training import make_config, trained_weights
from tinygrad_edu.training.program import run_program
from tinygrad_edu.training.run_folder import checkpoints_of

FRAMES = 9  # of a strip, where there are as many steps


def sample(args: argparse.Namespace) -> int:
    if not Path(args.checkpoint).is_dir():
        raise ConfigError(
            f"--checkpoint: there is no run {args.checkpoint}; train one first: "
            "python projects/digits/train_diffusion.py"
        )
    checkpoint = load_checkpoint(checkpoints_of(args.checkpoint))
    asked = {"steps": args.steps, "guidance": args.guidance}
    if args.steps is not None:
        asked["frames"] = max(2, min(FRAMES, args.steps + 1))
    overrides = [f"sampling.{name}={value}" for name, value in asked.items() if value is not None]
    given = checkpoint.documents.get("config", {})
    config = make_config(given, overrides, DiffusionConfig, where=f"{checkpoint.path}/config.json")
    sampling = config.sampling
    with tg.use(config.training.device):
        process = build_process(config)
        try:
            process.load_state_dict(dict(trained_weights(checkpoint)))  # the averaged ones
        except ValueError as error:
            raise CheckpointError(f"{checkpoint.path}: {error}") from error
        net = process.net if sampling.guidance == 1 else process.guided(sampling.guidance)
        sampler = process.sampler("ddim", steps=sampling.steps)
        digits = np.array([int(digit) for digit in args.digits])
        if args.strip:
            shape = (len(digits), 1, SIDE, SIDE)
            found = sampler.strip(net, shape, asarray(digits), frames=sampling.frames, seed=args.seed)
            pictures = to_host(found)[:, :, 0].swapaxes(0, 1)  # (digits, frames, 8, 8)
            draw_sheet(pictures, args.output, rows=list(args.digits))
        else:
            labels = np.tile(digits, args.rows)
            found = sampler.sample(net, (len(labels), 1, SIDE, SIDE), asarray(labels), seed=args.seed)
            pictures = to_host(found).reshape(args.rows, len(digits), SIDE, SIDE)
            draw_sheet(pictures, args.output, columns=list(args.digits))
    print(f"{args.output}: {pictures.shape[0]} x {pictures.shape[1]} pictures")
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Draw digits with a trained diffusion.")
    parser.add_argument(
        "--checkpoint", default="runs/digits/diffusion", help="a run folder, or one checkpoint (default: %(default)s)"
    )
    parser.add_argument("--digits", default="0123456789", help="what to draw, a column each (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=1, help="how often (default: %(default)s)")
    parser.add_argument("--guidance", type=float, help="how much the class counts (default: as in the run)")
    parser.add_argument("--steps", type=int, help="of DDIM (default: as in the run)")
    parser.add_argument("--strip", action="store_true", help="show how each comes out of the noise")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: %(default)s)")
    parser.add_argument("--output", default="digits.png", help="picture to write (default: %(default)s)")
    args = parser.parse_args(argv)

    def checked() -> int:
        if not (args.digits.isdecimal() and args.digits.isascii()):
            raise ConfigError(f"--digits: {args.digits!r}, wanted digits such as 3141")
        for name in ("rows", "seed"):
            if getattr(args, name) < (name == "rows"):
                raise ConfigError(f"--{name}: {getattr(args, name)}, wanted at least {int(name == 'rows')}")
        return sample(args)

    return run_program(checked)


if __name__ == "__main__":
    sys.exit(main())
