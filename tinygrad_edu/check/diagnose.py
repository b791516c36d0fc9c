"""From a wrong gradient and a right one, say where they differ and by which simple relation.

Each ``_is_...`` looks for one relation and answers with a sentence, or with None. They are tried in order, from
the most to the least specific; the first sentence wins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import format_shape

CLOSE = 1e-6  # relative to the largest entry: far above rounding, far below any error of formula

ZERO = 1e-10  # of the largest entry of yours: what numeric differences leave of a gradient that is zero


@dataclass
class Context:
    """What there is to compare with.

    Attributes
    ----------
    axes : names of the gradient's axes
    related : arrays by a readable name, of which the error may turn out to be a multiple
    lengths : lengths that may turn out to be a factor, by readable name
    ids : integer inputs, flattened, that may have chosen rows of this tensor
    partial : gradient of one part of the output's entries by the name of that part, computed when asked for
    """

    axes: tuple[str, ...]
    related: dict[str, np.ndarray] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    ids: list[np.ndarray] = field(default_factory=list)
    partial: Callable[[], Sequence[tuple[str, np.ndarray]]] = tuple


def same(a: np.ndarray, b: np.ndarray, size: float) -> bool:
    """Whether two arrays agree to `CLOSE` of `size`."""
    return bool(a.shape == b.shape and np.all(np.abs(a - b) <= CLOSE * size))


def worst_entry(yours: np.ndarray, right: np.ndarray) -> tuple[int, ...] | None:
    """Index of the largest difference (of a NaN of yours, if there is one); None if the shapes differ or are empty."""
    if yours.shape != right.shape or yours.size == 0:
        return None
    error = np.where(np.isfinite(yours), np.abs(yours - right), np.inf)
    error = np.where(np.isnan(right), -1.0, error)  # an entry that was not measured
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(error)), yours.shape))


def explain(yours: np.ndarray, right: np.ndarray, context: Context) -> str:
    """One sentence on how `yours` differs from `right`, or a statement of how large the difference is.

    Parameters
    ----------
    right : NaN where an entry of a large tensor was not measured; relations over an axis are then not sought
    """
    if yours.shape != right.shape:
        return _shape(yours, right, context)
    if not np.all(np.isfinite(yours)):
        bad = int(np.sum(~np.isfinite(yours)))
        where = "look for a division by zero, an overflow, or -inf minus -inf."
        return f"{bad} of {yours.size} entries are not finite: {where}"
    known = ~np.isnan(right)
    whole = bool(known.all())
    size = float(np.max(np.abs(right[known]), initial=0.0))
    flat = _flat_relation(yours[known], right[known], size, context)
    if flat:
        return flat
    if whole:
        for relation in (_transposed, _reversed, _reduced, _ids, _slice, _mean_missing, _multiple, _part):
            sentence = relation(yours, right, size, context)
            if sentence:
                return sentence
    return _magnitude(yours[known], right[known], size)


def _shape(yours: np.ndarray, right: np.ndarray, context: Context) -> str:
    text = f"The shape is {format_shape(yours.shape)}, wanted {format_shape(right.shape)}"
    if yours.shape == right.shape[::-1] and yours.ndim == 2:
        fits = same(yours.T, right, float(np.nanmax(np.abs(right), initial=0.0)))
        return text + (": it is transposed." if fits else ": the axes are swapped.")
    extra = yours.ndim - right.ndim
    if extra > 0 and yours.shape[extra:] == right.shape:
        axes = " and ".join(_names(yours.ndim, context)[:extra])
        return text + f": the sum over {axes} is missing."
    if yours.size == right.size:
        return text + ": the entries are as many, so a reshape or transpose is missing."
    return text + "."


def _names(ndim: int, context: Context) -> list[str]:
    leading = {1: ["batch"], 2: ["batch", "time"], 3: ["batch", "head", "time"]}
    extra = ndim - len(context.axes)
    return [*leading.get(extra, [f"axis {i}" for i in range(extra)]), *context.axes]


def _flat_relation(yours: np.ndarray, right: np.ndarray, size: float, context: Context) -> str | None:
    """Relations of one entry to the same entry."""
    if size > 0 and not yours.any():
        return "It is zero everywhere: nothing flows back on this path, or the gradient is not accumulated."
    if size <= ZERO * float(np.max(np.abs(yours), initial=0.0)):
        return "It should be zero everywhere."
    if same(yours, -right, size):
        return "The sign is wrong."
    factor = float(yours @ right / (right @ right))
    if yours.size > 1 and same(yours, factor * right, size * max(abs(factor), CLOSE)):
        return f"It is {factor:.6g} times the right gradient{_factor_name(factor, context)}."
    return None


def _factor_name(factor: float, context: Context) -> str:
    lengths = {name: length for name, length in context.lengths.items() if length > 1}
    for name, length in lengths.items():
        if np.isclose(factor, length, rtol=1e-9):
            return f", {length} being the length of {name}: a division by it is missing, or a sum was taken for a mean"
        if np.isclose(factor, 1 / length, rtol=1e-9):
            why = "it was divided by it once too often, or a mean was taken for a sum"
            return f", 1/{length}, the length of {name}: {why}"
    if not np.isclose(factor, (2, 0.5), rtol=1e-9).any():  # rather a plain 2 than the square root of a 4
        for name, length in lengths.items():
            if np.isclose(factor, (length**0.5, length**-0.5), rtol=1e-9).any():
                root = f"the square root of the length of {name} ({length}), or one over it"
                return f", {root}: a scale is missing or doubled"
    if np.isclose(abs(factor), 1, rtol=1e-2):
        return ": a constant in the formula is slightly off"
    return ": a constant factor is missing or there twice"


def _transposed(yours: np.ndarray, right: np.ndarray, size: float, _: Context) -> str | None:
    if yours.ndim == 2 and same(yours.T, right, size):
        return "It is transposed."
    if yours.ndim > 2 and yours.shape[-1] == yours.shape[-2] and same(yours.swapaxes(-1, -2), right, size):
        return "The last two axes are swapped."
    return None


def _reversed(yours: np.ndarray, right: np.ndarray, size: float, context: Context) -> str | None:
    """The last axes run the wrong way, as in a kernel that was turned."""
    for axes in ((-1,), (-2,), (-2, -1)):
        if yours.ndim >= -axes[0] and same(np.flip(yours, axes), right, size):
            return f"It is reversed along {' and '.join(f'`{context.axes[axis]}`' for axis in axes)}."
    return None


def _reduced(yours: np.ndarray, right: np.ndarray, size: float, context: Context) -> str | None:
    """Yours is the right one, summed or averaged over an axis and spread out again."""
    for axis, name in enumerate(context.axes):
        if yours.shape[axis] < 2:
            continue
        own = f"spread out again: each entry along `{name}` has a gradient of its own."
        if same(yours, np.broadcast_to(right.sum(axis, keepdims=True), right.shape), size):
            return f"It was summed over `{name}` and {own}"
        if same(yours, np.broadcast_to(right.mean(axis, keepdims=True), right.shape), size):
            return f"It was averaged over `{name}` and {own}"
    return None


def _ids(yours: np.ndarray, right: np.ndarray, size: float, context: Context) -> str | None:
    """Wrong rows of a table, and how often each row was read."""
    for ids in context.ids:
        if yours.ndim < 2 or ids.size == 0 or ids.min() < 0 or ids.max() >= len(yours):
            continue
        counts = np.bincount(ids.astype(np.int64), minlength=len(yours))
        wrong = np.abs(yours - right).reshape(len(yours), -1).max(axis=1) > CLOSE * size
        if wrong.any() and not wrong[counts < 2].any():
            return (
                "It is wrong only at ids that occur more than once: their gradients must be added up "
                "(`np.add.at`, or a sum for each id), where `grad[ids] += dy` or `=` keeps one of them."
            )
    return None


def _slice(yours: np.ndarray, right: np.ndarray, size: float, context: Context) -> str | None:
    """All that is wrong lies at one place along an axis."""
    wrong = np.abs(yours - right) > CLOSE * size
    for axis, name in enumerate(context.axes):
        length = yours.shape[axis]
        others = tuple(i for i in range(yours.ndim) if i != axis)
        places = np.flatnonzero(wrong.any(axis=others))
        if length > 2 and len(places) == 1 and (wrong.sum() > 1 or yours.ndim == 1):
            place = int(places[0])
            which = {0: ", the first", length - 1: ", the last"}.get(place, "")
            return f"It is wrong only at {name}={place}{which}."
    return None


def _mean_missing(yours: np.ndarray, right: np.ndarray, size: float, context: Context) -> str | None:
    """The error is the same all along an axis: what a mean (or sum) over that axis would have taken out."""
    error = yours - right
    for axis in reversed(range(yours.ndim)):
        if yours.shape[axis] > 1 and np.ptp(error, axis=axis).max() <= CLOSE * float(np.abs(error).max()):
            return f"The error is constant along `{context.axes[axis]}`: a mean over that axis is missing."
    return None


def _multiple(yours: np.ndarray, right: np.ndarray, size: float, context: Context) -> str | None:
    """Along an axis the error is a multiple of something known: the term `known * sum(...)` is missing."""
    error = yours - right
    largest = float(np.abs(error).max())
    for name, known in context.related.items():
        if known.shape != error.shape:
            continue
        for axis in reversed(range(error.ndim)):
            if error.shape[axis] < 3:  # along two entries nearly anything is a multiple, up to one number
                continue
            squares = (known * known).sum(axis, keepdims=True)
            ratio = (error * known).sum(axis, keepdims=True) / np.where(squares == 0, 1, squares)
            if np.abs(error - ratio * known).max() <= CLOSE * largest:
                return (
                    f"Along `{context.axes[axis]}` the error is a multiple of {name}: a term is missing that "
                    f"multiplies {name} by a sum or mean over that axis."
                )
    return None


def _part(yours: np.ndarray, right: np.ndarray, size: float, context: Context) -> str | None:
    for name, gradient in context.partial():
        if same(yours, gradient, size):
            return f"Only {name} was counted: the sum over that axis is missing, or `=` stands where `+=` should."
    return None


def _magnitude(yours: np.ndarray, right: np.ndarray, size: float) -> str:
    error = np.abs(yours - right)
    wrong = int(np.sum(error > CLOSE * size))
    relative = float(error.max()) / size
    if relative < 1e-2:
        return (
            f"The error is small, at most {relative:.2g} of the largest entry: "
            "a constant in the formula is slightly off, or a small term is missing."
        )
    where = "all" if wrong == yours.size else f"{wrong} of {yours.size}"
    return f"No simple relation was found; {where} entries are wrong, by at most {relative:.2g} of the largest."
