"""What a table of names is made of: which of our parameters is which of theirs, and how they lay it out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np

from ...errors import ShapeError

Shape = tuple[int, ...]


class Layout(Enum):
    """How the values of one of our parameters lie in their arrays."""

    SAME = "one array, as ours"
    TRANSPOSED = "one array, transposed: GPT-2's Conv1D keeps (in, out) where a linear map has (out, in)"
    STACKED = "several arrays of one shape, ours one above the other: BERT's query, key and value"

    def shapes(self, ours: Shape, parts: int) -> list[Shape]:
        """Shapes of their arrays, from that of our parameter."""
        if self is Layout.TRANSPOSED:
            return [ours[::-1]]
        if self is Layout.STACKED:
            return [(ours[0] // parts, *ours[1:])] * parts
        return [ours]

    def ours(self, theirs: Sequence[np.ndarray]) -> np.ndarray:
        """Our values from theirs."""
        if self is Layout.TRANSPOSED:
            return theirs[0].T
        return np.concatenate(theirs) if self is Layout.STACKED else theirs[0]

    def theirs(self, ours: np.ndarray, parts: int) -> list[np.ndarray]:
        """Their values from ours."""
        if self is Layout.TRANSPOSED:
            return [ours.T]
        return np.split(ours, parts) if self is Layout.STACKED else [ours]


@dataclass(frozen=True)
class Entry:
    """A row of a table.

    Attributes
    ----------
    ours : name of the parameter, as :meth:`Layer.named_parameters` gives it
    theirs : name or names of their arrays
    layout : how the one becomes the other
    """

    ours: str
    theirs: tuple[str, ...]
    layout: Layout = Layout.SAME


@dataclass(frozen=True)
class Copy:
    """A second name under which a file may hold an array that it holds already.

    Attributes
    ----------
    name, of : the second name, and the name in the table. A file may also hold the second one alone
    equal : whether both must have the same values; if not, the one in the table counts
    written : whether we write it too
    """

    name: str
    of: str
    equal: bool = True
    written: bool = False


@dataclass(frozen=True)
class Exchange:
    """How weights of an architecture are called and laid out elsewhere, and what its ``config.json`` may say.

    Attributes
    ----------
    class_name : the class there, named in ``config.json``
    entries : the table, for a config
    copies : second names, for a config
    prefix : what the names of the model without its head begin with; files of that model alone lack it
    head : what the names of the head begin with
    renamed : endings of names in old files, and what they are now
    unread : patterns of names that hold nothing this model reads
    must_be : settings that change what is computed and have one value that is computed here. What is not in
        ``config.json`` has it
    defaults : settings whose value differs from our config's if ``config.json`` leaves them out
    own : settings of ours that mean nothing there, and are not written unless they differ from our default
    """

    class_name: str
    entries: Callable[[Any], list[Entry]]
    copies: Callable[[Any], list[Copy]] = field(default=lambda config: [])
    prefix: str = ""
    head: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    must_be: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    own: tuple[str, ...] = ()

    def to_theirs(self, model: Any, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Their arrays by their names, from ours by our names.

        Raises
        ------
        ShapeError
            If a parameter is in no row of the table: it would be lost.
        """
        entries = self.entries(model.config)
        lost = sorted(set(arrays) - {entry.ours for entry in entries})
        if lost:
            raise ShapeError(
                f"{type(model).__name__} has parameters that {self.class_name} has no name for: {', '.join(lost)}"
            )
        result: dict[str, np.ndarray] = {}
        for entry in entries:
            parts = entry.layout.theirs(arrays[entry.ours], len(entry.theirs))
            result.update(zip(entry.theirs, parts, strict=True))
        for copy in self.copies(model.config):
            if copy.written:
                result[copy.name] = result[copy.of]
        return result


def own_names(model: Any) -> Exchange:
    """The exchange of an architecture that no other library has: our names, as they are."""
    names = [name for name, _ in model.named_state()]
    return Exchange(type(model).__name__, lambda config: [Entry(name, (name,)) for name in names])
