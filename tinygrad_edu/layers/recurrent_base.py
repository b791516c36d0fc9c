"""What recurrent cells and layers over sequences share: parameters, checks of inputs and states, the ops of a kind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..backend import Array, Generator, Op, default_generator, namespace
from ..errors import ConfigError, DtypeError, ShapeError, did_you_mean, format_shape
from .base import Layer, Parameter, check_last_axis, check_positive
from .recurrent_ops import NONLINEARITIES, gru, gru_backward, lstm, lstm_backward, rnn, rnn_backward

_PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


@dataclass(frozen=True)
class Kind:
    """What tells the recurrent layers apart.

    Attributes
    ----------
    gates : rows of the weights, in units of hidden_size
    states : names of the arrays of the state
    forward, backward : the ops
    """

    gates: int
    states: tuple[str, ...]
    forward: Op
    backward: Op


RNN_KIND = Kind(1, ("h",), rnn, rnn_backward)
LSTM_KIND = Kind(4, ("h", "c"), lstm, lstm_backward)
GRU_KIND = Kind(3, ("h",), gru, gru_backward)


class Recurrence(Layer):
    """What cells and layers over sequences share: parameters, checks, and the ops of their kind."""

    kind: Kind
    options: tuple[Any, ...] = ()  # further arguments of the ops

    def __init__(self, input_size: int, hidden_size: int, bias: bool, generator: Generator | None):
        super().__init__()
        check_positive(type(self).__name__, input_size=input_size, hidden_size=hidden_size)
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bool(bias)
        self.generator = generator or default_generator()

    def _add_parameters(self, input_size: int, suffix: str = "") -> None:
        """Those of one direction of one layer, uniform in ±1/sqrt(hidden_size) as torch draws them."""
        rows, bound = self.kind.gates * self.hidden_size, 1 / math.sqrt(self.hidden_size)
        shapes: list[tuple[int, ...]] = [(rows, input_size), (rows, self.hidden_size), (rows,), (rows,)]
        for name, shape in list(zip(_PARAMETERS, shapes, strict=True))[: 4 if self.bias else 2]:
            setattr(self, name + suffix, Parameter(self.generator.uniform(*shape, low=-bound, high=bound)))

    def _weights(self, suffix: str) -> list[Array | None]:
        found = [self._parameters.get(name + suffix) for name in _PARAMETERS]
        return [None if parameter is None else parameter.data for parameter in found]

    def _run(
        self, x: Array, initial: Sequence[Array], suffix: str, lengths: Array | None, reverse: bool
    ) -> tuple[Array, list[Array], list[Array]]:
        """Outputs, final states, and what backward needs; time is the first axis."""
        y, *rest = self.kind.forward(x, *initial, *self._weights(suffix), lengths, reverse, *self.options)
        count = len(self.kind.states)
        return y, rest[:count], rest[count:]

    def _run_backward(
        self,
        dy: Array,
        dfinal: Sequence[Array],
        x: Array,
        suffix: str,
        lengths: Array | None,
        reverse: bool,
        kept: list[Array],
    ) -> tuple[Array, list[Array]]:
        """Gradients of the input and of the initial states; those of the parameters are accumulated."""
        weight_ih, weight_hh, *_ = self._weights(suffix)
        dx, *rest = self.kind.backward(
            dy, *dfinal, x, weight_ih, weight_hh, lengths, reverse, *self.options, *kept, self.bias
        )
        count = len(self.kind.states)
        for name, gradient in zip(_PARAMETERS, rest[count:], strict=True):
            if gradient is not None:
                self._parameters[name + suffix].accumulate(gradient)
        return dx, rest[:count]

    # -- states and checks ------------------------------------------------------------------------------

    def _zeros(self, like: Array, *shape: int) -> Array:
        return namespace(like).zeros(shape, dtype=like.dtype)

    def _join(self, states: Sequence[Array]) -> Any:
        """A state as the caller sees it: the array itself where there is one, else a tuple."""
        return states[0] if len(self.kind.states) == 1 else tuple(states)

    def _arrays(self, state: Any, what: str, axes: str, shape: tuple[int, ...], like: Array) -> list[Array]:
        """The arrays of a state, or of its gradient; zeros for what is None.

        Raises
        ------
        ShapeError, DtypeError, DeviceError
            Unless there are as many as there should be, each of that shape, and of the type and device of `like`.
        """
        layer, names = type(self).__name__, self.kind.states
        if state is None or len(names) == 1:
            given: list[Any] = [state] * len(names)
        elif isinstance(state, tuple | list) and len(state) == len(names):
            given = list(state)
        else:
            found = f"{len(state)} arrays" if isinstance(state, tuple | list) else type(state).__name__
            raise ShapeError(f"{layer}: {what} must be a pair of arrays ({', '.join(names)}), got {found}")
        for name, array in zip(names, given, strict=True):
            if array is None:
                continue
            who = what if len(names) == 1 else f"{name} of {what}"
            if not hasattr(array, "shape") or not hasattr(array, "dtype"):
                raise DtypeError(f"{layer}: {who} must be an array, got {type(array).__name__}")
            if tuple(array.shape) != shape:
                raise ShapeError(
                    f"{layer}: {who} must be {axes}, here {format_shape(shape)}, got {format_shape(tuple(array.shape))}"
                )
            if array.dtype != like.dtype:
                raise DtypeError(f"{layer}: {who} must be {like.dtype}, as the input is; got {array.dtype}")
        namespace(like, *given)
        return [self._zeros(like, *shape) if array is None else array for array in given]

    def _check_input(self, x: Array, axes: tuple[str, ...]) -> None:
        namespace(x, *(parameter.data for parameter in self._parameters.values()))
        layer, found = type(self).__name__, format_shape(tuple(x.shape))
        if x.ndim != len(axes) + 1:
            raise ShapeError(f"{layer}: expected ({', '.join(axes)}, {self.input_size}), got {found}")
        check_last_axis(self, x, self.input_size, f"{', '.join(axes)}, ")
        for axis, length in zip(axes, x.shape, strict=False):
            if length == 0:
                raise ShapeError(f"{layer}: the input has a {axis} of 0, it is {found}")
        if x.dtype.kind != "f":
            raise DtypeError(f"{layer}: expected floating-point numbers, got {x.dtype}; ids go through an Embedding")

    def _check_gradient(self, dy: Array, shape: tuple[int, ...]) -> None:
        if tuple(dy.shape) != shape:
            raise ShapeError(
                f"{type(self).__name__}.backward: the gradient of the output must be {format_shape(shape)}, "
                f"got {format_shape(tuple(dy.shape))}"
            )


def check_nonlinearity(layer: str, nonlinearity: str) -> str:
    """Return `nonlinearity`, or raise ConfigError if it is not one of those there are."""
    if nonlinearity not in NONLINEARITIES:
        hint = did_you_mean(nonlinearity, NONLINEARITIES) if isinstance(nonlinearity, str) else ""
        raise ConfigError(f"{layer}: nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}.{hint}")
    return nonlinearity
