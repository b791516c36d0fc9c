"""The transformer block and its feed-forward part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ..backend import Array, Generator, default_generator, inference, is_inference
from ..errors import ConfigError
from .activation import make_activation
from .attention import MultiHeadAttention
from .base import Layer, check_positive
from .caches import KeyValueCache
from .checkpointing import checkpoint_backward, checkpoint_forward
from .containers import LayerList
from .dropout import Dropout
from .linear import Linear
from .norm import LayerNorm
from .position import RotaryPositions


class FeedForward(Layer):
    """``linear2(dropout(activation(linear1(x))))``, the same for each position (Vaswani et al., 2017).

    What linear2 reads is as wide as what the activation reads, and both are the widest arrays of a block. Where the
    activation keeps the one for its gradient, the other is computed again in the backward pass, not kept.

    Parameters
    ----------
    dim : width outside
    hidden_dim : width inside
    activation : relu, gelu, gelu_tanh, silu, tanh or sigmoid
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        dropout: float = 0.0,
        activation: str = "gelu",
        bias: bool = True,
        generator: Generator | None = None,
    ):
        super().__init__()
        check_positive("FeedForward", dim=dim, hidden_dim=hidden_dim)
        generator = generator or default_generator()
        self.linear1 = Linear(dim, hidden_dim, bias, generator)
        self.activation = make_activation(activation)
        self.dropout = Dropout(dropout, generator)
        self.linear2 = Linear(hidden_dim, dim, bias, generator)

    def forward(self, x: Array) -> Array:  # (..., dim)
        y = self.linear2(self.dropout(self.activation(self.linear1(x))))
        if self.activation.saves_input and not is_inference():
            self.linear2.saved()  # taken from it, and given back by backward
        return y

    def _read_by_linear2(self) -> Array:
        """Activation and dropout of what was saved, once more."""
        hidden, seed = self.activation.saved(), self.dropout.saved()
        self.activation.save(hidden)
        self.dropout.save(seed)
        with inference():
            return self.dropout.apply(self.activation(hidden), seed)

    def backward(self, dy: Array) -> Array:
        if self.activation.saves_input:
            self.linear2.save(self._read_by_linear2())
        dy = self.dropout.backward(self.linear2.backward(dy))
        return self.linear1.backward(self.activation.backward(dy))


class TransformerBlock(Layer):
    """Self-attention and feed-forward, each with a residual path and a norm.

    state_dict-compatible with torch.nn.TransformerEncoderLayer (batch first; its norm_first is
    ``norm_placement="pre"``).

    Parameters
    ----------
    dim, num_heads, hidden_dim : widths C, heads H, width inside the feed-forward part
    dropout : on both residual branches, and, unless the next two say otherwise,
    attention_dropout : on attention weights (GPT-2, BERT: a rate of its own)
    activation_dropout : inside the feed-forward part (GPT-2, BERT: none)
    norm_placement : ``"pre"``, ``x + f(norm(x))`` (Xiong et al., 2020), or ``"post"``, ``norm(x + f(x))``
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
            raise ConfigError(f"TransformerBlock: norm_placement must be 'pre' or 'post', got {norm_placement!r}")
        generator = generator or default_generator()
        self.norm_placement = norm_placement
        attention_dropout = dropout if attention_dropout is None else attention_dropout
        activation_dropout = dropout if activation_dropout is None else activation_dropout
        self.self_attn = MultiHeadAttention(dim, num_heads, attention_dropout, bias, rotary, generator)
        feed_forward = FeedForward(dim, hidden_dim, activation_dropout, activation, bias, generator)
        # Registered here before inside feed_forward, so that their names are torch's: linear1, linear2.
        self.linear1, self.linear2 = feed_forward.linear1, feed_forward.linear2
        self.norm1, self.norm2 = LayerNorm(dim, eps), LayerNorm(dim, eps)
        self.dropout1, self.dropout2 = Dropout(dropout, generator), Dropout(dropout, generator)
        self.feed_forward = feed_forward

    def forward(
        self,
        x: Array,
        mask: Array | None = None,
        causal: bool = False,
        cache: KeyValueCache | None = None,
    ) -> Array:
        """(B, T, C) -> (B, T, C); `mask`, `causal` and `cache` as in :class:`MultiHeadAttention`."""
        if self.norm_placement == "pre":
            x = x + self.dropout1(self.self_attn(self.norm1(x), None, mask, causal, cache))
            return x + self.dropout2(self.feed_forward(self.norm2(x)))
        x = self.norm1(x + self.dropout1(self.self_attn(x, None, mask, causal, cache)))
        return self.norm2(x + self.dropout2(self.feed_forward(x)))

    def backward(self, dy: Array) -> Array:
        # Each sum passes its gradient to both terms; the branch's part comes back and is added.
        if self.norm_placement == "pre":
            dy = dy + self.norm2.backward(self.feed_forward.backward(self.dropout2.backward(dy)))
            return dy + self.norm1.backward(self.self_attn.backward(self.dropout1.backward(dy)))
        dy = self.norm2.backward(dy)
        dy = dy + self.feed_forward.backward(self.dropout2.backward(dy))
        dy = self.norm1.backward(dy)
        return dy + self.self_attn.backward(self.dropout1.backward(dy))


class TransformerStack(LayerList):
    """Blocks one after the other.

    Parameters
    ----------
    blocks : :class:`TransformerBlock`, by number in the state: ``0.linear1.weight`` and so on
    checkpointing : whether to keep of each block only what it read, and run it again in the backward pass; see
        :func:`checkpoint_forward`
    """

    def __init__(self, blocks: Iterable[TransformerBlock], checkpointing: bool = False):
        super().__init__(blocks)
        self.checkpointing = checkpointing

    def forward(
        self,
        x: Array,
        mask: Array | None = None,
        causal: bool = False,
        caches: Sequence[KeyValueCache] | None = None,
        note: Callable[[Array], None] | None = None,
    ) -> Array:
        """(B, T, C) -> (B, T, C).

        Parameters
        ----------
        mask, causal : as in :class:`MultiHeadAttention`
        caches : one for each block, for generation
        note : is told what each block reads
        """
        for index, block in enumerate(self):
            if note is not None:
                note(x)
            cache = None if caches is None else caches[index]
            if self.checkpointing:
                x = checkpoint_forward(block, x, mask, causal, cache)
            else:
                x = block(x, mask, causal, cache)
        return x

    def backward(self, dy: Array) -> Array:
        for block in reversed(list(self)):
            dy = checkpoint_backward(block, dy) if self.checkpointing else block.backward(dy)
        return dy
