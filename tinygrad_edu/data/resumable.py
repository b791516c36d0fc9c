"""What all loaders have in common: epochs, a place in them, and going on from there exactly."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..errors import ConfigError, DataError
from .checks import read_state


class ResumableLoader(ABC):
    """Batches in epochs, from a place that can be saved.

    Iterating yields what is left of the current epoch and then moves on to the next one. The position belongs
    to the loader: leaving a loop early and starting another goes on where the first stopped.

    Parameters
    ----------
    collate : callable, optional
        What makes a batch. If it has ``state_dict`` and ``load_state_dict``, its state is part of the loader's.

    Attributes
    ----------
    epoch : int
        Epochs finished.
    position : int
        Batches of this epoch that were handed out.
    """

    def __init__(self, collate: Callable[[Any], Any] | None = None) -> None:
        if collate is not None and not callable(collate):
            raise ConfigError(f"collate: {type(collate).__name__}, wanted a function of a list of examples")
        self.collate = collate
        self.epoch = 0
        self.position = 0

    @abstractmethod
    def __len__(self) -> int:
        """Batches in an epoch."""

    @abstractmethod
    def _batches(self, epoch: int, position: int) -> Iterator[Any]:
        """Yield the batches of an epoch from a position on."""

    @abstractmethod
    def _identity(self) -> dict[str, Any]:
        """Return the settings and data that a state belongs to, in types that JSON can hold."""

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches that are left of the epoch."""
        epoch = self.epoch
        batches = self._batches(epoch, self.position)
        while self.epoch == epoch and self.position < len(self):
            batch = next(batches)
            self.position += 1
            yield batch
        if self.epoch == epoch:
            self.epoch, self.position = epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Return where the loader is and what it reads, in types that JSON can hold."""
        state = {"epoch": self.epoch, "position": self.position, **self._identity()}
        saves = getattr(self.collate, "state_dict", None)
        if saves is not None:
            state["collate"] = saves()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the loader stood that gave `state`: the next batch is the one it would have handed out.

        Seed, order and all other settings are part of what is being resumed, and must be the same too.

        Raises
        ------
        DataError
            When the state comes from other data or settings (all differences are named), or is damaged. The
            loader is then as it was.
        """
        mine = self.state_dict()
        inner = mine.pop("collate", None)
        if inner is not None and isinstance(state, Mapping):
            if "collate" not in state:
                raise DataError("loader state: has no collate, the state of what makes the batches")
            state = dict(state)
            inner = state.pop("collate")
        counts = read_state("loader", state, mine, {"epoch": None, "position": len(self)})
        if inner is not None:
            self.collate.load_state_dict(inner)  # type: ignore[union-attr]
        self.epoch, self.position = counts["epoch"], counts["position"]
