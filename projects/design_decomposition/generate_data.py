"""Makes the synthetic designs that everything else in this project learns from.

python projects/design_decomposition/generate_data.py [--folder DIR] [--count N] [--size S] [--n_colours N] [--seed N]

The folder holds plain NumPy files and manifest.json with their sums; see docs/design-decomposition.md for what is in
them. Ctrl-C leaves nothing behind.
"""

from __future__ import annotations

import tinygrad_edu  # noqa: F401  (first: it settles the thread pools before NumPy loads)

import argparse
import sys

import numpy as np

from design_project.data import prepare_designs
from design_project.settings import DesignData
from tinygrad_edu.data.designs import GRAMMAR, SyntheticDesignDataset
from tinygrad_edu.training import make_config
from tinygrad_edu.training.program import run_program

from design_project.settings import DesignConfig

_BARS = " ▁▂▃▄▅▆▇█"


def histogram(values: np.ndarray) -> str:
    """Ten bars over [0, 1]."""
    counts = np.histogram(values, 10, (0, 1))[0]
    return "".join(_BARS[int(np.ceil(8 * count / counts.max()))] for count in counts)


def generate(args: argparse.Namespace) -> int:
    from rich.console import Console

    console = Console()
    given = {name: value for name, value in vars(args).items() if value is not None}
    data = make_config({"data": given}, schema=DesignConfig, where="arguments").data
    folder = prepare_designs(data, console)
    for split in ("train", "validation", "test"):
        console.print(repr(SyntheticDesignDataset(folder, split)), markup=False, highlight=False, soft_wrap=True)
    scores = SyntheticDesignDataset(folder, fields=("grammar",), verify=False)[:]["grammar"]
    for at, name in enumerate(GRAMMAR):
        column = scores[:, at]
        text = f"{name:<12} 0 |{histogram(column)}| 1   mean {column.mean():.2f}, standard deviation {column.std():.2f}"
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Make synthetic designs.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    for name, field in DesignData.model_fields.items():
        kind = str if name == "folder" else int
        parser.add_argument(f"--{name}", type=kind, default=field.default, help=field.description)
    args = parser.parse_args(argv)
    return run_program(lambda: generate(args))


if __name__ == "__main__":
    sys.exit(main())
