"""Torch twins for the table of cases. Each function imports torch when it is called, and not before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Twin = Any  # what `check.layer(..., torch=)` takes


def module(name: str, *args: Any, **kwargs: Any) -> Callable[[], Twin]:
    """``torch.nn.<name>(...)``, called with the same inputs."""

    def build() -> Twin:
        import torch

        return getattr(torch.nn, name)(*args, **kwargs)

    return build


def function(name: str, **kwargs: Any) -> Callable[[], Twin]:
    """``torch.nn.functional.<name>`` of the same inputs."""

    def build() -> Twin:
        import torch

        return lambda *inputs: getattr(torch.nn.functional, name)(*inputs, **kwargs)

    return build


def children(**layers: tuple[Any, ...]) -> Any:
    """A ``torch.nn.ModuleDict`` of layers, each given as (name, arguments ...)."""
    import torch

    return torch.nn.ModuleDict({key: getattr(torch.nn, name)(*args) for key, (name, *args) in layers.items()})


def look(mask: Any, causal: bool, length: int, keys: int) -> Any:
    """Where a query may look, as one boolean tensor broadcastable to (B, H, T, S); None if everywhere."""
    import torch

    if not causal:
        return mask
    lower = torch.ones(length, keys, dtype=torch.bool).tril(keys - length)
    return lower if mask is None else lower & mask


def hidden(mask: Any, causal: bool, batch: int, heads: int, length: int, keys: int) -> Any:
    """The mask of torch's modules: True where a query may *not* look, one for each head of each sequence."""
    seen = look(mask, causal, length, keys)
    return None if seen is None else ~seen.expand(batch, heads, length, keys).reshape(-1, length, keys)


def rotate(x: Any, base: float = 10000.0) -> Any:
    """Rotary positions of (..., T, hd) by complex numbers: the pair (a, b) is a + ib, times e^(i theta)."""
    import torch

    length, half = x.shape[-2], x.shape[-1] // 2
    angles = torch.arange(length, dtype=x.dtype)[:, None] * base ** (-torch.arange(half, dtype=x.dtype) / half)
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([turned.real, turned.imag], dim=-1)


def rotary() -> Twin:
    """Rotary positions."""
    return rotate


