"""Batches of examples of any kind: shuffled, sorted by length where that saves padding, and resumable."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, DataError
from .checks import check_integer
from .resumable import ResumableLoader

#: With `sort_by_length`, so many batches are sorted at a time: enough that a batch's lengths hardly differ.
SORTED_BATCHES = 100
#: So many examples, spread evenly, are hashed to tell one data set from another.
_SAMPLE = 64


class DataLoader(ResumableLoader):
    """Batches of the examples of a data set.

    Iterating yields what `collate_fn` makes of each list of examples. See `ResumableLoader` for epochs and
    resuming, which is exact: the state of the collator is part of the loader's.

    Parameters
    ----------
    dataset : sequence
        Anything with ``len()`` and ``dataset[i]``.
    batch_size : int
    collate_fn : callable, optional
        From a list of examples to a batch, such as a `CausalLMDataCollator`. Without it, batches are the lists.
    shuffle : bool
        Take the examples in an order drawn anew each epoch.
    seed : int
        Decides these orders, through NumPy's generators.
    drop_last : bool
        Leave out the batch of an epoch that would be smaller.
    sort_by_length : bool
        Put examples of about the same length into one batch, so that little is padded: of each 100 batches
        (after shuffling), the examples are sorted, and then the batches are put in random order. Reads the
        length of every example once.
    length : callable, optional
        From an example to a number, or a tuple of numbers of which the first counts most. Default: the number
        of ids of an example; of a pair or a mapping with labels, those of the source and then of the target.

    Raises
    ------
    ConfigError
        For arguments that are not allowed.
    DataError
        When there are no examples, or too few for a batch that may not be smaller.
    """

    def __init__(
        self,
        dataset: Sequence[Any],
        batch_size: int,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        *,
        sort_by_length: bool = False,
        length: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(collate_fn)
        if isinstance(dataset, Mapping | str) or not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            raise ConfigError(f"dataset: {type(dataset).__name__}, wanted a sequence with len() and dataset[i]")
        check_integer("batch_size", batch_size, 1)
        check_integer("seed", seed, 0)
        if length is not None and not sort_by_length:
            raise ConfigError("length: is given, but nothing is sorted; set sort_by_length=True, or leave it out")
        self.dataset, self.batch_size, self.seed = dataset, int(batch_size), int(seed)
        self.shuffle, self.drop_last, self.sort_by_length = bool(shuffle), bool(drop_last), bool(sort_by_length)
        self.examples = len(dataset)
        if not self.examples:
            raise DataError("dataset: has no examples")
        if drop_last and self.examples < batch_size:
            raise DataError(
                f"dataset: {self.examples:,} examples, fewer than one batch of batch_size {batch_size:,}; make it "
                "smaller, or set drop_last=False"
            )
        measure = length or example_length
        self._lengths = [measure(dataset[i]) for i in range(self.examples)] if sort_by_length else []
        self._sum: str | None = None

    def __len__(self) -> int:
        """Batches in an epoch."""
        whole, rest = divmod(self.examples, self.batch_size)
        return whole if self.drop_last or not rest else whole + 1

    def _plan(self, epoch: int) -> list[NDArray[np.int64]]:
        """Return the numbers of the examples of each batch of an epoch."""
        order = np.arange(self.examples, dtype=np.int64)
        draw = np.random.default_rng([self.seed, epoch])
        if self.shuffle:
            order = draw.permutation(order)
        if self.sort_by_length:
            stretch = self.batch_size * SORTED_BATCHES
            for at in range(0, self.examples, stretch):
                part = order[at : at + stretch].tolist()
                order[at : at + stretch] = sorted(part, key=self._lengths.__getitem__)
        batches = [order[at * self.batch_size : (at + 1) * self.batch_size] for at in range(len(self))]
        if self.shuffle and self.sort_by_length:
            batches = [batches[i] for i in draw.permutation(len(batches))]
        return batches

    def _batches(self, epoch: int, position: int) -> Iterator[Any]:
        for numbers in self._plan(epoch)[position:]:
            examples = [self.dataset[i] for i in numbers.tolist()]
            yield examples if self.collate is None else self.collate(examples)

    def _identity(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "shuffle": self.shuffle,
            "drop_last": self.drop_last,
            "sort_by_length": self.sort_by_length,
            "batch_size": self.batch_size,
            "examples": self.examples,
            "data_sha256": self._data_sum(),
        }

    def _data_sum(self) -> str:
        """Return a hash over some examples, or nothing if they are not the same when read again."""
        if self._sum is None:
            if _digest(self.dataset[0]) == _digest(self.dataset[0]):
                numbers = np.unique(np.linspace(0, self.examples - 1, min(_SAMPLE, self.examples)).astype(int))
                self._sum = _digest([self.dataset[i] for i in numbers.tolist()])
            else:
                self._sum = ""
        return self._sum

    def __repr__(self) -> str:
        return f"<DataLoader {len(self):,} batches of {self.batch_size}: epoch {self.epoch}, position {self.position}>"


def example_length(example: Any) -> tuple[int, ...]:
    """Return how many ids an example has: of a pair, or a mapping with labels, of source and target.

    Raises
    ------
    ConfigError
        For an example of another kind.
    """
    if isinstance(example, Mapping) and "input_ids" in example:
        parts = [example[name] for name in ("input_ids", "labels") if name in example]
    elif isinstance(example, tuple) and len(example) == 2:
        parts = list(example)
    else:
        parts = [example]
    try:
        return tuple(map(len, parts))
    except TypeError as error:
        raise ConfigError(
            f"sort_by_length: the length of a {type(example).__name__} is not known; give length=..., a function of "
            "an example"
        ) from error


def _digest(example: Any) -> str:
    """Hash an example: arrays by their bytes, lists and mappings part by part, other objects by their kind."""
    total = hashlib.sha256()

    def add(part: Any) -> None:
        if isinstance(part, Mapping):
            for key in part:
                add(str(key))
                add(part[key])
        elif isinstance(part, list | tuple):
            try:
                numbers = np.asarray(part)
            except ValueError:  # ragged
                numbers = np.empty(0, object)
            if numbers.dtype.kind in "iufb" and numbers.size:
                add(numbers)
                return
            total.update(b"[%d" % len(part))
            for inner in part:
                add(inner)
        elif isinstance(part, np.ndarray) and part.dtype.kind in "iufbcSU":
            total.update(f"{part.shape}{part.dtype.str}".encode())
            total.update(np.ascontiguousarray(part).tobytes())
        elif isinstance(part, str | int | float | bool | bytes | None | np.generic):
            total.update(f"{type(part).__name__} {part!r};".encode("utf-8", "surrogatepass"))
        else:
            total.update(type(part).__qualname__.encode())

    add(example)
    return total.hexdigest()
