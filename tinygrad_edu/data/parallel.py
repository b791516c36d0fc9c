"""Parallel text: the lines of two files that translate each other, and their division into splits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import ConfigError, DataError
from .checks import check_integer
from .corpora import SPLITS
from .sources import read_lines

Pair = tuple[str, str]


def load_parallel_text(src_path: str | Path, tgt_path: str | Path) -> list[Pair]:
    """Read two text files whose lines translate each other.

    Parameters
    ----------
    src_path, tgt_path : path
        UTF-8, one sentence a line; spaces around it are left out, and so are blank lines at the end of both.

    Returns
    -------
    list of (source, target)

    Raises
    ------
    DataError
        When a file is missing, empty, or not UTF-8 (with line and byte offset); when a line is empty (with
        file and line); when the files have different numbers of lines (with both).
    """
    sides = [_lines(Path(path).expanduser()) for path in (src_path, tgt_path)]
    if len(sides[0]) != len(sides[1]):
        raise DataError(
            f"{src_path} has {len(sides[0]):,} lines, {tgt_path} has {len(sides[1]):,}; wanted as many in both, as "
            "line n of one translates line n of the other"
        )
    for path, lines in zip((src_path, tgt_path), sides, strict=True):
        empty = [number for number, line in enumerate(lines, 1) if not line]
        if empty:
            more = f" (and {len(empty) - 1:,} more)" if len(empty) > 1 else ""
            raise DataError(f"{path}, line {empty[0]}: is empty{more}; wanted a sentence, or leave out the pair")
    return list(zip(*sides, strict=True))


def _lines(path: Path) -> list[str]:
    """Return the lines of a file without the space around them, and without blank lines at its end."""
    try:
        lines = [line.strip() for _, line in read_lines(path)]
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise DataError(f"no examples in {path}: it holds no line of text")
    return lines


def split_pairs(
    pairs: Sequence[Pair], validation: float | int = 0.1, test: float | int = 0.1, seed: int = 0
) -> dict[str, list[Pair]]:
    """Divide pairs into ``train``, ``validation`` and ``test``, so that no source is in two of them.

    Parameters
    ----------
    pairs : sequence of (source, target)
    validation, test : float or int
        A share below 1, or a number of pairs; 0 for none. Pairs with one source stay together, so a split
        may get a few more.
    seed : int
        Decides which, through NumPy's generators. Each split keeps the order of `pairs`.

    Raises
    ------
    ConfigError
        When a share or number is not allowed.
    DataError
        When no pair would be left for training.
    """
    check_integer("seed", seed, 0)
    n = len(pairs)
    wanted = {"test": _count("test", test, n), "validation": _count("validation", validation, n)}
    groups: dict[str, list[int]] = {}
    for number, pair in enumerate(pairs):
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(isinstance(side, str) for side in pair):
            raise DataError(f"pairs: pair {number} is {pair!r:.60}, wanted two texts (source, target)")
        groups.setdefault(pair[0], []).append(number)
    sources = list(groups)
    order = iter(np.random.default_rng(seed).permutation(len(sources)).tolist())
    numbers: dict[str, list[int]] = {split: [] for split in SPLITS}
    for split, count in wanted.items():
        while len(numbers[split]) < count and (at := next(order, None)) is not None:
            numbers[split] += groups[sources[at]]
    for at in order:
        numbers["train"] += groups[sources[at]]
    if not numbers["train"]:
        raise DataError(
            f"pairs: {n:,} with {len(sources):,} different sources; none is left for training after "
            f"{wanted['validation']:,} for validation and {wanted['test']:,} for test"
        )
    return {split: [(pairs[i][0], pairs[i][1]) for i in sorted(some)] for split, some in numbers.items()}


def _count(name: str, share: float | int, n: int) -> int:
    """Return the number of pairs that a share or number asks for."""
    if isinstance(share, bool) or not isinstance(share, int | float) or not math.isfinite(share) or share < 0:
        raise ConfigError(f"{name}: {share!r}, wanted a share below 1 or a number of pairs")
    if isinstance(share, int):
        return share
    if share >= 1:
        raise ConfigError(f"{name}: {share!r}, wanted a share below 1, or a number of pairs as an integer")
    return math.ceil(share * n)
