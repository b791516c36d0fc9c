"""What a row of the table of layers is made of: the library it builds from, random inputs, and its check."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import layers, losses
from ..backend import Array, Generator, asarray, registered_ops, use
from ..layers.base import Layer
from . import layer as check_layer
from . import loss as check_loss
from .report import Report


class Library:
    """Layers, losses and ops by name, for rows to build from; some may be replaced by one's own.

    Parameters
    ----------
    mine : what stands in for the library's own, by name

    Attributes
    ----------
    generator : for initial weights and for noise, seeded
    """

    def __init__(self, mine: Mapping[str, Any] | None = None, seed: int = 0):
        self._mine = dict(mine or {})
        self.generator = Generator(seed)

    def __getattr__(self, name: str) -> Any:
        for place in (self._mine, registered_ops(), layers.__dict__, losses.__dict__):
            if name in place:
                return place[name]
        raise AttributeError(f"the library has no layer, loss or op named {name!r}")


class Draw:
    """Random inputs on the current device; floats stay 0.05 away from zero, where ReLU has its kink."""

    def __init__(self, seed: int = 0):
        self._rng = np.random.default_rng([seed, 3])

    def normal(self, *shape: int, scale: float = 1.0) -> Array:
        """Normal numbers, pushed away from zero."""
        x = self._rng.standard_normal(shape)
        return asarray(scale * (x + np.copysign(0.05, x)))

    def image(self, *shape: int, channels_last: bool = False) -> Array:
        """Images (B, C, *size) of normal numbers; `channels_last`, the channels of a pixel lie together in memory."""
        if not channels_last:
            return self.normal(*shape)
        batch, channels, *size = shape
        x = self.normal(batch, *size, channels)
        return x.transpose(0, x.ndim - 1, *range(1, x.ndim - 1))

    def distinct(self, *shape: int) -> Array:
        """Numbers from -2 to 2 in random order, no two near each other: the largest of some stays the largest."""
        count = int(np.prod(shape))
        return asarray(self._rng.permutation(np.linspace(-2, 2, count)).reshape(shape))

    def ids(self, high: int, *shape: int) -> Array:
        """Integers in [0, high); with enough of them some occur twice."""
        return asarray(self._rng.integers(0, high, shape))

    def targets(self, high: int, *shape: int, ignored: int) -> Array:
        """Integers in [0, high), the first in memory order and some others replaced by `ignored`."""
        ids = self._rng.integers(0, high, shape)
        hidden = self._rng.random(shape) < 0.3
        if ids.size > 1:
            hidden.flat[0], hidden.flat[1] = True, False
            ids[hidden] = ignored
        return asarray(ids)

    def mask(self, *shape: int) -> Array:
        """Booleans, True for two thirds; the first along the last axis always is."""
        seen = self._rng.random(shape) < 2 / 3
        seen[..., :1] = True
        return asarray(seen)

    def padding(self, batch: int, time: int) -> Array:
        """(B, 1, 1, T), False at the end of every sequence but the first."""
        return asarray((np.arange(time) < self._lengths(batch, time)[:, None])[:, None, None, :])

    def lengths(self, batch: int, time: int) -> Array:
        """(B,), lengths of sequences, the last one full, those before it shorter."""
        return asarray(self._lengths(batch, time)[::-1])

    def _lengths(self, batch: int, time: int) -> Any:
        return np.maximum(1, time - np.arange(batch) % time)


Inputs = tuple[Any, ...]


@dataclass(frozen=True)
class Case:
    """One row.

    Attributes
    ----------
    of : name of the class
    build : makes the layer from a :class:`Library`
    inputs : makes forward's positional inputs for a batch B and a length T
    options : what is not the default here, in words
    forward : further arguments of forward, by name
    torch : makes the torch twin; None where there is none
    loss : whether it is a loss, whose second input has no gradient
    batched : whether examples of a batch are independent of each other
    axes : names of axes
    """

    of: str
    build: Callable[[Library], Layer]
    inputs: Callable[[Draw, int, int], Inputs]
    options: str = ""
    forward: Mapping[str, Any] = field(default_factory=dict)
    torch: Callable[[], Any] | None = None
    loss: bool = False
    batched: bool = True
    axes: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """``LayerNorm (eps=1e-3)``."""
        return f"{self.of} ({self.options})" if self.options else self.of

    def make(
        self, batch: int = 3, time: int = 4, device: str = "cpu", seed: int = 0, mine: Any = None
    ) -> tuple[Layer, Inputs]:
        """The layer and its inputs, on `device`."""
        with use(device):
            return self.build(Library(mine, seed)), self.inputs(Draw(seed), batch, time)

    def check(
        self,
        batch: int = 3,
        time: int = 4,
        *,
        torch: bool = False,
        device: str = "cpu",
        mine: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> Report:
        """Check this row.

        Parameters
        ----------
        batch, time : lengths of the first two axes
        torch : whether to add the torch column, where the row has a twin
        mine : classes that stand in for the library's own, by name
        settings : as in :func:`tinygrad_edu.check.layer`
        """
        layer, inputs = self.make(batch, time, device, settings.get("seed", 0), mine)
        settings = {"axes": self.axes, "torch": self.torch() if torch and self.torch else None, **settings}
        if self.loss:
            report = check_loss(layer, inputs[0], inputs[1], **settings, **self.forward)
        else:
            report = check_layer(layer, *inputs, batched=self.batched, **settings, **self.forward)
        report.name = self.name
        return report


# Unequal to the usual batch 3 and time 4, so that no two axes can be confused.
CLASSES, DIM, HEADS = 5, 6, 2
