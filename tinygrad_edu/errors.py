"""Every error that a user can cause, under one base class.

Each also derives from the built-in exception a Python programmer would expect, so both
``except ShapeError`` and ``except ValueError`` catch it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class TinygradEduError(Exception):
    """Base of all errors raised on purpose by this library."""


class ShapeError(TinygradEduError, ValueError):
    """An array has the wrong number of axes or the wrong length along one."""


class DtypeError(TinygradEduError, TypeError):
    """An array has an element type that the operation cannot take."""


class DeviceError(TinygradEduError, TypeError):
    """Arrays of two devices met, or a device was asked for that is not there."""


class RangeError(TinygradEduError, IndexError):
    """A token id, class index or position lies outside its table."""


class ConfigError(TinygradEduError, ValueError):
    """A setting or argument has a value that is not allowed."""


class DataError(TinygradEduError, ValueError):
    """A data file, corpus or tokenizer cannot be used."""


class CheckpointError(TinygradEduError, RuntimeError):
    """A checkpoint is damaged, incomplete or does not fit the model."""


class BackwardError(TinygradEduError, RuntimeError):
    """``backward`` was called without a ``forward`` whose values it could take."""


class NonFiniteError(TinygradEduError, FloatingPointError):
    """A loss or a gradient became NaN or infinite."""


def format_shape(axes: Sequence[str | int], shape: Sequence[int] | None = None) -> str:
    """``(batch, time, 256)`` for the wanted axes, ``(8, 128, 255)`` for a shape found."""
    values = axes if shape is None else shape
    return "(" + ", ".join(str(v) for v in values) + ("," if len(values) == 1 else "") + ")"


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` (with its leading space) when one of `options` is close to `word`, else nothing."""
    close = difflib.get_close_matches(word, list(options), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
