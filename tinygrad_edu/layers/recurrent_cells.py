"""Recurrent cells: one step of a recurrence. The maths is in `recurrent_ops`."""

from __future__ import annotations

from typing import Any

from ..backend import Array, Generator
from .recurrent_base import GRU_KIND, LSTM_KIND, RNN_KIND, Recurrence, check_nonlinearity


class _Cell(Recurrence):
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

    kind = RNN_KIND

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        generator: Generator | None = None,
    ):
        super().__init__(input_size, hidden_size, bias, generator)
        self.nonlinearity = check_nonlinearity("RNNCell", nonlinearity)
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

    kind = LSTM_KIND

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

    kind = GRU_KIND

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, generator: Generator | None = None):
        super().__init__(input_size, hidden_size, bias, generator)
