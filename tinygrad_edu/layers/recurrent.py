"""Recurrent layers: cells that make one step, and layers that read whole sequences. The maths is in `recurrent_ops`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..backend import Array, Generator, Op, asarray, default_generator, device_of, is_inference, namespace, to_device
from ..errors import ConfigError, DtypeError, RangeError, ShapeError, did_you_mean, format_shape
from .base import Layer, Parameter, check_last_axis, check_positive, check_probability
from .dropout import dropout as drop
from .recurrent_ops import NONLINEARITIES, gru, gru_backward, lstm, lstm_backward, rnn, rnn_backward

_PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
States = tuple[Array, ...]  # h; of an LSTM h and c


@dataclass(frozen=True)
class _Kind:
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


_RNN = _Kind(1, ("h",), rnn, rnn_backward)
_LSTM = _Kind(4, ("h", "c"), lstm, lstm_backward)
_GRU = _Kind(3, ("h",), gru, gru_backward)


class _Recurrence(Layer):
    """What cells and layers over sequences share: parameters, checks, and the ops of their kind."""

    kind: _Kind
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


def _check_nonlinearity(layer: str, nonlinearity: str) -> str:
    if nonlinearity not in NONLINEARITIES:
        hint = did_you_mean(nonlinearity, NONLINEARITIES) if isinstance(nonlinearity, str) else ""
        raise ConfigError(f"{layer}: nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}.{hint}")
    return nonlinearity


# -- cells ---------------------------------------------------------------------------------------------------


class _Cell(_Recurrence):
    """One step of a recurrence: the op over a sequence of length one."""

    def __init__(self, input_size: int, hidden_size: int, bias: bool, generator: Generator | None):
        super().__init__(input_size, hidden_size, bias, generator)
        self._add_parameters(input_size)

    def forward(self, x: Array, state: Any = None) -> Any:
        """One step.

        Parameters
        ----------
        x : (B, input_size)
        state : (B, hidden_size), of an LSTM a pair (h, c) of them; zeros if None

        Returns
        -------
        The new state, of the same form.

        Raises
        ------
        ShapeError, DtypeError, DeviceError
            If `x` or `state` does not fit.
        """
        self._check_input(x, ("batch",))
        initial = self._arrays(
            state, "the state", f"(batch, {self.hidden_size})", (x.shape[0], self.hidden_size), like=x
        )
        _, final, kept = self._run(x[None], initial, "", None, False)
        self.save(x, state is not None, kept)
        return self._join(final)

    def _step_back(self, dstates: tuple[Array | None, ...]) -> Any:
        x, given, kept = self.saved()
        shape = (x.shape[0], self.hidden_size)
        dfinal = self._arrays(
            self._join(dstates), "the gradient of the state", f"(batch, {self.hidden_size})", shape, like=x
        )
        dx, dinitial = self._run_backward(self._zeros(x, 1, *shape), dfinal, x[None], "", None, False, kept)
        return (dx[0], self._join(dinitial)) if given else dx[0]

    def backward(self, dh: Array) -> Any:
        """Gradient of the input; and of the state, if one was given.

        Parameters
        ----------
        dh : (B, hidden_size), gradient of the new state
        """
        return self._step_back((dh,))

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias else ", bias=False")


class RNNCell(_Cell):
    """One step of a plain recurrence (Elman, 1990), state_dict-compatible with torch.nn.RNNCell.

    Parameters
    ----------
    input_size, hidden_size : widths of the input and of the state
    bias : whether the two products have one each
    nonlinearity : "tanh" or "relu"
    generator : draws the initial weights

    Raises
    ------
    ConfigError
        If a size is below 1 or the nonlinearity unknown.
    """

    kind = _RNN

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        generator: Generator | None = None,
    ):
        super().__init__(input_size, hidden_size, bias, generator)
        self.nonlinearity = _check_nonlinearity("RNNCell", nonlinearity)
        self.options = (nonlinearity,)

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity!r}")


class LSTMCell(_Cell):
    """One step of an LSTM (Hochreiter & Schmidhuber, 1997), state_dict-compatible with torch.nn.LSTMCell.

    Parameters
    ----------
    input_size, hidden_size : widths of the input and of the state
    bias : whether the two products have one each
    generator : draws the initial weights
    """

    kind = _LSTM

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, generator: Generator | None = None):
        super().__init__(input_size, hidden_size, bias, generator)

    def backward(self, dh: Array | None, dc: Array | None = None) -> Any:
        """Gradient of the input; and of the state (h, c), if one was given.

        Parameters
        ----------
        dh, dc : (B, hidden_size), gradients of the new state and cell; None where it was not used
        """
        return self._step_back((dh, dc))


class GRUCell(_Cell):
    """One step of a GRU (Cho et al., 2014), state_dict-compatible with torch.nn.GRUCell.

    Parameters
    ----------
    input_size, hidden_size : widths of the input and of the state
    bias : whether the two products have one each
    generator : draws the initial weights
    """

    kind = _GRU

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, generator: Generator | None = None):
        super().__init__(input_size, hidden_size, bias, generator)


# -- layers over sequences -----------------------------------------------------------------------------------


class _SequenceLayer(_Recurrence):
    """Recurrent layers stacked on each other, each reading whole sequences in one direction or in both."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        generator: Generator | None,
    ):
        super().__init__(input_size, hidden_size, bias, generator)
        check_positive(type(self).__name__, num_layers=num_layers)
        check_probability(type(self).__name__, dropout=dropout)
        self.num_layers, self.batch_first = num_layers, bool(batch_first)
        self.dropout, self.bidirectional = float(dropout), bool(bidirectional)
        self.directions = 2 if bidirectional else 1
        for layer in range(num_layers):
            width = input_size if layer == 0 else self.directions * hidden_size
            for direction in range(self.directions):
                self._add_parameters(width, self._suffix(layer, direction))

    @staticmethod
    def _suffix(layer: int, direction: int) -> str:
        return f"_l{layer}" + ("_reverse" if direction else "")

    def _time_first(self, x: Array) -> Array:
        """From the caller's order of axes to time first, or back: a view."""
        return x.swapaxes(0, 1) if self.batch_first else x

    def _state_shape(self, batch: int) -> tuple[str, tuple[int, ...]]:
        layers = self.num_layers * self.directions
        return f"(layers * directions, batch, {self.hidden_size})", (layers, batch, self.hidden_size)

    def _check_lengths(self, lengths: Any, x: Array) -> Array | None:
        """`lengths` as an array on the device of `x` (time first), or None where every sequence is full."""
        if lengths is None:
            return None
        layer, (time, batch, _) = type(self).__name__, x.shape
        if isinstance(lengths, list | tuple):
            lengths = to_device(asarray(lengths), device_of(x))
        namespace(x, lengths)
        if lengths.dtype.kind not in "iu":
            raise DtypeError(f"{layer}: lengths must be integers, got {lengths.dtype}")
        if tuple(lengths.shape) != (batch,):
            raise ShapeError(
                f"{layer}: lengths must be (batch,), here ({batch},), got {format_shape(tuple(lengths.shape))}"
            )
        low, high = int(lengths.min()), int(lengths.max())
        if low < 1 or high > time:
            wrong = (lengths < 1) | (lengths > time)
            (places,) = namespace(lengths).nonzero(wrong)
            place = int(places[0])
            raise RangeError(
                f"{layer}: lengths must be in 1 .. {time}, the time of the input; "
                f"got {int(lengths[place])} for sequence {place}"
            )
        return None if low == time else lengths

    def forward(self, x: Array, state: Any = None, lengths: Any = None) -> tuple[Array, Any]:
        """Read whole sequences.

        To go on where a chunk of a long text ended, give the state that came out of it. Nothing flows back through
        an array, so that is where backpropagation through time is cut.

        Parameters
        ----------
        x : (B, T, input_size), or (T, B, input_size) if not batch_first
        state : (num_layers * directions, B, hidden_size), of an LSTM a pair (h, c) of them; zeros if None
        lengths : (B,), integers in 1 .. T, of sequences that are padded at their end; all are full if None.
            The same as torch's pack_padded_sequence and pad_packed_sequence: outputs are zero beyond the end, final
            states are those at the end, and the reverse direction begins there

        Returns
        -------
        y : (B, T, directions * hidden_size) or time first, the last layer's states, forward beside reverse
        state : the state after the last step of each layer and direction, of the form of `state`

        Raises
        ------
        ShapeError, DtypeError, RangeError, DeviceError
            If `x`, `state` or `lengths` does not fit.
        """
        self._check_input(x, ("batch", "time") if self.batch_first else ("time", "batch"))
        x = self._time_first(x)
        xp = namespace(x)
        initial = self._arrays(state, "the state", *self._state_shape(x.shape[1]), like=x)
        lengths = self._check_lengths(lengths, x)
        final: list[list[Array]] = []  # by layer and direction, the states
        passes: list[tuple[Array, int | None, list[list[Array]]]] = []  # input, dropout seed, kept by direction
        for layer in range(self.num_layers):
            seed = self.generator.draw_seed() if layer and self.training and self.dropout else None
            if seed is not None:
                x = drop(x, self.dropout, seed)
            outputs, kept = [], []
            for direction in range(self.directions):
                begin = [array[layer * self.directions + direction] for array in initial]
                y, end, needed = self._run(x, begin, self._suffix(layer, direction), lengths, direction == 1)
                outputs.append(y)
                final.append(end)
                kept.append(needed)
            if not is_inference():
                passes.append((x, seed, kept))
            x = outputs[0] if self.directions == 1 else xp.concatenate(outputs, axis=-1)
        self.save(state is not None, lengths, passes)
        return self._time_first(x), self._join([xp.stack(arrays) for arrays in zip(*final, strict=True)])

    def backward(self, dy: Array | None, dstate: Any = None) -> Any:
        """Gradient of the input; and of the initial state, if one was given.

        Parameters
        ----------
        dy : gradient of the output; None where only the state was used
        dstate : gradient of the final state, of its form; None where only the output was used

        Returns
        -------
        dx, or (dx, dstate0) where a state was given
        """
        given, lengths, passes = self.saved()
        x = passes[0][0]
        (time, batch, _), width = x.shape, self.hidden_size
        shape = (time, batch, self.directions * width)
        if dy is None:
            dx = self._zeros(x, *shape)
        else:
            self._check_gradient(dy, (batch, time, shape[2]) if self.batch_first else shape)
            dx = self._time_first(dy)
        dfinal = self._arrays(dstate, "the gradient of the state", *self._state_shape(batch), like=x)
        dinitial: list[list[Array]] = [[] for _ in range(self.num_layers * self.directions)]
        for layer in reversed(range(self.num_layers)):
            x, seed, kept = passes.pop()  # what a layer kept is let go with it
            parts = []
            for direction in range(self.directions):
                place = layer * self.directions + direction
                part, dinitial[place] = self._run_backward(
                    dx[..., direction * width : (direction + 1) * width],
                    [array[place] for array in dfinal],
                    x,
                    self._suffix(layer, direction),
                    lengths,
                    direction == 1,
                    kept[direction],
                )
                parts.append(part)
            dx = parts[0] if self.directions == 1 else parts[0] + parts[1]  # both read the same input
            if seed is not None:
                dx = drop(dx, self.dropout, seed)
        dx = self._time_first(dx)
        if not given:
            return dx
        return dx, self._join([namespace(dx).stack(arrays) for arrays in zip(*dinitial, strict=True)])

    def extra_repr(self) -> str:
        parts = [f"{self.input_size}, {self.hidden_size}"]
        usual = {"num_layers": 1, "bias": True, "batch_first": True, "dropout": 0.0, "bidirectional": False}
        parts += [f"{name}={getattr(self, name)}" for name, value in usual.items() if getattr(self, name) != value]
        return ", ".join(parts)


