"""Train a language model of any architecture, as a config file says.

    python projects/language_models/train.py [--config configs/lstm.yaml] [--resume [RUN]] [key=value ...]

The configs beside this program train each architecture on the English of Python's own documentation in a few
minutes. A run writes a folder of its own, as projects/custom_transformer does.
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
        default=HERE / "configs" / "gpt2.yaml",
        schema=FoundryConfig,
        description="Train a language model of any architecture.",
    )


if __name__ == "__main__":
    sys.exit(main())
