"""Checks that collators and loaders share: numbers among their arguments, and states that they go on from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import ConfigError, DataError

IGNORE = -100  #: label of a position that is not scored


def check_integer(name: str, value: object, least: int) -> None:
    """Raise ConfigError unless `value` is an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ConfigError(f"{name}: {value!r}, wanted an integer of at least {least}")


def check_share(name: str, value: object, *, above_zero: bool = False) -> float:
    """Return `value` as a float, or raise ConfigError unless it lies between 0 and 1."""
    if isinstance(value, int | float | np.number) and not isinstance(value, bool):
        number = float(value)
        if math.isfinite(number) and 0 <= number <= 1 and (number or not above_zero):
            return number
    raise ConfigError(f"{name}: {value!r}, wanted a number {'above 0, at most 1' if above_zero else 'from 0 to 1'}")


def read_state(
    what: str, state: Mapping[str, Any], mine: Mapping[str, Any], counts: Mapping[str, int | None]
) -> dict[str, int]:
    """Return the counts of a state that was saved, once all the rest of it equals `mine`.

    Parameters
    ----------
    what : str
        ``loader`` or ``collator``, for messages.
    state, mine : mapping
        The state to go on from, and that of the object that would.
    counts : mapping of str to int or None
        The entries that may differ, each with the most it may be.

    Raises
    ------
    DataError
        When other entries differ (all are named), or a count is damaged.
    """
    if not isinstance(state, Mapping) or state.keys() != mine.keys():
        found = sorted(state) if isinstance(state, Mapping) else type(state).__name__
        raise DataError(f"{what} state: fields {found}, wanted {sorted(mine)}")
    fixed = [key for key in mine if key not in counts]
    other = [f"{key} {state[key]!r}, this {what} has {mine[key]!r}" for key in fixed if state[key] != mine[key]]
    if other:
        raise DataError(f"{what} state comes from other data or settings: " + "; ".join(other))
    for key, most in counts.items():
        value = state[key]
        if type(value) is not int or value < 0 or (most is not None and value > most):
            limit = "" if most is None else f" and at most {most}, the batches of an epoch"
            raise DataError(f"{what} state: {key} is {value!r}, wanted an integer of at least 0{limit}")
    return {key: state[key] for key in counts}
