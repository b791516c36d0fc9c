"""The table of all layers and losses, one row for each way of building one; ``tinygrad-edu check all`` runs it.

A new layer adds a row, and gets every check: gradients, torch, contract, devices, batch and time of one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import layers, losses
from ..backend import Array, Generator, asarray, registered_ops, use
from ..layers.base import Layer
from . import layer as check_layer
from . import loss as check_loss
from . import twins
from .report import Report


class Library:
    """Layers, losses and ops by name, for rows to build from; some may be replaced by one's own.

    Parameters
    ----------
    mine : what stands in for the library's own, by name

    Attributes
    ----------
    generator : for initial weights and for noise, seeded
    """

    def __init__(self, mine: Mapping[str, Any] | None = None, seed: int = 0):
        self._mine = dict(mine or {})
        self.generator = Generator(seed)

    def __getattr__(self, name: str) -> Any:
        for place in (self._mine, registered_ops(), layers.__dict__, losses.__dict__):
            if name in place:
                return place[name]
        raise AttributeError(f"the library has no layer, loss or op named {name!r}")


class Draw:
    """Random inputs on the current device; floats stay 0.05 away from zero, where ReLU has its kink."""

    def __init__(self, seed: int = 0):
        self._rng = np.random.default_rng([seed, 3])

    def normal(self, *shape: int, scale: float = 1.0) -> Array:
        """Normal numbers, pushed away from zero."""
        x = self._rng.standard_normal(shape)
        return asarray(scale * (x + np.copysign(0.05, x)))

    def ids(self, high: int, *shape: int) -> Array:
        """Integers in [0, high); with enough of them some occur twice."""
        return asarray(self._rng.integers(0, high, shape))

    def targets(self, high: int, *shape: int, ignored: int) -> Array:
        """Integers in [0, high), the first in memory order and some others replaced by `ignored`."""
        ids = self._rng.integers(0, high, shape)
        hidden = self._rng.random(shape) < 0.3
        if ids.size > 1:
            hidden.flat[0], hidden.flat[1] = True, False
            ids[hidden] = ignored
        return asarray(ids)

    def mask(self, *shape: int) -> Array:
        """Booleans, True for two thirds; the first along the last axis always is."""
        seen = self._rng.random(shape) < 2 / 3
        seen[..., :1] = True
        return asarray(seen)

    def padding(self, batch: int, time: int) -> Array:
        """(B, 1, 1, T), False at the end of every sequence but the first."""
        lengths = np.maximum(1, time - np.arange(batch) % time)
        return asarray((np.arange(time) < lengths[:, None])[:, None, None, :])


Inputs = tuple[Any, ...]


@dataclass(frozen=True)
class Case:
    """One row.

    Attributes
    ----------
    of : name of the class
    build : makes the layer from a :class:`Library`
    inputs : makes forward's positional inputs for a batch B and a length T
    options : what is not the default here, in words
    forward : further arguments of forward, by name
    torch : makes the torch twin; None where there is none
    loss : whether it is a loss, whose second input has no gradient
    batched : whether examples of a batch are independent of each other
    axes : names of axes
    """

    of: str
    build: Callable[[Library], Layer]
    inputs: Callable[[Draw, int, int], Inputs]
    options: str = ""
    forward: Mapping[str, Any] = field(default_factory=dict)
    torch: Callable[[], Any] | None = None
    loss: bool = False
    batched: bool = True
    axes: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """``LayerNorm (eps=1e-3)``."""
        return f"{self.of} ({self.options})" if self.options else self.of

    def make(
        self, batch: int = 3, time: int = 4, device: str = "cpu", seed: int = 0, mine: Any = None
    ) -> tuple[Layer, Inputs]:
        """The layer and its inputs, on `device`."""
        with use(device):
            return self.build(Library(mine, seed)), self.inputs(Draw(seed), batch, time)

    def check(
        self,
        batch: int = 3,
        time: int = 4,
        *,
        torch: bool = False,
        device: str = "cpu",
        mine: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> Report:
        """Check this row.

        Parameters
        ----------
        batch, time : lengths of the first two axes
        torch : whether to add the torch column, where the row has a twin
        mine : classes that stand in for the library's own, by name
        settings : as in :func:`tinygrad_edu.check.layer`
        """
        layer, inputs = self.make(batch, time, device, settings.get("seed", 0), mine)
        settings = {"axes": self.axes, "torch": self.torch() if torch and self.torch else None, **settings}
        if self.loss:
            report = check_loss(layer, inputs[0], inputs[1], **settings, **self.forward)
        else:
            report = check_layer(layer, *inputs, batched=self.batched, **settings, **self.forward)
        report.name = self.name
        return report


CLASSES, DIM, HEADS = 5, 6, 2  # unequal to the usual batch 3 and time 4, so that no two axes can be confused


def _x(r: Draw, B: int, T: int) -> Inputs:
    return (r.normal(B, T, DIM),)


def _wide(r: Draw, B: int, T: int) -> Inputs:
    return (r.normal(B, T, 8),)


def _heads(r: Draw, B: int, T: int) -> Inputs:
    return (r.normal(B, HEADS, T, DIM),)


def _ids(r: Draw, B: int, T: int) -> Inputs:
    return (r.ids(CLASSES, B, T),)


def _logits(r: Draw, B: int, T: int) -> Inputs:
    return r.normal(B, T, CLASSES, scale=2), r.ids(CLASSES, B, T)


def _logits_ignoring(ignored: int) -> Callable[[Draw, int, int], Inputs]:
    return lambda r, B, T: (r.normal(B, T, CLASSES, scale=2), r.targets(CLASSES, B, T, ignored=ignored))


def _pair(r: Draw, B: int, T: int) -> Inputs:
    return r.normal(B, T, DIM), r.normal(B, T, DIM)


def _torch_sequential() -> Any:
    import torch

    return torch.nn.Sequential(torch.nn.Linear(DIM, 7), torch.nn.GELU(), torch.nn.Linear(7, 2))


def _shared(L: Library) -> Layer:
    """One layer in three places: its gradients add up, and its stack must give each pass its own input."""
    linear, act = L.Linear(DIM, DIM, generator=L.generator), L.Tanh()
    return L.Sequential(linear, act, linear, act, linear)


_TABLE_AXES = {"weight": ("id", "channel")}
_POSITION_AXES = {"weight": ("time", "channel")}
_LOGIT_AXES = {"logits": ("batch", "time", "class"), "y": ("batch", "time")}
_WEIGHTS = [0.5, 1.0, 2.0, 0.25, 1.5]

_ACTIVATIONS = [
    Case("ReLU", lambda L: L.ReLU(), _x, torch=twins.module("ReLU")),
    Case("GELU", lambda L: L.GELU(), _x, torch=twins.module("GELU")),
    Case("GELU", lambda L: L.GELU("tanh"), _x, "approximate='tanh'", torch=twins.module("GELU", "tanh")),
    Case("SiLU", lambda L: L.SiLU(), _x, torch=twins.module("SiLU")),
    Case("Tanh", lambda L: L.Tanh(), _x, torch=twins.module("Tanh")),
    Case("Sigmoid", lambda L: L.Sigmoid(), _x, torch=twins.module("Sigmoid")),
    Case("Softmax", lambda L: L.Softmax(), _x, torch=twins.module("Softmax", -1)),
    Case("Softmax", lambda L: L.Softmax(dim=1), _x, "dim=1", torch=twins.module("Softmax", 1)),
]

_SIMPLE = [
    Case("Linear", lambda L: L.Linear(DIM, 7, generator=L.generator), _x, torch=twins.module("Linear", DIM, 7)),
    Case("Linear", lambda L: L.Linear(DIM, 7, bias=False, generator=L.generator), _x, "bias=False",
         torch=twins.module("Linear", DIM, 7, bias=False)),
    Case("Linear", lambda L: L.Linear(DIM, DIM, generator=L.generator), _x, "square",
         torch=twins.module("Linear", DIM, DIM)),
    Case("Linear", lambda L: L.Linear(DIM, 7, generator=L.generator), lambda r, B, T: (r.normal(B, DIM),), "2-D input",
         torch=twins.module("Linear", DIM, 7)),
    Case("Linear", lambda L: L.Linear(DIM, 1, generator=L.generator), _x, "one output",
         torch=twins.module("Linear", DIM, 1)),
    Case("LayerNorm", lambda L: L.LayerNorm(DIM), _x, torch=twins.module("LayerNorm", DIM)),
    Case("LayerNorm", lambda L: L.LayerNorm(DIM, eps=0.5), _x, "eps=0.5",
         torch=twins.module("LayerNorm", DIM, eps=0.5)),
    # With one channel the variance is 0 and 1/sqrt(eps) would be so large that only rounding is compared.
    Case("LayerNorm", lambda L: L.LayerNorm(1, eps=0.5), lambda r, B, T: (r.normal(B, T, 1),), "one channel, eps=0.5",
         torch=twins.module("LayerNorm", 1, eps=0.5)),
    Case("RMSNorm", lambda L: L.RMSNorm(DIM), _x, torch=twins.module("RMSNorm", DIM, eps=1e-6)),
    Case("RMSNorm", lambda L: L.RMSNorm(DIM, eps=0.5), _x, "eps=0.5", torch=twins.module("RMSNorm", DIM, eps=0.5)),
    Case("Dropout", lambda L: L.Dropout(0.4, L.generator), _x, "p=0.4"),
    Case("Dropout", lambda L: L.Dropout(0.0, L.generator), _x, "p=0", torch=twins.module("Identity")),
    Case("Dropout", lambda L: L.Dropout(1, L.generator), _x, "p=1", torch=twins.module("Dropout", 1.0)),
    Case("Embedding", lambda L: L.Embedding(CLASSES, DIM, L.generator), _ids, axes=_TABLE_AXES,
         torch=twins.module("Embedding", CLASSES, DIM)),
    Case("Embedding", lambda L: L.Embedding(1, DIM, L.generator), lambda r, B, T: (r.ids(1, B, T),), "one id",
         axes=_TABLE_AXES, torch=twins.module("Embedding", 1, DIM)),
    Case("LearnedPositions", lambda L: L.LearnedPositions(9, DIM, L.generator), _x, axes=_POSITION_AXES,
         torch=twins.learned_positions(9, DIM)),
    Case("LearnedPositions", lambda L: L.LearnedPositions(9, DIM, L.generator), _x, "start=3", {"start": 3},
         axes=_POSITION_AXES, torch=twins.learned_positions(9, DIM)),
    Case("SinusoidalPositions", lambda L: L.SinusoidalPositions(9, DIM), _x, torch=twins.sinusoidal),
    Case("SinusoidalPositions", lambda L: L.SinusoidalPositions(9, 7), lambda r, B, T: (r.normal(B, T, 7),),
         "odd width, start=2", {"start": 2}, torch=twins.sinusoidal),
    Case("RotaryPositions", lambda L: L.RotaryPositions(9, DIM), _heads, torch=twins.rotary),
    Case("RotaryPositions", lambda L: L.RotaryPositions(9, DIM, base=100.0), _heads, "base=100",
         torch=lambda: lambda x: twins.rotate(x, 100.0)),
    Case("RotaryPositions", lambda L: L.RotaryPositions(9, DIM), _heads, "start=4", {"start": 4}),
]  # fmt: skip

_ATTENTION = [
    Case("MultiHeadAttention", lambda L: L.MultiHeadAttention(8, HEADS, generator=L.generator), _wide,
         torch=twins.attention(8, HEADS)),
    Case("MultiHeadAttention", lambda L: L.MultiHeadAttention(8, HEADS, generator=L.generator), _wide, "causal",
         {"causal": True}, torch=twins.attention(8, HEADS)),
    Case("MultiHeadAttention", lambda L: L.MultiHeadAttention(8, HEADS, bias=False, generator=L.generator), _wide,
         "bias=False", torch=twins.attention(8, HEADS, bias=False)),
    Case("MultiHeadAttention", lambda L: L.MultiHeadAttention(8, 1, generator=L.generator), _wide, "one head",
         torch=twins.attention(8, 1)),
    Case("MultiHeadAttention", lambda L: L.MultiHeadAttention(8, HEADS, generator=L.generator),
         lambda r, B, T: (r.normal(B, T, 8), None, r.mask(B, HEADS, T, T)), "mask",
         torch=twins.attention(8, HEADS)),
    Case("MultiHeadAttention", lambda L: L.MultiHeadAttention(8, HEADS, generator=L.generator),
         lambda r, B, T: (r.normal(B, T, 8), None, r.padding(B, T)), "padding mask and causal", {"causal": True},
         torch=twins.attention(8, HEADS)),
    Case("MultiHeadAttention", lambda L: L.MultiHeadAttention(8, HEADS, generator=L.generator),
         lambda r, B, T: (r.normal(B, T, 8), None, r.mask(B, 1, T, T) & (asarray(np.arange(T)) > 0)[:, None]),
         "first row sees nothing"),
    Case("MultiHeadAttention", lambda L: L.MultiHeadAttention(8, HEADS, generator=L.generator),
         lambda r, B, T: (r.normal(B, T, 8), r.normal(B, T + 2, 8)), "cross-attention",
         torch=twins.attention(8, HEADS)),
    Case("MultiHeadAttention", lambda L: L.MultiHeadAttention(8, HEADS, generator=L.generator),
         lambda r, B, T: (r.normal(B, T, 8), r.normal(B, T + 2, 8), r.mask(B, 1, T, T + 2)), "cross-attention, mask",
         torch=twins.attention(8, HEADS)),
    Case("MultiHeadAttention", lambda L: L.MultiHeadAttention(8, HEADS, 0.3, generator=L.generator), _wide, "dropout"),
    Case("MultiHeadAttention",
         lambda L: L.MultiHeadAttention(8, HEADS, rotary=L.RotaryPositions(9, 4), generator=L.generator), _wide,
         "rotary, causal", {"causal": True}, torch=twins.rotary_attention(8, HEADS)),
]  # fmt: skip

_BLOCKS = [
    Case("FeedForward", lambda L: L.FeedForward(DIM, 10, generator=L.generator), _x,
         torch=twins.feed_forward(DIM, 10, "gelu")),
    *(Case("FeedForward", lambda L, name=name: L.FeedForward(DIM, 10, activation=name, generator=L.generator), _x,  # type: ignore[misc]
           f"activation={name!r}", torch=twins.feed_forward(DIM, 10, name))
      for name in ("relu", "gelu_tanh", "silu", "tanh", "sigmoid")),
    Case("FeedForward", lambda L: L.FeedForward(DIM, 10, bias=False, generator=L.generator), _x, "bias=False",
         torch=twins.feed_forward(DIM, 10, "gelu", bias=False)),
    Case("FeedForward", lambda L: L.FeedForward(DIM, 10, dropout=0.3, generator=L.generator), _x, "dropout"),
    Case("TransformerBlock", lambda L: L.TransformerBlock(8, HEADS, 12, generator=L.generator), _wide,
         torch=twins.block(8, HEADS, 12, pre=True)),
    Case("TransformerBlock", lambda L: L.TransformerBlock(8, HEADS, 12, norm_placement="post", generator=L.generator),
         _wide, "post-norm", torch=twins.block(8, HEADS, 12, pre=False)),
    Case("TransformerBlock", lambda L: L.TransformerBlock(8, HEADS, 12, generator=L.generator), _wide, "causal",
         {"causal": True}, torch=twins.block(8, HEADS, 12, pre=True)),
    Case("TransformerBlock", lambda L: L.TransformerBlock(8, HEADS, 12, generator=L.generator),
         lambda r, B, T: (r.normal(B, T, 8), r.padding(B, T)), "padding mask",
         torch=twins.block(8, HEADS, 12, pre=True)),
    Case("TransformerBlock",
         lambda L: L.TransformerBlock(8, HEADS, 12, activation="relu", eps=0.1, generator=L.generator), _wide,
         "relu, eps=0.1"),
    Case("TransformerBlock", lambda L: L.TransformerBlock(8, HEADS, 12, 0.3, generator=L.generator), _wide, "dropout"),
    Case("TransformerBlock",
         lambda L: L.TransformerBlock(8, HEADS, 12, 0.3, norm_placement="post", generator=L.generator),
         _wide, "post-norm, dropout"),
    Case("TransformerBlock",
         lambda L: L.TransformerBlock(8, HEADS, 12, bias=False, rotary=L.RotaryPositions(9, 4), generator=L.generator),
         _wide, "bias=False, rotary, causal", {"causal": True}),
    Case("Sequential",
         lambda L: L.Sequential(
             L.Linear(DIM, 7, generator=L.generator), L.GELU(), L.Linear(7, 2, generator=L.generator)),
         _x, torch=_torch_sequential),
    Case("Sequential", lambda L: L.Sequential(L.Embedding(CLASSES, DIM, L.generator), L.LayerNorm(DIM)), _ids,
         "ids in", axes={"0.weight": ("id", "channel")}),
    Case("Sequential", _shared, _x, "one layer three times"),
    Case("Residual", lambda L: L.Residual(L.Linear(DIM, DIM, generator=L.generator)), _x,
         torch=lambda: (twins.children(layer=("Linear", DIM, DIM)), lambda m, x: x + m["layer"](x))),
    Case("Residual", lambda L: L.Residual(L.Sequential(L.LayerNorm(DIM), L.Dropout(0.3, L.generator))), _x,
         "norm, dropout"),
]  # fmt: skip

_LOSSES = [
    Case("CrossEntropyLoss", lambda L: L.CrossEntropyLoss(), _logits, torch=twins.cross_entropy()),
    Case("CrossEntropyLoss", lambda L: L.CrossEntropyLoss(), lambda r, B, T: (r.normal(B, CLASSES), r.ids(CLASSES, B)),
         "2-D logits", torch=twins.cross_entropy()),
    Case("CrossEntropyLoss", lambda L: L.CrossEntropyLoss(), _logits_ignoring(-100), "ignored targets",
         torch=twins.cross_entropy()),
    Case("CrossEntropyLoss", lambda L: L.CrossEntropyLoss(ignore_index=2), _logits_ignoring(2), "ignore_index=2",
         torch=twins.cross_entropy(ignore_index=2)),
    *(Case("CrossEntropyLoss", lambda L, how=how: L.CrossEntropyLoss(reduction=how), _logits_ignoring(-100),  # type: ignore[misc]
           f"reduction={how!r}", torch=twins.cross_entropy(reduction=how)) for how in ("sum", "none")),
    *(Case("CrossEntropyLoss", lambda L, how=how: L.CrossEntropyLoss(label_smoothing=0.2, reduction=how),  # type: ignore[misc]
           _logits_ignoring(-100), f"label_smoothing=0.2, {how}",
           torch=twins.cross_entropy(label_smoothing=0.2, reduction=how)) for how in ("mean", "none")),
    Case("CrossEntropyLoss", lambda L: L.CrossEntropyLoss(label_smoothing=1.0), _logits, "label_smoothing=1",
         torch=twins.cross_entropy(label_smoothing=1.0)),
    *(Case("CrossEntropyLoss", lambda L, how=how: L.CrossEntropyLoss(weight=asarray(_WEIGHTS), reduction=how),  # type: ignore[misc]
           _logits_ignoring(-100), f"weight, {how}", torch=twins.cross_entropy(weight=_WEIGHTS, reduction=how))
      for how in ("mean", "sum", "none")),
    *(Case("CrossEntropyLoss", lambda L, how=how: L.CrossEntropyLoss(  # type: ignore[misc]
               weight=asarray(_WEIGHTS), label_smoothing=0.3, ignore_index=1, reduction=how),
           _logits_ignoring(1), f"weight, label_smoothing, ignore_index=1, {how}",
           torch=twins.cross_entropy(weight=_WEIGHTS, label_smoothing=0.3, ignore_index=1, reduction=how))
      for how in ("mean", "none")),
    *(Case("MeanSquaredError", lambda L, how=how: L.MeanSquaredError(how), _pair, f"reduction={how!r}",  # type: ignore[misc]
           torch=twins.squared_error(how)) for how in ("mean", "sum", "none")),
    *(Case("MeanSquaredError", lambda L, how=how: L.MeanSquaredError(how, asarray([0.5, 1, 2, 0.25, 1.5, 3.0])), _pair,  # type: ignore[misc]
           f"weight, {how}", torch=twins.squared_error(how, [0.5, 1, 2, 0.25, 1.5, 3.0]))
      for how in ("mean", "sum", "none")),
]  # fmt: skip


def _with_loss(case: Case) -> Case:
    from dataclasses import replace

    return replace(case, loss=True, batched=False, axes=_LOGIT_AXES if case.of == "CrossEntropyLoss" else {})


CASES: list[Case] = [*_ACTIVATIONS, *_SIMPLE, *_ATTENTION, *_BLOCKS, *map(_with_loss, _LOSSES)]
