"""CustomTransformer: a decoder-only transformer language model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from ..backend import Array, Generator, use
from ..layers import (
    Dropout,
    Embedding,
    KeyValueCache,
    LayerNorm,
    LearnedPositions,
    Linear,
    Parameter,
    RotaryPositions,
    SinusoidalPositions,
    TransformerBlock,
    TransformerStack,
)
from ..layers.base import Layer
from ..layers.linear import linear, linear_backward
from .base import BaseLanguageModel
from .config import ACTIVATIONS, ModelConfig, choice, count, flag, number, optional
from .registry import register_architecture


@dataclass
class CustomTransformerConfig(ModelConfig):
    """Settings of :class:`CustomTransformer`; all mistakes are reported at once.

    Attributes
    ----------
    vocab_size : V, token ids are in [0, V)
    max_seq_len : longest sequence
    n_blocks, n_heads, d_model, d_ffn : blocks, heads, width, width inside the feed-forward part
    dropout : in [0, 1), everywhere but where one of the next three says otherwise
    embedding_dropout, attention_dropout, activation_dropout : after the embeddings, on attention weights,
        inside the feed-forward part
    position : learned, sinusoidal, rotary or none
    norm_placement : pre or post
    activation : of the feed-forward part
    tied_head : whether the head is the token embedding again (Press & Wolf, 2017)
    bias : whether the linear maps of the blocks have one
    eps : of the norms
    init_std : standard deviation of the initial weights
    checkpointing : whether a block's forward is computed again in the backward pass instead of kept
    seed, device, dtype : as in :class:`~tinygrad_edu.models.config.ModelConfig`
    """

    vocab_size: int = count(50257)
    max_seq_len: int = count(256)
    n_blocks: int = count(4)
    n_heads: int = count(4)
    d_model: int = count(256)
    d_ffn: int = count(512)
    dropout: float = number(0.0, 0.0, 1.0)
    position: str = choice("learned", "learned", "sinusoidal", "rotary", "none")
    norm_placement: str = choice("pre", "pre", "post")
    activation: str = choice("gelu", *ACTIVATIONS)
    tied_head: bool = flag(True)
    bias: bool = flag(True)
    eps: float = number(1e-5)
    init_std: float = number(0.02)
    embedding_dropout: float | None = optional(number(0.0, 0.0, 1.0))
    attention_dropout: float | None = optional(number(0.0, 0.0, 1.0))
    activation_dropout: float | None = optional(number(0.0, 0.0, 1.0))
    checkpointing: bool = flag(False)

    @classmethod
    def _conflicts(cls, settings: dict[str, Any]) -> list[str]:
        width, heads = settings["d_model"], settings["n_heads"]
        if width % heads:
            return [f"d_model must be divisible by n_heads, got {width} and {heads}"]
        if settings["position"] == "rotary" and width // heads % 2:
            return [f"position rotary needs an even head width, got {width // heads}"]
        return []


class CustomTransformer(Layer):
    """Decoder-only transformer: ids to logits (Vaswani et al., 2017), by default laid out as GPT-2.

    Parameters
    ----------
    config : :class:`CustomTransformerConfig`, a dict, or an object with attributes of its names
    flat : whether to lay the parameters in one buffer; see :meth:`Layer.flatten`
    """

    position: LearnedPositions | SinusoidalPositions | None

    def __init__(self, config: CustomTransformerConfig | dict[str, Any] | Any, flat: bool = True):
        super().__init__()
        self.config = c = CustomTransformerConfig.from_any(config)
        with use(c.device):
            self.generator = Generator(c.seed)
            self.token_embedding = Embedding(c.vocab_size, c.d_model, self.generator, c.init_std)
            if c.position == "learned":
                self.position = LearnedPositions(c.max_seq_len, c.d_model, self.generator, c.init_std)
            elif c.position == "sinusoidal":
                self.position = SinusoidalPositions(c.max_seq_len, c.d_model)
            else:
                self.position = None
            rotary = RotaryPositions(c.max_seq_len, c.d_model // c.n_heads) if c.position == "rotary" else None
            self.dropout = Dropout(c.dropout if c.embedding_dropout is None else c.embedding_dropout, self.generator)
            blocks = (
                TransformerBlock(
                    c.d_model,
                    c.n_heads,
                    c.d_ffn,
                    c.dropout,
                    c.activation,
                    c.norm_placement,
                    c.eps,
                    c.bias,
                    rotary,
                    self.generator,
                    c.attention_dropout,
                    c.activation_dropout,
                )
                for _ in range(c.n_blocks)
            )
            self.blocks = TransformerStack(blocks, c.checkpointing)
            self.norm = LayerNorm(c.d_model, c.eps) if c.norm_placement == "pre" else None
            self.head = None if c.tied_head else Linear(c.d_model, c.vocab_size, False, self.generator)
            self._initialise()
        if c.dtype != "float32":
            self.astype(c.dtype)
        if flat:
            self.flatten()

    def _initialise(self) -> None:
        """GPT-2's start: normal weights, zero biases, and the last map of each branch smaller.

        Each block adds two branches to the residual stream; 1/sqrt(2 n_blocks) keeps its variance near one.
        """
        c = self.config
        small = c.init_std / math.sqrt(2 * c.n_blocks)
        for name, parameter in self.named_parameters():
            if name.startswith("blocks.") and parameter.decay:
                std = small if name.endswith(("out_proj.weight", "linear2.weight")) else c.init_std
                parameter.data[...] = self.generator.normal(*parameter.shape, std=std)
            elif name.endswith("bias"):
                parameter.data.fill(0)
            elif name == "head.weight":
                parameter.data[...] = self.generator.normal(*parameter.shape, std=c.init_std)

    @property
    def head_weight(self) -> Parameter:
        """(V, C): the head's matrix, the token embedding if tied."""
        return self.token_embedding.weight if self.head is None else self.head.weight

    def features(
        self,
        input_ids: Array,
        mask: Array | None = None,
        caches: list[KeyValueCache] | None = None,
        note: Callable[[Array], None] | None = None,
    ) -> Array:
        """(B, T) ids -> (B, T, C), what the head reads.

        Parameters
        ----------
        mask : bool, broadcastable to (B, H, T, S), combined with the causal mask
        caches : one for each block, for generation
        note : is told the hidden states: what each block reads, and last what the head reads
        """
        x = self.token_embedding(input_ids)
        if self.position is not None:
            x = self.position(x, 0 if caches is None else caches[0].length)
        x = self.blocks(self.dropout(x), mask, True, caches, note)
        x = x if self.norm is None else self.norm(x)
        if note is not None:
            note(x)
        return x

    def features_backward(self, dx: Array) -> None:
        """Accumulate all gradients below the head."""
        if self.norm is not None:
            dx = self.norm.backward(dx)
        dx = self.dropout.backward(self.blocks.backward(dx))
        if self.position is not None:
            dx = self.position.backward(dx)
        self.token_embedding.backward(dx)

    def forward(self, input_ids: Array, mask: Array | None = None) -> Array:
        """(B, T) ids -> (B, T, V) logits."""
        x = self.features(input_ids, mask)
        self.save(x)
        return linear(x, self.head_weight.data, None)

    def backward(self, dlogits: Array) -> None:
        """Accumulate all gradients; ids have none."""
        x = self.saved()
        dx, *_ = linear_backward(dlogits, x, self.head_weight.data, False, self.head_weight.grad)
        self.features_backward(dx)


