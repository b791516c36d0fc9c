"""The multi-head layer around attention."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from ..backend import Array, Generator, default_generator, is_inference, namespace, same_memory
from ..errors import BackwardError, ConfigError, DtypeError, ShapeError, format_shape
from .attention_ops import attention_weights
from .base import Layer, Parameter, check_positive, check_probability
from .blocked_attention import attention_ops
from .caches import KeyValueCache, MemoryCache
from .linear import Linear, linear, linear_backward
from .position import RotaryPositions


class MultiHeadAttention(Layer):
    """Attention with several heads, state_dict-compatible with torch.nn.MultiheadAttention (batch first).

    Parameters
    ----------
    embed_dim : width C, divisible by num_heads
    num_heads : H
    dropout : probability with which an attention weight is dropped while training
    bias : whether the four projections have one
    rotary : turns queries and keys by their position; its width must be that of a head
    generator : draws the initial weights, and the dropout seeds

    Attributes
    ----------
    keep_weights : whether each forward also computes its weights, before dropout, to be looked at
    last_weights : those of the latest forward, (B, H, T, S), or None; see :func:`keep_attention_weights`
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        rotary: RotaryPositions | None = None,
        generator: Generator | None = None,
    ):
        super().__init__()
        check_positive("MultiHeadAttention", embed_dim=embed_dim, num_heads=num_heads)
        check_probability("MultiHeadAttention", dropout=dropout)
        if embed_dim % num_heads:
            raise ConfigError(
                f"MultiHeadAttention: embed_dim must be divisible by num_heads, got {embed_dim} and {num_heads}"
            )
        head_dim = embed_dim // num_heads
        if rotary is not None and rotary.dim != head_dim:
            raise ConfigError(
                f"MultiHeadAttention: rotary must have the width of a head, {head_dim}, it has {rotary.dim}"
            )
        self.generator = generator or default_generator()
        self.embed_dim, self.num_heads, self.head_dim, self.dropout = embed_dim, num_heads, head_dim, dropout
        bound = math.sqrt(6 / (4 * embed_dim))  # Xavier over the packed (3C, C) matrix, as torch does
        self.in_proj_weight = Parameter(self.generator.uniform(3 * embed_dim, embed_dim, low=-bound, high=bound))
        self.in_proj_bias = Parameter(self.in_proj_weight.data[:, 0] * 0) if bias else None
        self.out_proj = Linear(embed_dim, embed_dim, bias, self.generator)
        if self.out_proj.bias is not None:
            self.out_proj.bias.data.fill(0)
        self.rotary = rotary
        self.keep_weights = False
        self.last_weights: Array | None = None

    def _check(self, query: Array, memory: Array, mask: Array | None, start: int) -> None:
        for name, x in (("query", query), ("key and value", memory)):
            if x.ndim != 3 or x.shape[-1] != self.embed_dim:
                raise ShapeError(
                    f"MultiHeadAttention: {name} must be (batch, time, {self.embed_dim}), "
                    f"got {format_shape(tuple(x.shape))}"
                )
            if x.size == 0:
                what = "batch" if x.shape[0] == 0 else "sequence"
                raise ShapeError(f"MultiHeadAttention: empty {what}, {name} is {format_shape(tuple(x.shape))}")
        if query.shape[0] != memory.shape[0]:
            raise ShapeError(
                f"MultiHeadAttention: query has batch {query.shape[0]}, key and value have batch {memory.shape[0]}"
            )
        namespace(query, memory, mask, self.in_proj_weight.data)
        if mask is not None:
            self._check_mask(mask, (len(query), self.num_heads, query.shape[1], start + memory.shape[1]))

    def _check_mask(self, mask: Array, shape: tuple[int, ...]) -> None:
        """Raise unless `mask` is boolean and can be spread to `shape`, (batch, heads, queries, keys)."""
        if mask.dtype != bool:
            raise DtypeError(f"MultiHeadAttention: mask must be bool, True where a query may look; got {mask.dtype}")
        fits = mask.ndim <= 4 and all(
            found in (1, wanted) for found, wanted in zip(mask.shape[::-1], shape[::-1], strict=False)
        )
        if not fits:
            raise ShapeError(
                "MultiHeadAttention: mask must be broadcastable to (batch, heads, queries, keys), "
                f"here {format_shape(shape)}, got {format_shape(tuple(mask.shape))}"
            )

    def _project(self, x: Array, rows: slice) -> Array:
        """Some of the packed projections of x, split into heads: (n, B, H, T, hd), a view of one product."""
        bias = None if self.in_proj_bias is None else self.in_proj_bias.data[rows]
        packed = linear(x, self.in_proj_weight.data[rows], bias)  # (B, T, n C)
        batch, time, _ = packed.shape
        return packed.reshape(batch, time, -1, self.num_heads, self.head_dim).transpose(2, 0, 3, 1, 4)

    def _keys_and_values(self, memory: Array) -> tuple[Array, Array]:
        k, v = self._project(memory, slice(self.embed_dim, None))
        return k, v

    def _project_backward(self, dheads: Array, x: Array, rows: slice) -> Array:
        """Gradient of :meth:`_project`; `dheads` is (B, T, n, H, hd), contiguous."""
        batch, time = x.shape[:2]
        bias = self.in_proj_bias
        dx, *_ = linear_backward(
            dheads.reshape(batch, time, -1),
            x,
            self.in_proj_weight.data[rows],
            bias is not None,
            self.in_proj_weight.grad[rows],
            None if bias is None else bias.grad[rows],
        )
        return dx

    def forward(
        self,
        query: Array,
        memory: Array | None = None,
        mask: Array | None = None,
        causal: bool = False,
        cache: KeyValueCache | MemoryCache | None = None,
    ) -> Array:
        """Attend from `query` to `memory`, or to itself.

        Parameters
        ----------
        query : (B, T, C)
        memory : (B, S, C), where keys and values come from; None for self-attention
        mask : bool, broadcastable to (B, H, T, S), True where a query may look
        causal : no query sees a later key
        cache : keys and values of earlier positions, extended by these, or those of the memory; inference only

        Returns
        -------
        (B, T, C)
        """
        if cache is not None and not is_inference():
            raise BackwardError("MultiHeadAttention: a key/value cache has no backward; use tg.inference()")
        if isinstance(cache, MemoryCache) and (memory is None or self.rotary is not None):
            what = "it keeps those of a memory" if memory is None else "it knows no position for rotary to turn by"
            raise ConfigError(f"MultiHeadAttention: a MemoryCache cannot serve here: {what}")
        start = cache.length if isinstance(cache, KeyValueCache) else 0
        self._check(query, query if memory is None else memory, mask, start)
        if memory is None:
            q, k, v = self._project(query, slice(None))  # (B, H, T, hd) each
        else:
            (q,) = self._project(query, slice(0, self.embed_dim))
            project = self._keys_and_values
            k, v = cache.get(memory, project) if isinstance(cache, MemoryCache) else project(memory)
        if self.rotary is not None:
            q, k = self.rotary(q, start), self.rotary(k, start)
        if isinstance(cache, KeyValueCache):
            k, v = cache.extend(k, v)
        scale = 1 / math.sqrt(self.head_dim)
        dropout = self.dropout if self.training else 0.0
        seed = self.generator.draw_seed() if dropout else 0
        attend, _ = attention_ops(q, k, v)
        y, lse = attend(q, k, v, mask, causal, scale, dropout, seed)
        if self.keep_weights:
            self.last_weights = attention_weights(q, k, mask, causal, scale)
        self.save(query, memory, q, k, v, mask, y, lse, causal, scale, dropout, seed)
        return self.out_proj(_merge_heads(y))

    def backward(self, dy: Array) -> Array | tuple[Array, Array]:
        """Gradient of the query; and of the memory, if one was given."""
        dy = self.out_proj.backward(dy)
        query, memory, q, k, v, mask, y, lse, causal, scale, dropout, seed = self.saved()
        batch, time, _ = dy.shape
        dy = dy.reshape(batch, time, self.num_heads, self.head_dim).transpose(0, 2, 1, 3)  # (B, H, T, hd)
        _, attend_backward = attention_ops(q, k, v)
        dq, dk, dv = attend_backward(dy, q, k, v, mask, y, lse, causal, scale, dropout, seed)
        if self.rotary is not None:  # its stack gives back the latest first: k, then q
            dk = self.rotary.backward(dk)
            dq = self.rotary.backward(dq)
        channels = self.embed_dim
        if memory is None:
            return self._project_backward(_stack_heads(dq, dk, dv), query, slice(None))
        dquery = self._project_backward(_stack_heads(dq), query, slice(0, channels))
        dmemory = self._project_backward(_stack_heads(dk, dv), memory, slice(channels, None))
        return dquery, dmemory

    def extra_repr(self) -> str:
        return f"{self.embed_dim}, {self.num_heads}, dropout={self.dropout}"


