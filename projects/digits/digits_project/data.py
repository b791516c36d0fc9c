"""scikit-learn's digits: pictures of 8 x 8 in [-1, 1], their classes, and who is held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_edu.data import DataLoader
from tinygrad_edu.errors import ConfigError

from .settings import DigitsData

CLASSES, SIDE = 10, 8
_MOVES = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))


@dataclass(frozen=True)
class Digits(Sequence[Any]):
    """A split: pictures (N, 1, 8, 8) float32 in [-1, 1] and their classes (N,)."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> Any:
        return self.images[index], self.labels[index]

    def loader(self, batch_size: int, seed: int | None = None) -> DataLoader:
        """Batches (images, labels); in a new order each epoch, and all of one size, if there is a seed."""
        full = seed is not None and len(self) >= batch_size
        return DataLoader(self, batch_size, _stack, shuffle=seed is not None, seed=seed or 0, drop_last=full)


def load_splits(data: DigitsData) -> dict[str, Digits]:
    """The digits to train on, to watch the training by, and for the figures at the end: 70, 10 and 20 of 100.

    Raises
    ------
    ConfigError
        If scikit-learn, which brings the pictures along, is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ConfigError(
            "the digits come with scikit-learn, which is not installed; run `pip install 'tinygrad_edu[vision]'` "
            "or `pip install scikit-learn`"
        ) from None
    found = load_digits()
    images = (found.images[:, None] / 8 - 1).astype(np.float32)  # shades 0 to 16
    labels = found.target.astype(np.int64)
    order = np.random.default_rng(data.split_seed).permutation(len(labels))
    test, validation = len(order) // 5, len(order) // 10
    places = {
        "train": order[test + validation :], "validation": order[test : test + validation], "test": order[:test]
    }  # fmt: skip
    splits = {name: Digits(images[rows], labels[rows]) for name, rows in places.items()}
    if data.shifts:
        splits["train"] = moved(splits["train"])
    return splits


def moved(digits: Digits) -> Digits:
    """Each digit five times: where it is, and a pixel up, down, left and right; what comes in is background."""
    padded = np.pad(digits.images, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-1.0)
    views = [padded[:, :, 1 + dy : 1 + dy + SIDE, 1 + dx : 1 + dx + SIDE] for dy, dx in _MOVES]
    return Digits(np.concatenate(views), np.tile(digits.labels, len(_MOVES)))


def _stack(examples: list[Any]) -> tuple[Any, Any]:
    images, labels = zip(*examples, strict=True)
    return np.stack(images), np.array(labels)
