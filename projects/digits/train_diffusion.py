"""Trains a diffusion that draws handwritten digits of the class that is asked for.

python projects/digits/train_classifier.py                     # the judge, once
python projects/digits/train_diffusion.py [key=value ...]
python projects/digits/train_diffusion.py --resume [RUN]

The run folder holds: config.yaml, history.jsonl, loss_curve.png, checkpoints/, samples/ (digits drawn after each
evaluation), digits.png, denoising.png (how they come out of the noise), results.json. Ctrl-C saves a checkpoint;
--resume goes on.
"""

from __future__ import annotations

import tinygrad_edu  # noqa: F401  (first: it settles the thread pools before NumPy loads)

import sys
from pathlib import Path

from digits_project.diffusion import DiffusionJob
from digits_project.settings import DiffusionConfig

from tinygrad_edu.training.jobs import train_program

HERE = Path(__file__).resolve().parent


def main(argv: list[str] | None = None) -> int:
    return train_program(
        argv,
        default=HERE / "diffusion.yaml",
        schema=DiffusionConfig,
        job=DiffusionJob,
        name="diffusion",
        options={
            "--epochs": "training.num_epochs",
            "--batch_size": "training.batch_size",
            "--lr": "training.learning_rate",
        },
        description="Train a class-conditional diffusion on scikit-learn's digits.",
    )


if __name__ == "__main__":
    sys.exit(main())
