"""A loss made of several, each on its own channels of the prediction and of the target."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..backend import Array, namespace
from ..errors import ConfigError, DtypeError, ShapeError, TinygradEduError, format_shape
from ..layers.base import Layer
from ..layers.containers import LayerList
from .cross_entropy import CrossEntropyLoss
from .dice import DiceLoss
from .regression import MeanSquaredError


@dataclass(frozen=True)
class Term:
    """One part of a :class:`CompositeLoss`.

    Attributes
    ----------
    name : what its value is reported under
    loss : such as :class:`DiceLoss`, with ``reduction="mean"``
    prediction : the channels of the prediction that it reads, ``slice(0, 2)``
    target : those of the target; a number takes one channel and its axis away, as class ids want it
    weight : by which its value is multiplied, >= 0
    """

    name: str
    loss: Layer
    prediction: slice
    target: slice | int
    weight: float = 1.0


class CompositeLoss(Layer):
    r"""A weighted sum of losses, each of some channels of one prediction and one target.

    .. math:: L = \sum_k w_k\, L_k(p_{[k]}, t_{[k]})

    A channel that several terms read has the sum of their gradients; one that none reads is refused.

    Parameters
    ----------
    terms : at least one, with names of their own

    Attributes
    ----------
    parts : value of each term in the latest forward by name, before its weight

    Raises
    ------
    ConfigError
        If there are no terms, or two of one name, or one whose channels, weight or loss are not allowed.

    Examples
    --------
    >>> loss = CompositeLoss([
    ...     Term("mask", DiceLoss(), slice(0, 1), slice(0, 1)),
    ...     Term("class", CrossEntropyLoss(), slice(1, 6), 1, weight=0.5),
    ... ])  # doctest: +SKIP
    """

    def __init__(self, terms: Iterable[Term]):
        super().__init__()
        self.terms = tuple(terms)
        if not self.terms:
            raise ConfigError("CompositeLoss: terms must be at least one, got none")
        for number, term in enumerate(self.terms):
            _check_term(term)
            if any(term.name == other.name for other in self.terms[:number]):
                raise ConfigError(f"CompositeLoss: two terms are named {term.name!r}")
        self.losses = LayerList(term.loss for term in self.terms)
        self.parts: dict[str, Any] = {}
        self._channels = _read("prediction", [term.prediction for term in self.terms])
        self._target_channels = _read("target", [_as_slice(term.target) for term in self.terms])
        widths = [term.prediction.stop - (term.prediction.start or 0) for term in self.terms]
        self._disjoint = sum(widths) == self._channels  # each channel has its gradient from one term

    def forward(self, prediction: Array, target: Array) -> Any:
        """Loss of a prediction (B, channels, *size) and a target (B, channels, *size): a number.

        Class ids, which a term takes from one channel, may be whole numbers in an array of floats.

        Raises
        ------
        ShapeError, DtypeError
            And what the losses raise, with the name of the term.
        """
        namespace(prediction, target)  # both on one device
        for name, x, channels in (
            ("prediction", prediction, self._channels), ("target", target, self._target_channels)
        ):  # fmt: skip
            if x.ndim < 2 or x.shape[1] != channels:
                raise ShapeError(
                    f"CompositeLoss: {name} must be (batch, {channels}, ...), as its terms read it, "
                    f"got {format_shape(tuple(x.shape))}"
                )
        if prediction.shape[0] != target.shape[0] or prediction.shape[2:] != target.shape[2:]:
            raise ShapeError(
                "CompositeLoss: prediction and target must agree in all but their channels, "
                f"got {format_shape(tuple(prediction.shape))} and {format_shape(tuple(target.shape))}"
            )
        parts = {}
        for term in self.terms:
            wanted = target[:, term.target]
            if isinstance(term.target, int):
                wanted = _ids(term.name, wanted)
            try:
                parts[term.name] = term.loss(prediction[:, term.prediction], wanted)
            except TinygradEduError as error:
                raise type(error)(f"CompositeLoss, term {term.name!r}: {error}") from error
        self.parts = parts
        self.save(prediction)
        return sum(term.weight * parts[term.name] for term in self.terms)

    def backward(self, dloss: Any = 1.0) -> Array:
        """Gradient of the prediction."""
        prediction = self.saved()
        xp = namespace(prediction)
        dprediction = (xp.empty_like if self._disjoint else xp.zeros_like)(prediction)  # in the prediction's layout
        for term in reversed(self.terms):  # a loss that two terms share has a stack: the last forward comes first
            gradient = term.loss.backward(dloss * term.weight)
            if self._disjoint:
                dprediction[:, term.prediction] = gradient
            else:
                dprediction[:, term.prediction] += gradient
        return dprediction


def design_loss(n_colours: int, weights: tuple[float, float, float] = (1.0, 0.5, 1.0)) -> CompositeLoss:
    """The loss of a network that reads a design's structure off its picture.

    Dice on the two masks, cross-entropy on colours, mean squared error on the hierarchy:

    ========= ============================= =======================
    term      channels of the prediction    channels of the target
    ========= ============================= =======================
    masks     0, 1: logits of text, image   0, 1: text, image
    colour    2 ...: `n_colours` logits     2: colour id
    hierarchy the last: a number            3: in [0, 1]
    ========= ============================= =======================

    Parameters
    ----------
    n_colours : how many colour ids there are, at least 2; the network gives 2 + n_colours + 1 channels
    weights : of masks, colour and hierarchy

    Raises
    ------
    ConfigError
    """
    if isinstance(n_colours, bool) or not isinstance(n_colours, int) or n_colours < 2:
        raise ConfigError(f"design_loss: n_colours must be an integer >= 2, got {n_colours!r}")
    if len(weights) != 3:
        raise ConfigError(f"design_loss: weights must be three, of masks, colour and hierarchy, got {weights!r}")
    last = 2 + n_colours
    return CompositeLoss(
        [
            Term("masks", DiceLoss(), slice(0, 2), slice(0, 2), weights[0]),
            Term("colour", CrossEntropyLoss(), slice(2, last), 2, weights[1]),
            Term("hierarchy", MeanSquaredError(), slice(last, last + 1), slice(3, 4), weights[2]),
        ]
    )


def _as_slice(channels: Any) -> slice:
    return slice(channels, channels + 1) if isinstance(channels, int) else channels


def _check_term(term: Term) -> None:
    where = f"CompositeLoss: term {term.name!r}"
    if not isinstance(term.loss, Layer):
        raise ConfigError(f"{where}: loss must be a loss layer such as DiceLoss(), got {type(term.loss).__name__}")
    reduction = getattr(term.loss, "reduction", "mean")
    if reduction != "mean":
        raise ConfigError(f"{where}: loss must have reduction='mean', got {reduction!r}")
    if not (isinstance(term.weight, int | float) and term.weight >= 0 and math.isfinite(term.weight)):
        raise ConfigError(f"{where}: weight must be a finite number >= 0, got {term.weight!r}")
    for name, channels in (("prediction", term.prediction), ("target", term.target)):
        if isinstance(channels, int) and name == "target" and channels >= 0:
            continue
        if not _is_range(channels):
            raise ConfigError(f"{where}: {name} must be channels such as slice(0, 2), got {channels!r}")


def _is_range(channels: Any) -> bool:
    """Whether `channels` is a slice from one channel to a later one, counted from the front."""
    if not isinstance(channels, slice) or not isinstance(channels.stop, int) or channels.step not in (None, 1):
        return False
    start = 0 if channels.start is None else channels.start
    return isinstance(start, int) and 0 <= start < channels.stop


def _read(name: str, slices: list[slice]) -> int:
    """How many channels there are; each must be read by some term."""
    count = max(channels.stop for channels in slices)
    read = {number for channels in slices for number in range(channels.start or 0, channels.stop)}
    left = sorted(set(range(count)) - read)
    if left:
        raise ConfigError(f"CompositeLoss: no term reads channels {left} of the {name}")
    return int(count)


def _ids(name: str, x: Array) -> Array:
    """Class ids of a channel as integers."""
    if x.dtype.kind in "iu":
        return x
    xp = namespace(x)
    broken = (x != xp.rint(x)) | ~xp.isfinite(x)
    if bool(broken.any()):
        raise DtypeError(
            f"CompositeLoss: term {name!r}: class ids must be whole numbers, got {float(x[broken][0]):.6g} among them"
        )
    return x.astype(xp.int64)