@contextmanager
def keep_attention_weights(layer: Layer) -> Iterator[dict[str, MultiHeadAttention]]:
    """Let all attention in `layer` keep the weights of its forward, which it otherwise never holds as a whole.

    Yields
    ------
    Attention layers by name, in order; ``last_weights`` of each is (B, H, T, S) once forward has run, and is gone at
    the end of the ``with``.

    Examples
    --------
    >>> with keep_attention_weights(model) as found:
    ...     model(input_ids)
    ...     weights = [attention.last_weights for attention in found.values()]
    """
    found = {name: child for name, child in layer.named_layers() if isinstance(child, MultiHeadAttention)}
    before = [attention.keep_weights for attention in found.values()]
    for attention in found.values():
        attention.keep_weights = True
    try:
        yield found
    finally:
        for attention, kept in zip(found.values(), before, strict=True):
            attention.keep_weights = kept
            attention.last_weights = None


def _merge_heads(y: Array) -> Array:
    """(B, H, T, hd) -> (B, T, C)."""
    batch, heads, time, dim = y.shape
    return y.transpose(0, 2, 1, 3).reshape(batch, time, heads * dim)


def _stack_heads(*parts: Array) -> Array:
    """n arrays (B, H, T, hd) -> (B, T, n, H, hd), the layout of the packed projection.

    Nothing is copied where a kernel laid them side by side in such an array already.
    """
    batch, heads, time, dim = parts[0].shape
    whole = parts[0].base
    if whole is not None and whole.shape == (batch, time, len(parts), heads, dim):
        sides = whole.transpose(2, 0, 3, 1, 4)
        if all(same_memory(part, side) for part, side in zip(parts, sides, strict=True)):
            return whole
    return namespace(*parts).stack([part.transpose(0, 2, 1, 3) for part in parts], axis=2)
