"""The encoder-decoder transformer: a decoder that also attends to what an encoder made of another sequence."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from ..backend import Array, Generator, default_generator
from ..errors import ConfigError, ShapeError, format_shape
from .attention import MultiHeadAttention
from .base import Layer, check_positive
from .caches import KeyValueCache, MemoryCache
from .checkpointing import checkpoint_backward, checkpoint_forward
from .containers import LayerList
from .dropout import Dropout
from .norm import LayerNorm
from .position import RotaryPositions
from .transformer import FeedForward, TransformerBlock, TransformerStack


@dataclass
class DecoderCache:
    """What one :class:`TransformerDecoderBlock` keeps from one generated position to the next.

    Attributes
    ----------
    max_len : positions there is room for
    own : keys and values of the positions generated so far
    memory : those of the encoder's output, projected once
    """

    max_len: int
    own: KeyValueCache = field(init=False)
    memory: MemoryCache = field(default_factory=MemoryCache, init=False)

    def __post_init__(self) -> None:
        self.own = KeyValueCache(self.max_len)

    @property
    def length(self) -> int:
        """Positions kept so far."""
        return self.own.length

    def reorder(self, rows: Any) -> None:
        """Let sequence i go on from sequence ``rows[i]``; see :meth:`KeyValueCache.reorder`."""
        self.own.reorder(rows)
        self.memory.reorder(rows)


class TransformerDecoderBlock(Layer):
    """Self-attention, attention to a memory, and feed-forward, each with a residual path and a norm.

    state_dict-compatible with torch.nn.TransformerDecoderLayer (batch first; its norm_first is
    ``norm_placement="pre"``). The decoder's block of Vaswani et al. (2017).

    Parameters
    ----------
    dim, num_heads, hidden_dim, dropout, activation, norm_placement, eps, bias, rotary, generator,
    attention_dropout, activation_dropout : as in :class:`TransformerBlock`; rotary turns in self-attention alone
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        hidden_dim: int,
        dropout: float = 0.0,
        activation: str = "gelu",
        norm_placement: str = "pre",
        eps: float = 1e-5,
        bias: bool = True,
        rotary: RotaryPositions | None = None,
        generator: Generator | None = None,
        attention_dropout: float | None = None,
        activation_dropout: float | None = None,
    ):
        super().__init__()
        if norm_placement not in ("pre", "post"):
            raise ConfigError(
                f"TransformerDecoderBlock: norm_placement must be 'pre' or 'post', got {norm_placement!r}"
            )
        generator = generator or default_generator()
        self.norm_placement = norm_placement
        attention_dropout = dropout if attention_dropout is None else attention_dropout
        activation_dropout = dropout if activation_dropout is None else activation_dropout
        self.self_attn = MultiHeadAttention(dim, num_heads, attention_dropout, bias, rotary, generator)
        self.multihead_attn = MultiHeadAttention(dim, num_heads, attention_dropout, bias, None, generator)
        feed_forward = FeedForward(dim, hidden_dim, activation_dropout, activation, bias, generator)
        # Registered here before inside feed_forward, so that their names are torch's: linear1, linear2.
        self.linear1, self.linear2 = feed_forward.linear1, feed_forward.linear2
        self.norm1, self.norm2, self.norm3 = (LayerNorm(dim, eps) for _ in range(3))
        self.dropout1, self.dropout2, self.dropout3 = (Dropout(dropout, generator) for _ in range(3))
        self.feed_forward = feed_forward

    def forward(
        self,
        x: Array,
        memory: Array,
        mask: Array | None = None,
        memory_mask: Array | None = None,
        causal: bool = True,
        cache: KeyValueCache | None = None,
        memory_cache: MemoryCache | None = None,
    ) -> Array:
        """Attend to x itself, then to the memory.

        Parameters
        ----------
        x : (B, T, C)
        memory : (B, S, C), what the encoder made
        mask : bool, broadcastable to (B, H, T, T), True where a position may look in x
        memory_mask : bool, broadcastable to (B, H, T, S), True where a position may look in the memory
        causal : whether no position sees a later one of x
        cache, memory_cache : for generation, as in :class:`MultiHeadAttention`; inference only

        Returns
        -------
        (B, T, C)
        """
        if self.norm_placement == "pre":
            x = x + self.dropout1(self.self_attn(self.norm1(x), None, mask, causal, cache))
            x = x + self.dropout2(self.multihead_attn(self.norm2(x), memory, memory_mask, False, memory_cache))
            return x + self.dropout3(self.feed_forward(self.norm3(x)))
        x = self.norm1(x + self.dropout1(self.self_attn(x, None, mask, causal, cache)))
        x = self.norm2(x + self.dropout2(self.multihead_attn(x, memory, memory_mask, False, memory_cache)))
        return self.norm3(x + self.dropout3(self.feed_forward(x)))

    def backward(self, dy: Array) -> tuple[Array, Array]:
        """Gradients of x and of the memory."""
        # Each sum passes its gradient to both terms; the branch's part comes back and is added.
        if self.norm_placement == "pre":
            dy = dy + self.norm3.backward(self.feed_forward.backward(self.dropout3.backward(dy)))
            dquery, dmemory = self.multihead_attn.backward(self.dropout2.backward(dy))
            dy = dy + self.norm2.backward(dquery)
            return dy + self.norm1.backward(self.self_attn.backward(self.dropout1.backward(dy))), dmemory
        dy = self.norm3.backward(dy)
        dy = self.norm2.backward(dy + self.feed_forward.backward(self.dropout3.backward(dy)))
        dquery, dmemory = self.multihead_attn.backward(self.dropout2.backward(dy))
        dy = self.norm1.backward(dy + dquery)
        return dy + self.self_attn.backward(self.dropout1.backward(dy)), dmemory


