"""Rows of the tables for recurrent layers and their ops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..backend import Array, namespace
from . import twins
from .case import DIM, Case, Draw, Inputs, Library

HIDDEN = 5
_STATE = ("layer", "batch", "channel")
_AXES = {"state": _STATE, "state[0]": _STATE, "state[1]": _STATE, "y1": _STATE, "y2": _STATE}


def _inputs(kind: str, layers: int = 0, lengths: bool = False, batch_first: bool = True) -> Callable[..., Inputs]:
    """Sequences; a state for so many layers and directions, none if 0; lengths."""

    def draw(r: Draw, B: int, T: int) -> Inputs:
        x = r.normal(B, T, DIM) if batch_first else r.normal(T, B, DIM)
        states = tuple(r.normal(layers, B, HIDDEN) for _ in range(2 if kind == "LSTM" else 1)) if layers else None
        state = states[0] if states is not None and len(states) == 1 else states
        return (x, state, r.lengths(B, T)) if lengths else (x,) if state is None else (x, state)

    return draw


def _row(kind: str, options: str = "", layers: int = 0, lengths: bool = False, **settings: Any) -> Case:
    """A row whose twin is torch's layer of the same settings; with dropout, whose noise is another, it has none."""
    noisy = "dropout" in settings
    return Case(
        kind,
        lambda L: getattr(L, kind)(DIM, HIDDEN, generator=L.generator, **settings),
        _inputs(kind, layers, lengths, settings.get("batch_first", True)),
        options,
        torch=None if noisy else twins.recurrent(kind, DIM, HIDDEN, **settings),
        batched=False,  # the batch is the second axis of a state: see tests/layers/test_recurrent.py
        axes=_AXES,
    )


def _rows(kind: str) -> list[Case]:
    both: dict[str, Any] = {"num_layers": 2, "bidirectional": True}
    return [
        _row(kind),
        _row(kind, "state", layers=1),
        _row(kind, "lengths", lengths=True),
        _row(kind, "bias=False, state", layers=1, bias=False),
        _row(kind, "time first, state", layers=1, batch_first=False),
        _row(kind, "bidirectional, lengths", lengths=True, bidirectional=True),
        _row(kind, "two layers, bidirectional, state, lengths", layers=4, lengths=True, **both),
        _row(kind, "two layers, time first, lengths", lengths=True, num_layers=2, batch_first=False),
        _row(kind, "two layers, dropout", num_layers=2, dropout=0.4),
    ]


def _cell(kind: str, options: str = "", state: bool = False, **settings: Any) -> Case:
    def draw(r: Draw, B: int, T: int) -> Inputs:
        states = tuple(r.normal(B, HIDDEN) for _ in range(2 if kind == "LSTMCell" else 1))
        return (r.normal(B, DIM), *([states if len(states) == 2 else states[0]] if state else []))

    return Case(
        kind,
        lambda L: getattr(L, kind)(DIM, HIDDEN, generator=L.generator, **settings),
        draw,
        options,
        torch=twins.module(kind, DIM, HIDDEN, **settings),
    )


RECURRENT: list[Case] = [
    *(row for kind in ("RNN", "LSTM", "GRU") for row in _rows(kind)),
    _row("RNN", "relu, two layers, state", layers=2, num_layers=2, nonlinearity="relu"),
    *(_cell(kind) for kind in ("RNNCell", "LSTMCell", "GRUCell")),
    *(_cell(kind, "state", state=True) for kind in ("RNNCell", "LSTMCell", "GRUCell")),
    *(_cell(kind, "state, bias=False", state=True, bias=False) for kind in ("RNNCell", "LSTMCell", "GRUCell")),
    _cell("RNNCell", "relu", nonlinearity="relu"),
]


# -- the ops: the check takes one output, so outputs and final states are laid one after the other -----------------


def _together(y: Array, *final: Array) -> Array:
    return namespace(y).concatenate([y, *(state[None] for state in final)])


