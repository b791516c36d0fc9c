"""The table of all ops: forward, backward, inputs, and the same function written with torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..backend import asarray
from . import recurrent_cases, twins
from .case import CLASSES, DIM, HEADS, Draw, Inputs, Library
from .cases import _WEIGHTS
from .channel_norm_cases import CHANNEL_NORM_OPS
from .image_op_cases import IMAGE_OPS
from .map_loss_cases import map_loss_ops
from .op_case import Function, OpCase

__all__ = ["OP_CASES", "OpCase"]


def _x(r: Draw, B: int, T: int) -> Inputs:
    return (r.normal(B, T, DIM),)


def _activation(name: str, torch: Callable[[], Any], linear: tuple[str, ...] = ()) -> OpCase:
    return OpCase(name, f"{name}_backward", _x, torch=torch, linear=linear)


def _linear(r: Draw, B: int, T: int) -> Inputs:
    return r.normal(B, T, DIM), r.normal(7, DIM), r.normal(7)


def _qkv(r: Draw, B: int, T: int, S: int | None = None) -> Inputs:
    S = T if S is None else S
    return r.normal(B, HEADS, T, 3), r.normal(B, HEADS, S, 3), r.normal(B, HEADS, S, 3)


def _attention_torch(scale: float) -> Callable[[], Any]:
    def build() -> Any:
        from torch.nn.functional import scaled_dot_product_attention

        def call(q: Any, k: Any, v: Any, mask: Any, causal: bool, *_: Any) -> Any:
            seen = twins.look(mask, causal, q.shape[2], k.shape[2])
            return scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale)

        return call

    return build


def _rotation(r: Draw, T: int) -> tuple[Any, Any]:
    angles = r.normal(T, DIM // 2)
    return asarray(_numpy("cos", angles)), asarray(_numpy("sin", angles))


def _numpy(name: str, x: Any) -> Any:
    import numpy as np

    from ..backend import to_host

    return getattr(np, name)(to_host(x))


def _rows(r: Draw, B: int, T: int) -> tuple[Any, Any]:
    return r.normal(B * T, CLASSES, scale=2), r.targets(CLASSES, B * T, ignored=-100)


def _cross_entropy_torch(logits: Any, targets: Any, weight: Any, ignore_index: int, smoothing: float) -> Any:
    from torch.nn.functional import cross_entropy

    return cross_entropy(
        logits, targets, weight, ignore_index=ignore_index, label_smoothing=smoothing, reduction="none"
    )


def _head(r: Draw, B: int, T: int) -> Inputs:
    return (
        r.normal(B * T, DIM),
        r.normal(CLASSES, DIM),
        r.normal(CLASSES),
        r.targets(CLASSES, B * T, ignored=-100),
        -100,
        0.1,
    )


def _head_torch(x: Any, weight: Any, bias: Any, targets: Any, ignore_index: int, smoothing: float) -> Any:
    logits = x @ weight.T if bias is None else x @ weight.T + bias
    return _cross_entropy_torch(logits, targets, None, ignore_index, smoothing)


def _head_backward(L: Library) -> Function:
    """Losses and gradients come from one op; it adds into arrays that start at zero here."""

    def backward(
        dy: Any, x: Any, weight: Any, bias: Any, targets: Any, ignore_index: int, label_smoothing: float
    ) -> Any:
        dweight, dbias = weight * 0, None if bias is None else bias * 0
        _, dx = L.linear_cross_entropy_grad(x, weight, bias, targets, dy, dweight, dbias, ignore_index, label_smoothing)
        return dx, dweight, dbias

    return backward


def _head_losses(L: Library) -> Function:
    """The losses alone; the predicted classes have no gradient."""

    def losses(x: Any, weight: Any, bias: Any, targets: Any, ignore_index: int, label_smoothing: float) -> Any:
        return L.linear_cross_entropy(x, weight, bias, targets, ignore_index, label_smoothing)[0]

    return losses


def _head_losses_of_grad(L: Library) -> Function:
    """The losses that the gradient's op gives along with it."""

    def losses(x: Any, weight: Any, bias: Any, targets: Any, ignore_index: int, label_smoothing: float) -> Any:
        count = x[:, 0] * 0 + 1
        dweight, dbias = weight * 0, None if bias is None else bias * 0
        return L.linear_cross_entropy_grad(
            x, weight, bias, targets, count, dweight, dbias, ignore_index, label_smoothing
        )[0]

    return losses


