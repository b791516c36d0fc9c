"""Measure a trained language model, or let it write.

python projects/language_models/evaluate.py --checkpoint RUN [--split test]
python projects/language_models/evaluate.py --checkpoint RUN --generate --prompt "Return the"
"""

from __future__ import annotations

import tinygrad_edu  # noqa: F401  (first: it settles the thread pools before NumPy loads)

import sys

from tinygrad_edu.training.jobs import evaluate_program


def main(argv: list[str] | None = None) -> int:
    return evaluate_program(argv, description="Measure a trained language model, or let it write.")


if __name__ == "__main__":
    sys.exit(main())