class TransformerEncoder(Layer):
    """Blocks one after the other, and a last norm; state_dict-compatible with torch.nn.TransformerEncoder.

    Parameters
    ----------
    blocks : :class:`TransformerBlock`, named ``layers.0`` and so on
    norm : last norm, or None
    checkpointing : as in :class:`TransformerStack`
    """

    def __init__(self, blocks: Iterable[TransformerBlock], norm: Layer | None = None, checkpointing: bool = False):
        super().__init__()
        # By the name that torch gives them; as an attribute it would hide the method layers().
        self._children["layers"] = TransformerStack(blocks, checkpointing)
        self.norm = norm

    @property
    def blocks(self) -> TransformerStack:
        """The blocks."""
        return cast("TransformerStack", self._children["layers"])

    def forward(
        self,
        src: Array,
        mask: Array | None = None,
        causal: bool = False,
        note: Callable[[Array], None] | None = None,
    ) -> Array:
        """(B, S, C) -> (B, S, C).

        Parameters
        ----------
        mask : bool, broadcastable to (B, H, S, S), True where a position may look
        causal : whether no position sees a later one
        note : is told what each block reads, and last what comes out
        """
        x = self.blocks(src, mask, causal, None, note)
        x = x if self.norm is None else self.norm(x)
        if note is not None:
            note(x)
        return x

    def backward(self, dy: Array) -> Array:
        return self.blocks.backward(dy if self.norm is None else self.norm.backward(dy))


class TransformerDecoder(Layer):
    """Decoder blocks one after the other, and a last norm; state_dict-compatible with torch.nn.TransformerDecoder.

    Parameters
    ----------
    blocks : :class:`TransformerDecoderBlock`, named ``layers.0`` and so on
    norm : last norm, or None
    checkpointing : as in :class:`TransformerStack`
    """

    def __init__(
        self, blocks: Iterable[TransformerDecoderBlock], norm: Layer | None = None, checkpointing: bool = False
    ):
        super().__init__()
        self._children["layers"] = LayerList(blocks)  # as in TransformerEncoder
        self.norm = norm
        self.checkpointing = checkpointing

    @property
    def blocks(self) -> LayerList:
        """The blocks."""
        return cast("LayerList", self._children["layers"])

    def new_caches(self, max_len: int) -> list[DecoderCache]:
        """One cache for each block, for generating up to `max_len` positions."""
        return [DecoderCache(max_len) for _ in self.blocks]

    def forward(
        self,
        tgt: Array,
        memory: Array,
        mask: Array | None = None,
        memory_mask: Array | None = None,
        causal: bool = True,
        caches: Sequence[DecoderCache] | None = None,
        note: Callable[[Array], None] | None = None,
    ) -> Array:
        """(B, T, C) and the encoder's (B, S, C) -> (B, T, C).

        Parameters
        ----------
        mask, memory_mask, causal : as in :class:`TransformerDecoderBlock`
        caches : what :meth:`new_caches` gave; then `tgt` are the positions that follow those it holds
        note : is told what each block reads, and last what comes out
        """
        blocks = list(self.blocks)
        if caches is not None and len(caches) != len(blocks):
            raise ConfigError(f"TransformerDecoder: caches must be {len(blocks)}, one a block, got {len(caches)}")
        x = tgt
        for index, block in enumerate(blocks):
            if note is not None:
                note(x)
            kept = (None, None) if caches is None else (caches[index].own, caches[index].memory)
            arguments = (x, memory, mask, memory_mask, causal, *kept)
            x = checkpoint_forward(block, *arguments) if self.checkpointing else block(*arguments)
        x = x if self.norm is None else self.norm(x)
        if note is not None:
            note(x)
        return x

    def backward(self, dy: Array) -> tuple[Array, Array]:
        """Gradients of the target side and of the memory, which every block read."""
        if self.norm is not None:
            dy = self.norm.backward(dy)
        dmemory: Array | None = None
        for block in reversed(list(self.blocks)):
            dy, part = checkpoint_backward(block, dy) if self.checkpointing else block.backward(dy)
            dmemory = part if dmemory is None else dmemory + part
        return dy, dmemory


