"""Train a small transformer on real English text.

    python projects/custom_transformer/train.py [--config F] [--resume [RUN]] [key=value ...]

A run writes a folder of its own: config.yaml, history.jsonl, loss_curve.png, checkpoints/,
sample_before.txt, sample_after.txt, results.json. Ctrl-C saves a checkpoint and says how to go on.
"""

from __future__ import annotations

import tinygrad_edu  # noqa: F401  (first: it settles the thread pools before NumPy loads)

import sys
from pathlib import Path

from tinygrad_edu.training.jobs import train_program

HERE = Path(__file__).resolve().parent


def main(argv: list[str] | None = None) -> int:
    return train_program(
        argv, default=HERE / "config.yaml", description="Train a small transformer on real English text."
    )


if __name__ == "__main__":
    sys.exit(main())
