"""Trains a convolutional network to tell scikit-learn's handwritten digits apart.

python projects/digits/train_classifier.py [key=value ...]
python projects/digits/train_classifier.py --resume [RUN]

The run folder holds: config.yaml, history.jsonl, loss_curve.png, checkpoints/ (the newest, and the best),
sample_before.png and sample_after.png (the digits it is least sure of), mistakes.png, results.json. Ctrl-C saves a
checkpoint; --resume goes on.
"""

from __future__ import annotations

import tinygrad_edu  # noqa: F401  (first: it settles the thread pools before NumPy loads)

import sys
from pathlib import Path

from digits_project.classifier import ClassifierJob
from digits_project.settings import ClassifierConfig

from tinygrad_edu.training.jobs import train_program

HERE = Path(__file__).resolve().parent


def main(argv: list[str] | None = None) -> int:
    return train_program(
        argv,
        default=HERE / "classifier.yaml",
        schema=ClassifierConfig,
        job=ClassifierJob,
        name="classifier",
        options={
            "--epochs": "training.num_epochs",
            "--batch_size": "training.batch_size",
            "--lr": "training.learning_rate",
        },
        description="Train a convolutional network on scikit-learn's digits.",
    )


if __name__ == "__main__":
    sys.exit(main())