@register_architecture("custom_transformer")
class CustomTransformerWrapper(BaseLanguageModel):
    """:class:`CustomTransformer` behind the interface of all language models.

    Parameters
    ----------
    config : as for :class:`CustomTransformer`
    """

    config_class: ClassVar[type[ModelConfig]] = CustomTransformerConfig
    supports_generation = True

    def __init__(self, config: CustomTransformerConfig | dict[str, Any] | Any):
        super().__init__()
        self.model = CustomTransformer(config, flat=False)  # the outer layer holds the buffers
        self.config = self.model.config
        self.vocab_size, self.max_seq_len = self.config.vocab_size, self.config.max_seq_len
        self.generator = self.model.generator
        self.flatten()

    def features(
        self, input_ids: Array, mask: Array | None = None, *, caches: list[KeyValueCache] | None = None
    ) -> Array:
        return self.model.features(input_ids, mask, caches, self.note_hidden)

    def features_backward(self, dx: Array) -> None:
        self.model.features_backward(dx)

    @property
    def head_weight(self) -> Parameter:
        return self.model.head_weight

    def get_input_embeddings(self) -> Embedding:
        return self.model.token_embedding

    def new_caches(self, length: int) -> list[KeyValueCache]:
        return [KeyValueCache(length) for _ in self.model.blocks]

    @classmethod
    def settings_from_run(cls, model: Mapping[str, Any]) -> dict[str, Any]:
        return transformer_settings(model)


def transformer_settings(model: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a transformer from the ``model`` section of a run's settings; d_ffn is 4 d_model if not given."""
    given = {**model, **(model.get("transformer") or {})}
    names = {f.name for f in fields(CustomTransformerConfig)}
    settings = {name: value for name, value in given.items() if name in names and value is not None}
    return {"d_ffn": 4 * settings["d_model"], **settings} if "d_model" in settings else settings
