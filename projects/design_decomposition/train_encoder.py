"""Trains the encoder: from a design, from its picture to its maps.

python projects/design_decomposition/train_encoder.py [key=value ...]
python projects/design_decomposition/train_encoder.py --resume [CKPT]
python projects/design_decomposition/train_encoder.py --validate [--checkpoint CKPT] [--split test] [--json]

--epochs N, --batch_size N and --lr X are short for settings; --checkpoint CKPT lets a new run begin with its weights.

The run folder holds: config.yaml, history.jsonl, loss_curve.png, checkpoints/ (the newest, and the best), predictions/
(a picture an epoch), sample_before.png, sample_after.png, results.json. Ctrl-C saves a checkpoint; --resume goes on.
"""

from __future__ import annotations

import tinygrad_edu  # noqa: F401  (first: it settles the thread pools before NumPy loads)

import sys
from pathlib import Path

from design_project.encoder import EncoderJob
from design_project.stages import stage_program

HERE = Path(__file__).resolve().parent


def main(argv: list[str] | None = None) -> int:
    return stage_program(
        argv,
        job=EncoderJob,
        default=HERE / "encoder.yaml",
        description="Train the U-Net that reads text, pictures, colours and hierarchy off a design.",
    )


if __name__ == "__main__":
    sys.exit(main())
