"""Trains a transformer that translates, on pairs that are made by rule or come from two files.

python projects/translation/train.py [--config FILE] [--resume [RUN]] [key=value ...]

The run folder it makes holds: config.yaml, history.jsonl, loss_curve.png, checkpoints/ (and best/),
sample_before.txt, sample_after.txt, mistakes.txt, attention.png, results.json. Ctrl-C saves a checkpoint and says how
to go on.
"""

from __future__ import annotations

import tinygrad_edu  # noqa: F401  (first: it settles the thread pools before NumPy loads)

import sys
from pathlib import Path

from tinygrad_edu.training import FoundryConfig
from tinygrad_edu.training.jobs import train_program

HERE = Path(__file__).resolve().parent


def main(argv: list[str] | None = None) -> int:
    return train_program(
        argv,
        default=HERE / "config.yaml",
        schema=FoundryConfig,
        description="Train a transformer to translate: numbers, dates, or two files of yours.",
    )


if __name__ == "__main__":
    sys.exit(main())
