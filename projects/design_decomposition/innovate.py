"""Improves designs without training anything: gradient ascent on the noise that each picture begins with.

python projects/design_decomposition/innovate.py [--checkpoint CKPT] [key=value ...]
python projects/design_decomposition/innovate.py --validate

A few-step DDIM makes a picture a function of its noise, the latent. The gradient of the grammar scores goes from the
frozen abstractor through the frozen encoder, the picture and every step of the frozen decoder to that noise, which
moves along it on the sphere where noise lies. The folder holds innovation.png (before above, after below), ascent.png
and results.json with the scores of each latent before and after.
"""

from __future__ import annotations

import tinygrad_edu  # noqa: F401  (first: it settles the thread pools before NumPy loads)

import sys
from pathlib import Path

from design_project.decoder_settings import InnovateConfig
from design_project.innovating import innovate
from design_project.making import making_parser, making_program

HERE = Path(__file__).resolve().parent
OPTIONS = {"--count": "innovation.count", "--steps": "innovation.ascent_steps", "--lr": "innovation.rate"}


def main(argv: list[str] | None = None) -> int:
    parser = making_parser("Improve designs by gradient ascent on their latent.", "innovation", OPTIONS)
    return making_program(
        parser, argv, schema=InnovateConfig, default=HERE / "innovate.yaml", options=OPTIONS, make=innovate
    )


if __name__ == "__main__":
    sys.exit(main())
