"""GPT-2 (Radford et al., 2019): the transformer of this library with GPT-2's settings, and its names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .config import PUBLISHED_ACTIVATIONS, ModelConfig, choice, count, flag, number, optional
from .registry import register_architecture
from .transformer import CustomTransformerConfig, CustomTransformerWrapper, transformer_settings


@dataclass(kw_only=True)
class GPT2Config(ModelConfig):
    """Settings of :class:`GPT2`, by the names of the published ``config.json``; the defaults are GPT-2's 124M.

    Attributes
    ----------
    vocab_size : V, token ids are in [0, V)
    n_positions : longest sequence
    n_embd, n_layer, n_head, n_inner : width, blocks, heads, width inside the feed-forward part (4 n_embd if None)
    activation_function : gelu_new (the tanh formula), gelu, relu, silu, tanh
    resid_pdrop, embd_pdrop, attn_pdrop : dropout on branches, embeddings, attention weights
    layer_norm_epsilon : of the norms
    initializer_range : standard deviation of the initial weights
    tie_word_embeddings : whether the head is the token embedding again
    bos_token_id, eos_token_id : first and last token of a text
    checkpointing : whether a block's forward is computed again in the backward pass instead of kept
    """

    vocab_size: int = count(50257)
    n_positions: int = count(1024)
    n_embd: int = count(768)
    n_layer: int = count(12)
    n_head: int = count(12)
    n_inner: int | None = optional(count(1))
    activation_function: str = choice("gelu_new", *PUBLISHED_ACTIVATIONS)
    resid_pdrop: float = number(0.1, 0.0, 1.0)
    embd_pdrop: float = number(0.1, 0.0, 1.0)
    attn_pdrop: float = number(0.1, 0.0, 1.0)
    layer_norm_epsilon: float = number(1e-5)
    initializer_range: float = number(0.02)
    tie_word_embeddings: bool = flag(True)
    bos_token_id: int | None = optional(count(1, at_least=0))
    eos_token_id: int | None = optional(count(1, at_least=0))
    checkpointing: bool = flag(False)

    @classmethod
    def _conflicts(cls, settings: dict[str, Any]) -> list[str]:
        width, heads = settings["n_embd"], settings["n_head"]
        return [f"n_embd must be divisible by n_head, got {width} and {heads}"] if width % heads else []

    def as_transformer(self) -> CustomTransformerConfig:
        """The same settings, by the names of :class:`CustomTransformer`."""
        return CustomTransformerConfig(
            vocab_size=self.vocab_size,
            max_seq_len=self.n_positions,
            n_blocks=self.n_layer,
            n_heads=self.n_head,
            d_model=self.n_embd,
            d_ffn=self.n_inner or 4 * self.n_embd,
            dropout=self.resid_pdrop,
            embedding_dropout=self.embd_pdrop,
            attention_dropout=self.attn_pdrop,
            activation_dropout=0.0,
            position="learned",
            norm_placement="pre",
            activation=PUBLISHED_ACTIVATIONS[self.activation_function],
            tied_head=self.tie_word_embeddings,
            bias=True,
            eps=self.layer_norm_epsilon,
            init_std=self.initializer_range,
            checkpointing=self.checkpointing,
            seed=self.seed,
            device=self.device,
            dtype=self.dtype,
        )


@register_architecture("gpt2")
class GPT2(CustomTransformerWrapper):
    """GPT-2: learned positions, pre-norm blocks, the tanh form of GELU, and a tied head.

    Its weights are exchanged with ``transformers``' GPT2LMHeadModel; see :meth:`from_pretrained`.

    Parameters
    ----------
    config : :class:`GPT2Config`, a dict, or an object with attributes of its names
    """

    config_class = GPT2Config

    def __init__(self, config: GPT2Config | dict[str, Any] | Any):
        config = GPT2Config.from_any(config)
        super().__init__(config.as_transformer())
        self.config = config

    @classmethod
    def settings_from_run(cls, model: Mapping[str, Any]) -> dict[str, Any]:
        s = transformer_settings(model)
        names = {
            "max_seq_len": "n_positions", "d_model": "n_embd", "n_blocks": "n_layer", "n_heads": "n_head",
            "d_ffn": "n_inner", "eps": "layer_norm_epsilon", "init_std": "initializer_range",
            "tied_head": "tie_word_embeddings", "checkpointing": "checkpointing",
        }  # fmt: skip
        settings = {names[key]: value for key, value in s.items() if key in names}
        if "dropout" in s:
            settings |= dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), s["dropout"])
        return settings