def rnn_forward(L: Library) -> Callable[..., Any]:
    """Outputs and final state, and what backward needs."""

    def forward(
        x: Any, h0: Any, weight_ih: Any, weight_hh: Any, bias_ih: Any, bias_hh: Any,
        lengths: Any, reverse: bool, nonlinearity: str,
    ) -> Any:  # fmt: skip
        y, hn, hidden = L.rnn(x, h0, weight_ih, weight_hh, bias_ih, bias_hh, lengths, reverse, nonlinearity)
        return _together(y, hn), hidden

    return forward


def rnn_backward(L: Library) -> Callable[..., Any]:
    """The gradient of :func:`rnn_forward`."""

    def backward(
        dy: Any, x: Any, weight_ih: Any, weight_hh: Any, bias_ih: Any, lengths: Any, reverse: bool, nonlinearity: str,
        hidden: Any,
    ) -> Any:  # fmt: skip
        return L.rnn_backward(
            dy[:-1], dy[-1], x, weight_ih, weight_hh, lengths, reverse, nonlinearity, hidden, bias_ih is not None
        )

    return backward


def lstm_forward(L: Library) -> Callable[..., Any]:
    """Outputs and final states, and what backward needs."""

    def forward(
        x: Any, h0: Any, c0: Any, weight_ih: Any, weight_hh: Any, bias_ih: Any, bias_hh: Any,
        lengths: Any, reverse: bool,
    ) -> Any:  # fmt: skip
        y, hn, cn, *kept = L.lstm(x, h0, c0, weight_ih, weight_hh, bias_ih, bias_hh, lengths, reverse)
        return _together(y, hn, cn), *kept

    return forward


def lstm_backward(L: Library) -> Callable[..., Any]:
    """The gradient of :func:`lstm_forward`."""

    def backward(
        dy: Any, x: Any, weight_ih: Any, weight_hh: Any, bias_ih: Any, lengths: Any, reverse: bool,
        hidden: Any, cells: Any, gates: Any,
    ) -> Any:  # fmt: skip
        return L.lstm_backward(
            dy[:-2], dy[-2], dy[-1], x, weight_ih, weight_hh, lengths, reverse, hidden, cells, gates,
            bias_ih is not None,
        )  # fmt: skip

    return backward


def gru_forward(L: Library) -> Callable[..., Any]:
    """Outputs and final state, and what backward needs."""

    def forward(
        x: Any, h0: Any, weight_ih: Any, weight_hh: Any, bias_ih: Any, bias_hh: Any, lengths: Any, reverse: bool
    ) -> Any:
        y, hn, *kept = L.gru(x, h0, weight_ih, weight_hh, bias_ih, bias_hh, lengths, reverse)
        return _together(y, hn), *kept

    return forward


def gru_backward(L: Library) -> Callable[..., Any]:
    """The gradient of :func:`gru_forward`."""

    def backward(
        dy: Any, x: Any, weight_ih: Any, weight_hh: Any, bias_ih: Any, lengths: Any, reverse: bool,
        hidden: Any, gates: Any,
    ) -> Any:  # fmt: skip
        return L.gru_backward(
            dy[:-1], dy[-1], x, weight_ih, weight_hh, lengths, reverse, hidden, gates, bias_ih is not None
        )

    return backward


def op_inputs(
    name: str, lengths: bool = False, reverse: bool = False, bias: bool = True, nonlinearity: str = ""
) -> Callable[[Draw, int, int], Inputs]:
    """Arguments of the op `name`."""
    rows = HIDDEN * {"rnn": 1, "lstm": 4, "gru": 3}[name]

    def draw(r: Draw, B: int, T: int) -> Inputs:
        states = [r.normal(B, HIDDEN) for _ in range(2 if name == "lstm" else 1)]
        weights = [r.normal(rows, DIM, scale=0.4), r.normal(rows, HIDDEN, scale=0.4)]
        biases = [r.normal(rows), r.normal(rows)] if bias else [None, None]
        how = [r.lengths(B, T) if lengths else None, reverse, *([nonlinearity] if nonlinearity else [])]
        return (r.normal(T, B, DIM), *states, *weights, *biases, *how)

    return draw
