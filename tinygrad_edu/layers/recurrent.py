"""Recurrent layers that read whole sequences. The maths is in `recurrent_ops`."""

from __future__ import annotations

from typing import Any

from ..backend import Array, Generator, asarray, device_of, is_inference, namespace, to_device
from ..errors import DtypeError, RangeError, ShapeError, format_shape
from .base import check_positive, check_probability
from .dropout import dropout as drop
from .recurrent_base import GRU_KIND, LSTM_KIND, RNN_KIND, Recurrence, check_nonlinearity


class _SequenceLayer(Recurrence):
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

    kind = RNN_KIND

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
        self.nonlinearity = check_nonlinearity("RNN", nonlinearity)
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

    kind = LSTM_KIND

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

    kind = GRU_KIND

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
