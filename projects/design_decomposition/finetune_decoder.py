"""Fine-tunes the decoder for grammar: its loss, less lambda times what the frozen networks score its pictures with.

python projects/design_decomposition/finetune_decoder.py [key=value ...]
python projects/design_decomposition/finetune_decoder.py --resume [CKPT]
python projects/design_decomposition/finetune_decoder.py --validate [--checkpoint CKPT] [--split test] [--json]

The gradient of the scores goes through the abstractor and the encoder, whose weights stay as they are, to the picture
that the decoder sees in the noise, and from there into the decoder. It begins with the run decoder, unless
finetune.decoder names another. --epochs N, --batch_size N and --lr X are short for settings; --checkpoint CKPT begins
with other weights of the same decoder.

The run folder holds what train_decoder.py's does; its pictures show the same noise before (above) and after.
results.json has the scores, the faithfulness and FID before and after, on meanings of test designs.
"""

from __future__ import annotations

import tinygrad_edu  # noqa: F401  (first: it settles the thread pools before NumPy loads)

import sys
from pathlib import Path

from design_project.finetuning import FinetuneJob
from design_project.stages import stage_program

HERE = Path(__file__).resolve().parent


def main(argv: list[str] | None = None) -> int:
    return stage_program(
        argv,
        job=FinetuneJob,
        default=HERE / "finetune.yaml",
        description="Fine-tune the decoder for the grammar of its pictures.",
    )


if __name__ == "__main__":
    sys.exit(main())