class Transformer(Layer):
    """An encoder and a decoder, state_dict-compatible with torch.nn.Transformer (batch first).

    Both end in a norm, also where norms stand after the branches, as torch has it. Embeddings, positions and the head
    belong to the model around it.

    Parameters
    ----------
    d_model, nhead, dim_feedforward : width C, heads H, width inside the feed-forward parts
    num_encoder_layers, num_decoder_layers : blocks of either side
    dropout : on residual branches, attention weights and inside the feed-forward parts
    activation : relu, gelu, gelu_tanh, silu, tanh or sigmoid
    layer_norm_eps : of all norms
    norm_first : whether norms stand before the branches (Xiong et al., 2020) instead of after
    bias : whether linear maps have one
    generator : draws the initial weights, Xavier's uniform as torch does, and the noise
    checkpointing : whether each block's forward is computed again in the backward pass instead of kept

    Examples
    --------
    >>> model = Transformer(32, 4, 2, 2, 64)
    >>> y = model(src, tgt, src_mask=padding, memory_mask=padding)
    >>> dsrc, dtgt = model.backward(dy)
    """

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str = "relu",
        layer_norm_eps: float = 1e-5,
        norm_first: bool = False,
        bias: bool = True,
        generator: Generator | None = None,
        checkpointing: bool = False,
    ):
        super().__init__()
        check_positive("Transformer", num_encoder_layers=num_encoder_layers, num_decoder_layers=num_decoder_layers)
        self.generator = generator or default_generator()
        self.d_model = d_model
        placement = "pre" if norm_first else "post"

        def build(kind: Callable[..., Any], count: int) -> list[Any]:
            return [
                kind(
                    d_model, nhead, dim_feedforward, dropout, activation, placement, layer_norm_eps, bias,
                    generator=self.generator,
                )
                for _ in range(count)
            ]  # fmt: skip

        blocks = build(TransformerBlock, num_encoder_layers)
        self.encoder = TransformerEncoder(blocks, LayerNorm(d_model, layer_norm_eps), checkpointing)
        blocks = build(TransformerDecoderBlock, num_decoder_layers)
        self.decoder = TransformerDecoder(blocks, LayerNorm(d_model, layer_norm_eps), checkpointing)
        for parameter in self.parameters():
            if parameter.data.ndim == 2:
                bound = math.sqrt(6 / sum(parameter.shape))
                parameter.data[...] = self.generator.uniform(*parameter.shape, low=-bound, high=bound)

    def encode(self, src: Array, mask: Array | None = None, note: Callable[[Array], None] | None = None) -> Array:
        """(B, S, C) -> the memory (B, S, C); arguments as in :class:`TransformerEncoder`."""
        return self.encoder(src, mask, False, note)

    def decode(
        self,
        tgt: Array,
        memory: Array,
        mask: Array | None = None,
        memory_mask: Array | None = None,
        causal: bool = True,
        caches: Sequence[DecoderCache] | None = None,
        note: Callable[[Array], None] | None = None,
    ) -> Array:
        """(B, T, C) and the memory -> (B, T, C); arguments as in :class:`TransformerDecoder`."""
        return self.decoder(tgt, memory, mask, memory_mask, causal, caches, note)

    def new_caches(self, max_len: int) -> list[DecoderCache]:
        """What :meth:`decode` needs to go on position by position, up to `max_len`."""
        return self.decoder.new_caches(max_len)

    def forward(
        self,
        src: Array,
        tgt: Array,
        src_mask: Array | None = None,
        tgt_mask: Array | None = None,
        memory_mask: Array | None = None,
        causal: bool = True,
    ) -> Array:
        """Both sides.

        Parameters
        ----------
        src : (B, S, C)
        tgt : (B, T, C)
        src_mask, tgt_mask, memory_mask : bool, True where a position may look: source in source, target in target,
            target in source. Padding of the source has to be in both the first and the last.
        causal : whether no position of the target sees a later one

        Returns
        -------
        (B, T, C)
        """
        for name, x in (("src", src), ("tgt", tgt)):
            if x.ndim != 3 or x.shape[-1] != self.d_model:
                raise ShapeError(
                    f"Transformer: {name} must be (batch, time, {self.d_model}), got {format_shape(tuple(x.shape))}"
                )
        if len(src) != len(tgt):
            raise ShapeError(f"Transformer: src has batch {len(src)}, tgt has batch {len(tgt)}")
        return self.decode(tgt, self.encode(src, src_mask), tgt_mask, memory_mask, causal)

    def backward(self, dy: Array) -> tuple[Array, Array]:
        """Gradients of src and tgt."""
        dtgt, dmemory = self.decoder.backward(dy)
        return self.encoder.backward(dmemory), dtgt
