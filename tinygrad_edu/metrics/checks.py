"""What the figures of merit ask of the arrays they are given."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DtypeError, NonFiniteError, ShapeError


def same_shape(predicted: NDArray[Any], wanted: NDArray[Any], names: tuple[str, str]) -> None:
    """Raise ShapeError unless both have one shape, with something in it."""
    if predicted.shape != wanted.shape:
        raise ShapeError(f"{names[0]}: shape {predicted.shape}, wanted that of {names[1]}, {wanted.shape}")
    if not wanted.size:
        raise ShapeError(f"{names[0]}: shape {predicted.shape}, there is nothing to compare")


def real(name: str, values: Any) -> NDArray[np.float64]:
    """`values` as float64.

    Raises
    ------
    DtypeError
        If they are no real numbers.
    NonFiniteError
        If one is NaN or infinite, with its place.
    """
    values = np.asarray(values)
    if values.dtype.kind not in "fiub":
        raise DtypeError(f"{name}: dtype {values.dtype}, wanted real numbers")
    values = values.astype(np.float64)
    broken = ~np.isfinite(values)
    if broken.any():
        first = tuple(int(axis[0]) for axis in np.nonzero(broken))
        raise NonFiniteError(f"{name}: {values[first]} at position {first}, {int(broken.sum())} of {values.size} so")
    return values


def integers(name: str, values: Any) -> NDArray[Any]:
    """`values` as they are; DtypeError unless they are integers."""
    values = np.asarray(values)
    if values.dtype.kind not in "iu":
        raise DtypeError(f"{name}: dtype {values.dtype}, wanted integers")
    return values