class RNN(_SequenceLayer):
    """Plain recurrent layers (Elman, 1990), state_dict-compatible with torch.nn.RNN.

    The batch is the first axis here, as everywhere in this library; torch's default is ``batch_first=False``.

    Parameters
    ----------
    input_size, hidden_size : widths of the input and of the state
    num_layers : how many, each reading the one below it
    nonlinearity : "tanh" or "relu"
    bias : whether the two products of each layer have one each
    batch_first : whether inputs and outputs are (batch, time, width), not (time, batch, width)
    dropout : probability with which a number between two layers is dropped while training
    bidirectional : whether a second set of weights reads each sequence from its end
    generator : draws the initial weights, and the dropout seeds

    Raises
    ------
    ConfigError
        If a size is below 1, the dropout outside [0, 1), or the nonlinearity unknown.
    """

    kind = _RNN

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
        generator: Generator | None = None,
    ):
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, generator)
        self.nonlinearity = _check_nonlinearity("RNN", nonlinearity)
        self.options = (nonlinearity,)

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity!r}")


class LSTM(_SequenceLayer):
    """Long short-term memory (Hochreiter & Schmidhuber, 1997), state_dict-compatible with torch.nn.LSTM.

    The batch is the first axis here, as everywhere in this library; torch's default is ``batch_first=False``.
    The state is a pair (h, c). There are no projections (torch's ``proj_size``).

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, generator : as of :class:`RNN`
    """

    kind = _LSTM

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
        generator: Generator | None = None,
    ):
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, generator)


class GRU(_SequenceLayer):
    """Gated recurrent units (Cho et al., 2014), state_dict-compatible with torch.nn.GRU.

    The batch is the first axis here, as everywhere in this library; torch's default is ``batch_first=False``.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, generator : as of :class:`RNN`
    """

    kind = _GRU

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
        generator: Generator | None = None,
    ):
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, generator)
