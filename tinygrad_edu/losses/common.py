"""What losses share: their checks of arguments, and how one number is made of many."""

from __future__ import annotations

from typing import Any

from ..backend import Array, namespace
from ..errors import ConfigError, DtypeError, RangeError, ShapeError, format_shape


def check_targets(name: str, targets: Array, classes: int, ignore_index: int) -> int:
    """Raise unless `targets` are integers in [0, classes) or `ignore_index`; return how many count.

    Raises
    ------
    DtypeError, RangeError
    """
    if targets.dtype.kind not in "iu":
        raise DtypeError(f"{name}: targets must be integers, got {targets.dtype}")
    counted = targets != ignore_index
    bad = counted & ((targets < 0) | (targets >= classes))
    if bad.any():
        first = tuple(int(axis[0]) for axis in namespace(targets).nonzero(bad))
        raise RangeError(
            f"{name}: targets must be in [0, {classes}) or ignore_index {ignore_index}, "
            f"got {int(targets[first])} at position {first}"
        )
    return int(counted.sum())


def check_reduction(name: str, reduction: str) -> None:
    """Raise ConfigError unless `reduction` is one that torch knows."""
    if reduction not in ("mean", "sum", "none"):
        raise ConfigError(f"{name}: reduction must be 'mean', 'sum' or 'none', got {reduction!r}")


def check_not_empty(name: str, what: str, x: Array) -> None:
    """Raise ShapeError where the mean would be that of nothing."""
    if x.size == 0:
        raise ShapeError(f"{name}: there is nothing to take the mean of, {what} is {format_shape(tuple(x.shape))}")


def check_same_shape(name: str, prediction: Array, target: Array) -> None:
    """Raise ShapeError unless both have one shape: a smaller one would be spread over the other in silence."""
    if tuple(prediction.shape) != tuple(target.shape):
        raise ShapeError(
            f"{name}: prediction and target must have one shape, "
            f"got {format_shape(tuple(prediction.shape))} and {format_shape(tuple(target.shape))}"
        )


def check_fractions(name: str, what: str, x: Array) -> None:
    """Raise ConfigError where `x` leaves [0, 1], as logits do where probabilities are wanted, or bytes of a picture.

    A NaN passes: it shows in the loss, and training stops there with the step and the layer.
    """
    xp = namespace(x)
    if x.size and bool(xp.any((x < 0) | (x > 1))):
        raise ConfigError(
            f"{name}: {what} must be in [0, 1], got values from {float(xp.nanmin(x)):.6g} to {float(xp.nanmax(x)):.6g}"
        )


def factors(name: str, what: str, weight: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """`weight` spread to `shape`.

    Raises
    ------
    ShapeError
        If it does not broadcast to it.
    """
    try:
        return namespace(weight).broadcast_to(weight, shape).astype(dtype, copy=False)
    except ValueError:
        raise ShapeError(
            f"{name}: {what} {format_shape(tuple(weight.shape))} does not broadcast to {format_shape(shape)}"
        ) from None


def scalar(x: Array) -> Any:
    """A loss on the host is a plain float; on a device it stays there until somebody asks for its value."""
    return float(x) if namespace(x).__name__ == "numpy" else x