def _head_case(
    options: str, inputs: Callable[[Draw, int, int], Inputs], forward: Callable[[Library], Function]
) -> OpCase:
    return OpCase("linear_cross_entropy", _head_backward, inputs, options, forward, lambda: _head_torch,
                  covers=("linear_cross_entropy_grad",))  # fmt: skip


def _without_bias(r: Draw, B: int, T: int) -> Inputs:
    x, weight, _, targets, ignore_index, smoothing = _head(r, B, T)
    return x, weight, None, targets, ignore_index, smoothing


def _embedding_backward(L: Library) -> Function:
    return lambda dy, weight, ids: L.embedding_backward(dy, ids, weight * 0)


def _linear_backward(L: Library) -> Function:
    return lambda dy, x, weight, bias: L.linear_backward(dy, x, weight, bias is not None)


def _gemm_backward(L: Library) -> Function:
    return lambda dy, a, b: (L.gemm(dy, b.T), L.gemm(a.T, dy))


def _gelu_slope(L: Library) -> Function:
    """erf has no backward of its own: its derivative is the bell curve, which is in gelu's."""
    import math

    from ..backend import namespace

    return lambda dy, x: dy * (2 / math.sqrt(math.pi)) * namespace(x).exp(-x * x)


def _recurrent(name: str, options: str = "", **settings: Any) -> OpCase:
    nonlinearity = settings.get("nonlinearity", "")
    return OpCase(
        name,
        getattr(recurrent_cases, f"{name}_backward"),
        recurrent_cases.op_inputs(name, **settings),
        ", ".join(filter(None, [nonlinearity, options])),
        getattr(recurrent_cases, f"{name}_forward"),
        twins.recurrence(name, nonlinearity),
        covers=(f"{name}_backward",),
    )


_RECURRENCES = (("rnn", "tanh"), ("lstm", ""), ("gru", ""))
_SCALE = 0.7
_MASKED: dict[str, Any] = {"torch": _attention_torch(_SCALE)}
_BLOCKED: dict[str, Callable[[Draw, int, int], Inputs]] = {
    "causal": lambda r, B, T: (*_qkv(r, B, T), None, True, _SCALE, 0.0, 0),
    "mask, longer keys": lambda r, B, T: (*_qkv(r, B, T, T + 2), r.mask(B, 1, T, T + 2), False, _SCALE, 0.0, 0),
    "padding, causal, longer keys": lambda r, B, T: (
        *_qkv(r, B, T, T + 2), r.padding(B, T + 2), True, _SCALE, 0.0, 0,
    ),
    "dropout": lambda r, B, T: (*_qkv(r, B, T, T + 1), r.mask(B, 1, T, T + 1), True, _SCALE, 0.3, 11),
}  # fmt: skip

