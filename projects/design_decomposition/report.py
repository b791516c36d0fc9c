"""Puts what all stages have come to on one page: the criteria, the pictures, the curves, the scores of the data.

python projects/design_decomposition/report.py [--runs runs/design_decomposition] [--output FILE]

The page stands alone: pictures are in it. Stages that have not been run yet are named as missing.
"""

from __future__ import annotations

import tinygrad_edu  # noqa: F401  (first: it settles the thread pools before NumPy loads)

import argparse
import sys
from pathlib import Path

from design_project.page import write_page
from tinygrad_edu.training.program import run_program


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write the report.")
    parser.add_argument(
        "--runs",
        default="runs/design_decomposition",
        help="where the folders of the stages are (default: %(default)s)",
    )
    parser.add_argument("--data", help="folder of the designs (default: data in --runs)")
    parser.add_argument("--output", help="the page (default: report.html in --runs)")
    args = parser.parse_args(argv)

    def work() -> int:
        runs = Path(args.runs)
        print(write_page(runs, Path(args.data or runs / "data"), Path(args.output or runs / "report.html")))
        return 0

    return run_program(work)


if __name__ == "__main__":
    sys.exit(main())
