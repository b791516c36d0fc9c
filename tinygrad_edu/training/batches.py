"""Loaders as the trainer needs them: epochs that can be counted, and a place in them to go on from."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sized
from itertools import islice
from typing import Any, Protocol

from ..errors import ConfigError, DataError


class Loader(Protocol):
    """What the trainer asks of a loader; those of :mod:`tinygrad_edu.data` have it.

    Attributes
    ----------
    epoch, position : epochs finished, and batches of this epoch that were handed out
    """

    epoch: int
    position: int

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class CountedBatches:
    """A list of batches, or anything else that can be iterated again and again, as a :class:`Loader`.

    Going on in the middle of an epoch passes over the batches that were handed out; it is exact where they
    come in the same order each time. A loader that shuffles by itself must have ``state_dict`` for that.

    Parameters
    ----------
    source : with ``len()`` and iteration
    """

    def __init__(self, source: Any):
        self.source = source
        self.epoch = self.position = 0

    def __len__(self) -> int:
        return len(self.source)

    def __iter__(self) -> Iterator[Any]:
        epoch = self.epoch
        for batch in islice(iter(self.source), self.position, None):
            self.position += 1
            yield batch
            if self.epoch != epoch:
                return
        self.epoch, self.position = epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "position": self.position, "batches": len(self)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if not isinstance(state, Mapping) or state.keys() != self.state_dict().keys():
            found = sorted(state) if isinstance(state, Mapping) else type(state).__name__
            raise DataError(f"loader state: fields {found}, wanted {sorted(self.state_dict())}")
        if state["batches"] != len(self):
            raise DataError(f"loader state: {state['batches']} batches an epoch, this loader has {len(self)}")
        for key in ("epoch", "position"):
            if type(state[key]) is not int or state[key] < 0:
                raise DataError(f"loader state: {key} is {state[key]!r}, wanted an integer of at least 0")
        self.epoch, self.position = state["epoch"], state["position"]


def as_loader(loader: Any, name: str = "loader") -> Loader:
    """`loader` itself, or :class:`CountedBatches` of it if it does not know its place.

    Raises
    ------
    ConfigError
        If it cannot be iterated again and again, or its length is not known.
    DataError
        If it has no batches.
    """
    if isinstance(loader, Mapping | str | bytes) or not hasattr(loader, "__iter__"):
        raise ConfigError(f"{name}: must be a loader or a list of batches, got {type(loader).__name__}")
    if not isinstance(loader, Sized):
        hint = "; give list(...) of it" if hasattr(loader, "__next__") else ""
        raise ConfigError(
            f"{name}: {type(loader).__name__} has no len() and may be gone after one epoch, wanted a loader or a "
            f"list of batches{hint}"
        )
    if len(loader) == 0:
        raise DataError(f"{name}: it has no batches")
    knows_its_place = all(hasattr(loader, part) for part in ("epoch", "position", "state_dict", "load_state_dict"))
    found: Loader = loader if knows_its_place else CountedBatches(loader)  # type: ignore[assignment]
    return found


def one_pass(loader: Any) -> Generator[Any]:
    """The batches of an epoch, after which the loader stands where it stood.

    So each pass gives the same batches: evaluations can be compared with each other, masks drawn by a
    collator included.
    """
    loader = as_loader(loader, "val_loader")
    state = loader.state_dict()
    try:
        yield from loader
    finally:
        loader.load_state_dict(state)


def grouped(loader: Loader, size: int, begin: Callable[[], None]) -> Iterator[list[Any]]:
    """The batches of epoch after epoch, `size` at a time; the last of an epoch may be fewer.

    `begin` is called at the beginning of each epoch, before its first batch is read.
    """
    while True:
        if loader.position == 0:
            begin()
        group: list[Any] = []
        for batch in loader:
            group.append(batch)
            if len(group) == size:
                yield group
                group = []
        if group:
            yield group
