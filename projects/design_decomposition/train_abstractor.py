"""Trains the abstractor: from a design, from its maps to how well it is made and what it means.

python projects/design_decomposition/train_abstractor.py [key=value ...]
python projects/design_decomposition/train_abstractor.py --resume [CKPT]
python projects/design_decomposition/train_abstractor.py --validate [--checkpoint CKPT] [--split test] [--json]

--epochs N, --batch_size N and --lr X are short for settings; --checkpoint CKPT lets a new run begin with its weights.

The run folder holds: config.yaml, history.jsonl, loss_curve.png, checkpoints/ (the newest, and the best), predictions/
(a picture an epoch), sample_before.png, sample_after.png, results.json. Ctrl-C saves a checkpoint; --resume goes on.
"""

from __future__ import annotations

import tinygrad_edu  # noqa: F401  (first: it settles the thread pools before NumPy loads)

import sys
from pathlib import Path

from design_project.abstractor import AbstractorJob
from design_project.stages import stage_program

HERE = Path(__file__).resolve().parent


def main(argv: list[str] | None = None) -> int:
    return stage_program(
        argv,
        job=AbstractorJob,
        default=HERE / "abstractor.yaml",
        description="Train the ResNet-18 that reads grammar and meaning off a design's maps.",
    )


if __name__ == "__main__":
    sys.exit(main())