OP_CASES: list[OpCase] = [
    _activation("relu", twins.function("relu")),
    _activation("gelu", twins.function("gelu")),
    _activation("gelu_tanh", twins.function("gelu", approximate="tanh")),
    _activation("sigmoid", twins.function("sigmoid")),
    _activation("silu", twins.function("silu")),
    _activation("tanh", twins.function("tanh")),
    OpCase("softmax", "softmax_backward", lambda r, B, T: (r.normal(B, T, DIM), -1), torch=twins.function("softmax")),
    OpCase("softmax", "softmax_backward", lambda r, B, T: (r.normal(B, T, DIM), 0), "axis=0",
           torch=twins.function("softmax")),
    OpCase("erf", _gelu_slope, _x, torch=lambda: lambda x: x.erf()),
    OpCase("gemm", _gemm_backward, lambda r, B, T: (r.normal(B, T), r.normal(T, DIM)), torch=lambda: lambda a, b: a @ b,
           linear=("a", "b")),
    OpCase("linear", _linear_backward, _linear, torch=twins.function("linear"), linear=("x", "weight", "bias"),
           covers=("linear_backward",)),
    OpCase("linear", _linear_backward, lambda r, B, T: (*_linear(r, B, T)[:2], None), "no bias",
           torch=twins.function("linear"), linear=("x", "weight"), covers=("linear_backward",)),
    OpCase("embedding", _embedding_backward, lambda r, B, T: (r.normal(CLASSES, DIM), r.ids(CLASSES, B, T)),
           torch=lambda: lambda weight, ids: weight[ids], linear=("weight",), covers=("embedding_backward",)),
    OpCase("layernorm", "layernorm_backward",
           lambda r, B, T: (r.normal(B, T, DIM), r.normal(DIM), r.normal(DIM), 1e-5),
           torch=lambda: lambda x, w, b, eps: _functional().layer_norm(x, w.shape, w, b, eps),
           linear=("weight", "bias")),
    OpCase("rmsnorm", "rmsnorm_backward", lambda r, B, T: (r.normal(B, T, DIM), r.normal(DIM), 1e-6),
           torch=lambda: lambda x, w, eps: _functional().rms_norm(x, w.shape, w, eps), linear=("weight",)),
    OpCase("rotary", lambda L: lambda dy, x, cos, sin: L.rotary(dy, cos, -sin),
           lambda r, B, T: (r.normal(B, HEADS, T, DIM), *_rotation(r, T)), wrt=("x",), linear=("x",),
           torch=lambda: _turn),
    OpCase("dropout", lambda L: lambda dy, x, p, seed: L.dropout(dy, p, seed),
           lambda r, B, T: (r.normal(B, T, DIM), 0.4, 7), linear=("x",)),
    OpCase("attention", "attention_backward", lambda r, B, T: (*_qkv(r, B, T), None, False, _SCALE),
           linear=("v",), **_MASKED),
    OpCase("attention", "attention_backward", lambda r, B, T: (*_qkv(r, B, T), None, True, _SCALE), "causal",
           linear=("v",), **_MASKED),
    OpCase("attention", "attention_backward",
           lambda r, B, T: (*_qkv(r, B, T, T + 2), r.mask(B, 1, T, T + 2), False, _SCALE), "mask, longer keys",
           linear=("v",), **_MASKED),
    OpCase("attention", "attention_backward",
           lambda r, B, T: (*_qkv(r, B, T, T + 2), r.padding(B, T + 2), True, _SCALE), "mask, causal, longer keys",
           linear=("v",), **_MASKED),
    OpCase("attention", "attention_backward",
           lambda r, B, T: (*_qkv(r, B, T, T + 1), r.mask(B, 1, T, T + 1), True, _SCALE, 0.3, 11), "dropout",
           linear=("v",)),
    OpCase("attention", "attention_backward",
           lambda r, B, T: (*_qkv(r, B, T), r.padding(B, T) & False, False, _SCALE), "nothing to see", linear=("v",)),
    *(OpCase("blocked_attention", "blocked_attention_backward",
             lambda r, B, T, how=how, block=block: (*how(r, B, T), block), f"{options}, blocks of {block}",  # type: ignore[misc]
             linear=("v",), torch=_attention_torch(_SCALE) if "dropout" not in options else None)
      for options, how in _BLOCKED.items() for block in (1, 3)),
    OpCase("blocked_attention", "blocked_attention_backward",
           lambda r, B, T: (*_qkv(r, B, T), r.padding(B, T) & False, False, _SCALE, 0.0, 0, 2), "nothing to see",
           linear=("v",)),
    *(_recurrent(name, nonlinearity=how) for name, how in (*_RECURRENCES, ("rnn", "relu"))),
    *(_recurrent(name, "lengths", lengths=True, nonlinearity=how) for name, how in _RECURRENCES),
    *(_recurrent(name, "reverse, lengths", lengths=True, reverse=True, nonlinearity=how)
      for name, how in _RECURRENCES),
    *(_recurrent(name, "reverse, no bias", reverse=True, bias=False, nonlinearity=how) for name, how in _RECURRENCES),
    OpCase("cross_entropy", "cross_entropy_backward", lambda r, B, T: (*_rows(r, B, T), None, -100, 0.0),
           wrt=("logits",), torch=lambda: _cross_entropy_torch),
    OpCase("cross_entropy", "cross_entropy_backward",
           lambda r, B, T: (*_rows(r, B, T), asarray(_WEIGHTS), -100, 0.2), "weight, smoothing", wrt=("logits",),
           torch=lambda: _cross_entropy_torch),
    _head_case("smoothing", _head, _head_losses),
    _head_case("no bias", _without_bias, _head_losses),
    _head_case("losses that come with the gradient", _head, _head_losses_of_grad),
    OpCase("squared_error", "squared_error_backward", lambda r, B, T: (r.normal(B, T, DIM), r.normal(B, T, DIM)),
           wrt=("prediction",), torch=lambda: lambda p, t: (p - t) ** 2),
    *map_loss_ops(OpCase),
    *IMAGE_OPS,
    *CHANNEL_NORM_OPS,
]  # fmt: skip


def _functional() -> Any:
    import torch

    return torch.nn.functional


def _turn(x: Any, cos: Any, sin: Any) -> Any:
    import torch

    half = x.shape[-1] // 2
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.complex(cos, sin)
    return torch.cat([turned.real, turned.imag], dim=-1)