def sinusoidal() -> Twin:
    """x plus sines and cosines, as the paper writes them, element by element."""
    import math

    import torch

    def call(x: Any, start: int = 0) -> Any:
        length, dim = x.shape[1:]
        table = [
            [(math.cos if i % 2 else math.sin)(t / 10000 ** (2 * (i // 2) / dim)) for i in range(dim)]
            for t in range(start, start + length)
        ]
        return x + torch.tensor(table, dtype=x.dtype)

    return call


def learned_positions(max_len: int, dim: int) -> Callable[[], Twin]:
    """x plus the first rows of a table."""
    return lambda: (module("Embedding", max_len, dim)(), lambda m, x, start=0: x + m.weight[start : start + x.shape[1]])


def attention(dim: int, heads: int, bias: bool = True) -> Callable[[], Twin]:
    """torch.nn.MultiheadAttention."""

    def call(m: Any, query: Any, memory: Any = None, mask: Any = None, causal: bool = False) -> Any:
        memory = query if memory is None else memory
        (batch, length, _), keys = query.shape, memory.shape[1]
        wall = hidden(mask, causal, batch, heads, length, keys)
        return m(query, memory, memory, attn_mask=wall, need_weights=False)[0]

    return lambda: (module("MultiheadAttention", dim, heads, bias=bias, batch_first=True)(), call)


def rotary_attention(dim: int, heads: int) -> Callable[[], Twin]:
    """Multi-head attention on turned queries and keys; the parameters are those of torch.nn.MultiheadAttention."""

    def call(m: Any, x: Any, causal: bool = False) -> Any:
        from torch.nn import functional

        batch, length, _ = x.shape
        packed = functional.linear(x, m.in_proj_weight, m.in_proj_bias)
        q, k, v = packed.reshape(batch, length, 3, heads, dim // heads).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(rotate(q), rotate(k), v, is_causal=causal)
        return m.out_proj(y.transpose(1, 2).reshape(batch, length, dim))

    return lambda: (module("MultiheadAttention", dim, heads, batch_first=True)(), call)


def block(
    dim: int, heads: int, hidden_dim: int, pre: bool, bias: bool = True, activation: str = "gelu"
) -> Callable[[], Twin]:
    """torch.nn.TransformerEncoderLayer."""

    def call(m: Any, x: Any, mask: Any = None, causal: bool = False) -> Any:
        (batch, length, _) = x.shape
        return m(x, src_mask=hidden(mask, causal, batch, heads, length, length))

    def build() -> Twin:
        import torch

        layer = torch.nn.TransformerEncoderLayer(
            dim, heads, hidden_dim, 0.0, getattr(torch.nn.functional, activation),
            batch_first=True, norm_first=pre, bias=bias,
        )  # fmt: skip
        return layer, call

    return build


def stack(count: int, *args: Any, **kwargs: Any) -> Callable[[], Twin]:
    """Several of :func:`block`, one after the other."""

    def build() -> Twin:
        import torch

        made = [block(*args, **kwargs)() for _ in range(count)]

        def call(m: Any, x: Any, mask: Any = None, causal: bool = False) -> Any:
            for module, (_, run) in zip(m, made, strict=True):
                x = run(module, x, mask, causal)
            return x

        return torch.nn.ModuleList([module for module, _ in made]), call

    return build


def decoder_block(dim: int, heads: int, hidden_dim: int, pre: bool, activation: str = "gelu") -> Callable[[], Twin]:
    """torch.nn.TransformerDecoderLayer."""
    build = module("TransformerDecoderLayer", dim, heads, hidden_dim, 0.0, activation, batch_first=True, norm_first=pre)
    return lambda: (build(), _decode(heads))


def _decode(heads: int) -> Callable[..., Any]:
    """Calls torch's decoder, or one block of it, with this library's arguments."""

    def call(m: Any, x: Any, memory: Any, mask: Any = None, memory_mask: Any = None, causal: bool = True) -> Any:
        batch, length, keys = x.shape[0], x.shape[1], memory.shape[1]
        return m(
            x, memory,
            tgt_mask=hidden(mask, causal, batch, heads, length, length),
            memory_mask=hidden(memory_mask, False, batch, heads, length, keys),
        )  # fmt: skip

    return call


def _whole(*args: Any, **kwargs: Any) -> Any:
    """torch.nn.Transformer, batch first and without dropout."""
    import warnings

    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that norms before the branches rule out its nested tensors
        return torch.nn.Transformer(*args, dropout=0.0, batch_first=True, **kwargs)


def transformer(dim: int, heads: int, layers: tuple[int, int], hidden_dim: int, **kwargs: Any) -> Callable[[], Twin]:
    """torch.nn.Transformer."""

    def call(
        m: Any, src: Any, tgt: Any, src_mask: Any = None, tgt_mask: Any = None, memory_mask: Any = None,
        causal: bool = True,
    ) -> Any:  # fmt: skip
        (batch, keys, _), length = src.shape, tgt.shape[1]
        return m(
            src, tgt,
            src_mask=hidden(src_mask, False, batch, heads, keys, keys),
            tgt_mask=hidden(tgt_mask, causal, batch, heads, length, length),
            memory_mask=hidden(memory_mask, False, batch, heads, length, keys),
        )  # fmt: skip

    return lambda: (_whole(dim, heads, *layers, hidden_dim, **kwargs), call)


def encoder(dim: int, heads: int, layers: int, hidden_dim: int, **kwargs: Any) -> Callable[[], Twin]:
    """The encoder of torch.nn.Transformer."""

    def call(m: Any, src: Any, mask: Any = None, causal: bool = False) -> Any:
        batch, length, _ = src.shape
        return m(src, mask=hidden(mask, causal, batch, heads, length, length))

    return lambda: (_whole(dim, heads, layers, 1, hidden_dim, **kwargs).encoder, call)


def decoder(dim: int, heads: int, layers: int, hidden_dim: int, **kwargs: Any) -> Callable[[], Twin]:
    """The decoder of torch.nn.Transformer."""
    return lambda: (_whole(dim, heads, 1, layers, hidden_dim, **kwargs).decoder, _decode(heads))


def feed_forward(dim: int, hidden: int, activation: str, bias: bool = True) -> Callable[[], Twin]:
    """linear2(activation(linear1(x)))."""

    def call(m: Any, x: Any) -> Any:
        from torch.nn import functional

        named = {
            "gelu_tanh": lambda z: functional.gelu(z, approximate="tanh"),
            "tanh": functional.tanh,
            "sigmoid": functional.sigmoid,
        }
        act = named.get(activation) or getattr(functional, activation)
        return m["linear2"](act(m["linear1"](x)))

    return lambda: (children(linear1=("Linear", dim, hidden, bias), linear2=("Linear", hidden, dim, bias)), call)


def cross_entropy(**settings: Any) -> Callable[[], Twin]:
    """torch's cross-entropy wants classes on the second axis, so rows are laid flat."""

    def build() -> Twin:
        import torch

        given = dict(settings)
        if "weight" in given:
            given["weight"] = torch.tensor(given["weight"], dtype=torch.float64)

        def call(logits: Any, targets: Any) -> Any:
            loss = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1), **given)
            return loss.reshape(targets.shape) if given.get("reduction") == "none" else loss

        return call

    return build


def squared_error(reduction: str = "mean", weight: Any = None) -> Callable[[], Twin]:
    """torch.nn.functional.mse_loss, its weight spread to the whole shape."""

    def build() -> Twin:
        import torch

        def call(prediction: Any, target: Any) -> Any:
            full = None if weight is None else torch.tensor(weight, dtype=torch.float64).expand(prediction.shape)
            return torch.nn.functional.mse_loss(prediction, target, reduction=reduction, weight=full)

        return call

    return build


def recurrent(name: str, *args: Any, **kwargs: Any) -> Callable[[], Twin]:
    """torch.nn.RNN, LSTM or GRU, batch first; sequences of other lengths packed, and padded again."""

    def call(m: Any, x: Any, state: Any = None, lengths: Any = None) -> Any:
        from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

        if lengths is None:
            return m(x, state)
        first = m.batch_first
        y, state = m(pack_padded_sequence(x, lengths, first, enforce_sorted=False), state)
        return pad_packed_sequence(y, first, total_length=x.shape[1 if first else 0])[0], state

    return lambda: (module(name, *args, **{"batch_first": True, **kwargs})(), call)


def recurrence(name: str, nonlinearity: str = "") -> Callable[[], Twin]:
    """torch's functions for one layer of one direction, sequence by sequence: no padding, and turned round for reverse.

    Arguments are those of this library's op; outputs, final states and cells lie one after the other.
    """

    def build() -> Twin:
        import torch

        run = getattr(torch, {"rnn": f"rnn_{nonlinearity}"}.get(name, name))
        count = 2 if name == "lstm" else 1

        def call(x: Any, *rest: Any) -> Any:
            initial, weights = rest[:count], [w for w in rest[count : count + 4] if w is not None]
            lengths, reverse = rest[count + 4 : count + 6]
            sequences, ends = [], []
            for b in range(x.shape[1]):
                length = x.shape[0] if lengths is None else int(lengths[b])
                one = x[:length, b : b + 1]
                begin = [state[None, b : b + 1] for state in initial]
                given = begin if count == 2 else begin[0]
                how = (weights, len(weights) == 4, 1, 0.0, False, False, False)
                y, *end = run(one.flip(0) if reverse else one, given, *how)
                y = y.flip(0) if reverse else y
                sequences.append(torch.nn.functional.pad(y, (0, 0, 0, 0, 0, x.shape[0] - length)))
                ends.append(torch.cat(end))  # (1 or 2, 1, H)
            return torch.cat([torch.cat(sequences, dim=1), torch.cat(ends, dim=1)])

        return call

    return build
