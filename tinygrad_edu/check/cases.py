"""The table of all layers and losses, one row for each way of building one; ``tinygrad-edu check all`` runs it.

A new layer adds a row, and gets every check: gradients, torch, contract, devices, batch and time of one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ..backend import asarray
from ..layers.base import Layer
from . import twins
from .case import CLASSES, DIM, HEADS, Case, Draw, Inputs, Library
from .channel_norm_cases import CHANNEL_NORMS
from .encoder_decoder_cases import ENCODER_DECODER
from .image_cases import IMAGES
from .map_loss_cases import MAP_LOSSES
from .recurrent_cases import RECURRENT
from .vision_cases import VISION

__all__ = ["CASES", "DIM", "Case"]


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
    Case("TransformerStack",
         lambda L: L.TransformerStack(L.TransformerBlock(8, HEADS, 12, generator=L.generator) for _ in range(2)),
         _wide, "causal", {"causal": True}, torch=twins.stack(2, 8, HEADS, 12, pre=True)),
    Case("TransformerStack",
         lambda L: L.TransformerStack([L.TransformerBlock(8, HEADS, 12, 0.3, generator=L.generator)] * 2, True),
         lambda r, B, T: (r.normal(B, T, 8), r.padding(B, T)), "one block twice, checkpointing, dropout"),
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
    return replace(case, loss=True, batched=False, axes=_LOGIT_AXES if case.of == "CrossEntropyLoss" else {})


CASES: list[Case] = [
    *_ACTIVATIONS,
    *_SIMPLE,
    *_ATTENTION,
    *_BLOCKS,
    *ENCODER_DECODER,
    *RECURRENT,
    *map(_with_loss, _LOSSES),
    *MAP_LOSSES,
    *IMAGES,
    *CHANNEL_NORMS,
    *VISION,
]
