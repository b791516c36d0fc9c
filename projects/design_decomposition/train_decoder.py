"""Trains the decoder: a conditional diffusion (DDPM) from what a design means to a picture of one.

python projects/design_decomposition/train_decoder.py [key=value ...]
python projects/design_decomposition/train_decoder.py --resume [CKPT]
python projects/design_decomposition/train_decoder.py --validate [--checkpoint CKPT] [--split test] [--json]

--epochs N, --batch_size N and --lr X are short for settings; --checkpoint CKPT lets a new run begin with its weights.

The run folder holds: config.yaml, history.jsonl, loss_curve.png, checkpoints/ (the newest, and the best; with the
averaged weights), predictions/ (a picture an epoch), sample_before.png, sample_after.png, results.json. Ctrl-C saves a
checkpoint; --resume goes on. How good the pictures are is measured by sample_decoder.py.
"""

from __future__ import annotations

import tinygrad_edu  # noqa: F401  (first: it settles the thread pools before NumPy loads)

import sys
from pathlib import Path

from design_project.decoder import DecoderJob
from design_project.stages import stage_program

HERE = Path(__file__).resolve().parent


def main(argv: list[str] | None = None) -> int:
    return stage_program(
        argv,
        job=DecoderJob,
        default=HERE / "decoder.yaml",
        description="Train the diffusion that paints designs from what they mean.",
    )


if __name__ == "__main__":
    sys.exit(main())
