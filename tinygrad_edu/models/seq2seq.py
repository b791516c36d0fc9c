"""Seq2Seq: an encoder that reads one text, and a decoder that writes another."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from ..backend import Array, Generator, asarray, device_of, namespace, to_device, use
from ..errors import ConfigError, ShapeError, format_shape
from ..layers import (
    Dropout,
    Embedding,
    LearnedPositions,
    Linear,
    Parameter,
    SinusoidalPositions,
    Transformer,
)
from ..layers.base import Layer
from ..layers.encoder_decoder import DecoderCache
from ..layers.linear import linear
from ..losses import check_targets
from .base import BaseLanguageModel
from .config import ACTIVATIONS, ModelConfig, choice, count, flag, number, optional
from .continuation import Continuation
from .core import IGNORE_INDEX, Inputs
from .registry import register_architecture


@dataclass(kw_only=True)
class Seq2SeqConfig(ModelConfig):
    """Settings of :class:`Seq2Seq`; all mistakes are reported at once.

    Attributes
    ----------
    vocab_size : V, token ids of either side are in [0, V)
    max_seq_len : longest source, and longest target with its end
    n_blocks : blocks of the encoder
    n_decoder_blocks : blocks of the decoder; as many if None
    n_heads, d_model, d_ffn : heads, width, width inside the feed-forward parts
    dropout : on embeddings, residual branches, attention weights and inside the feed-forward parts
    position : sinusoidal, learned or none
    norm_placement : pre or post; either way both sides end in a norm, as torch has it
    activation : of the feed-forward parts
    shared_embeddings : whether source and target have one table, as fits a vocabulary of both languages
    tied_head : whether the head is the target's embedding again (Press & Wolf, 2017)
    scale_embeddings : whether embeddings are multiplied by sqrt(d_model), as in the paper
    bias : whether the linear maps of the blocks have one
    eps : of the norms
    init_std : standard deviation of the initial embeddings; blocks begin with Xavier's uniform as torch's do
    pad_token_id, bos_token_id, eos_token_id : padding, what the decoder begins with, and the end of a target
    checkpointing : whether a block's forward is computed again in the backward pass instead of kept
    """

    vocab_size: int = count(8000, at_least=3)
    max_seq_len: int = count(256)
    n_blocks: int = count(3)
    n_decoder_blocks: int | None = optional(count(1))
    n_heads: int = count(4)
    d_model: int = count(256)
    d_ffn: int = count(1024)
    dropout: float = number(0.1, 0.0, 1.0)
    position: str = choice("sinusoidal", "sinusoidal", "learned", "none")
    norm_placement: str = choice("pre", "pre", "post")
    activation: str = choice("gelu", *ACTIVATIONS)
    shared_embeddings: bool = flag(True)
    tied_head: bool = flag(True)
    scale_embeddings: bool = flag(True)
    bias: bool = flag(True)
    eps: float = number(1e-5)
    init_std: float = number(0.02)
    pad_token_id: int = count(0, at_least=0)
    bos_token_id: int = count(1, at_least=0)
    eos_token_id: int = count(2, at_least=0)
    checkpointing: bool = flag(False)

    @classmethod
    def _conflicts(cls, settings: dict[str, Any]) -> list[str]:
        wrong = []
        width, heads, vocab = settings["d_model"], settings["n_heads"], settings["vocab_size"]
        if width % heads:
            wrong.append(f"d_model must be divisible by n_heads, got {width} and {heads}")
        names = ("pad_token_id", "bos_token_id", "eos_token_id")
        wrong += [
            f"{name} must be below vocab_size {vocab}, got {settings[name]}"
            for name in names
            if settings[name] >= vocab
        ]
        if settings["pad_token_id"] == settings["eos_token_id"]:
            wrong.append(f"pad_token_id and eos_token_id must differ, both are {settings['pad_token_id']}")
        return wrong


class _Embedded(Layer):
    """What either side begins with: token embeddings, scaled, with positions and dropout."""

    position: LearnedPositions | SinusoidalPositions | None

    def __init__(self, config: Seq2SeqConfig, generator: Generator, table: Parameter | None = None):
        super().__init__()
        c = config
        self.scale = math.sqrt(c.d_model) if c.scale_embeddings else 1.0
        self.embedding = Embedding(c.vocab_size, c.d_model, generator, c.init_std)
        if table is not None:
            self.embedding.weight = table
        if c.position == "learned":
            self.position = LearnedPositions(c.max_seq_len, c.d_model, generator, c.init_std)
        elif c.position == "sinusoidal":
            self.position = SinusoidalPositions(c.max_seq_len, c.d_model)
        else:
            self.position = None
        self.dropout = Dropout(c.dropout, generator)

    def forward(self, ids: Array, start: int = 0) -> Array:
        """(B, T) -> (B, T, C); `start` is the place of the first of them."""
        x = self.embedding(ids) * self.scale
        return self.dropout(x if self.position is None else self.position(x, start))

    def backward(self, dy: Array) -> None:
        dx = self.dropout.backward(dy)
        if self.position is not None:
            dx = self.position.backward(dx)
        self.embedding.backward(dx * self.scale)


@register_architecture("seq2seq")
class Seq2Seq(BaseLanguageModel):
    """Encoder-decoder transformer for translation (Vaswani et al., 2017).

    ``forward(input_ids, labels, attention_mask)`` takes the source, (B, S), and the target, (B, T), which ends in
    `eos_token_id` and is -100 after that. The decoder reads the target one place later, behind `bos_token_id`
    (:meth:`shift_right`); ``decoder_input_ids`` gives it something else to read. ``attention_mask``, (B, S), is 0
    at padding of the source; without it all of the source is read, padding too. Padding behind a target needs no
    mask, as no place looks at later ones; other places are hidden by ``decoder_attention_mask``, (B, T).

    Hidden states are the encoder's, then the decoder's; attentions the encoder's, then of each block of the decoder
    that to the target and that to the source.

    Parameters
    ----------
    config : :class:`Seq2SeqConfig`, a dict, or an object with attributes of its names

    Attributes
    ----------
    source, target : embeddings and positions of both sides
    transformer : :class:`~tinygrad_edu.layers.Transformer`
    head : linear map to the logits; None if tied

    Examples
    --------
    >>> model = Seq2Seq({"vocab_size": 100, "d_model": 32, "n_blocks": 2, "d_ffn": 64})
    >>> output = model.forward(source, labels=target, attention_mask=source != 0)
    >>> model.generate(source, max_new_tokens=20, num_beams=4, attention_mask=source != 0)
    """

    config_class: ClassVar[type[ModelConfig]] = Seq2SeqConfig
    objective: Literal["translation"] = "translation"
    supports_generation = True
    extra_inputs = ("decoder_input_ids", "decoder_attention_mask")

    def __init__(self, config: Seq2SeqConfig | dict[str, Any] | Any):
        super().__init__()
        self.config = c = Seq2SeqConfig.from_any(config)
        self.vocab_size, self.max_seq_len = c.vocab_size, c.max_seq_len
        with use(c.device):
            self.generator = Generator(c.seed)
            self.source = _Embedded(c, self.generator)
            table = self.source.embedding.weight if c.shared_embeddings else None
            self.target = _Embedded(c, self.generator, table)
            self.transformer = Transformer(
                c.d_model,
                c.n_heads,
                c.n_blocks,
                c.n_blocks if c.n_decoder_blocks is None else c.n_decoder_blocks,
                c.d_ffn,
                c.dropout,
                c.activation,
                c.eps,
                c.norm_placement == "pre",
                c.bias,
                self.generator,
                c.checkpointing,
            )
            self.head = None if c.tied_head else Linear(c.d_model, c.vocab_size, False, self.generator)
            for name, parameter in self.transformer.named_parameters():
                if name.endswith("bias"):
                    parameter.data.fill(0)
        if c.dtype != "float32":
            self.astype(c.dtype)
        self.flatten()

    # -- inputs ---------------------------------------------------------------------------------------

    def shift_right(self, labels: Array) -> Array:
        """What the decoder reads to predict `labels`, (B, T): bos, then the labels but the last, padding for -100."""
        xp = namespace(labels)
        ids = xp.full(labels.shape, self.config.bos_token_id, dtype=xp.int64)
        ids[:, 1:] = xp.where(labels[:, :-1] == IGNORE_INDEX, self.config.pad_token_id, labels[:, :-1])
        return ids

    def _targets(self, labels: Any, input_ids: Array) -> Array:
        labels = self._ids("labels", labels)
        batch, time = labels.shape
        if batch != len(input_ids) or time == 0:
            raise ShapeError(
                f"labels: expected a target for each of the {len(input_ids)} sources, got {format_shape((batch, time))}"
            )
        if time > self.max_seq_len:
            raise ShapeError(f"labels: target of length {time} is longer than max_seq_len {self.max_seq_len}")
        check_targets("labels", labels, self.vocab_size, IGNORE_INDEX)
        return labels

    def _prepare(
        self, input_ids: Any, labels: Any, attention_mask: Any, more: Mapping[str, Any]
    ) -> tuple[Inputs, Array | None]:
        more = dict(more)
        decoder_ids, decoder_mask = (more.pop(name, None) for name in self.extra_inputs)
        inputs, targets = super()._prepare(input_ids, labels, attention_mask, more)
        if decoder_ids is None and targets is None:
            raise ConfigError(
                "decoder_input_ids: seq2seq needs what the decoder reads; give labels or decoder_input_ids"
            )
        if decoder_ids is None:
            decoder_ids = self.shift_right(targets)
        else:
            decoder_ids = self._input_ids(decoder_ids, "decoder_input_ids")
            wanted = (len(inputs["input_ids"]),) if targets is None else tuple(targets.shape)
            if tuple(decoder_ids.shape[: len(wanted)]) != wanted:
                what = f"batch {wanted[0]}, that of the source" if targets is None else "the shape of labels, "
                what += "" if targets is None else format_shape(wanted)
                raise ShapeError(f"decoder_input_ids must have {what}, got {format_shape(tuple(decoder_ids.shape))}")
        if decoder_mask is not None:
            with use(device_of(decoder_ids)):
                decoder_mask = asarray(decoder_mask)
            if decoder_mask.shape != decoder_ids.shape:
                raise ShapeError(
                    f"decoder_attention_mask must have the shape of the target, "
                    f"{format_shape(tuple(decoder_ids.shape))}, got {format_shape(tuple(decoder_mask.shape))}"
                )
            decoder_mask = (decoder_mask != 0)[:, None, None, :]  # (B, 1, 1, T)
        return {**inputs, "decoder_input_ids": decoder_ids, "decoder_mask": decoder_mask}, targets

    # -- there and back -------------------------------------------------------------------------------

    def encode(self, input_ids: Array, mask: Array | None = None) -> Array:
        """The source (B, S) as the decoder reads it, (B, S, C); `mask` is (B, 1, 1, S), False at padding."""
        return self.transformer.encode(self.source(input_ids), mask, self.note_hidden)

    def decode(
        self,
        decoder_input_ids: Array,
        memory: Array,
        memory_mask: Array | None = None,
        mask: Array | None = None,
        caches: list[DecoderCache] | None = None,
    ) -> Array:
        """What the head reads, (B, T, C).

        Parameters
        ----------
        decoder_input_ids : (B, T); with caches, those behind the positions that they hold
        memory : what :meth:`encode` gave, (B, S, C)
        memory_mask, mask : (B, 1, 1, S) and (B, 1, 1, T), False at padding
        """
        x = self.target(decoder_input_ids, caches[0].length if caches else 0)
        return self.transformer.decode(x, memory, mask, memory_mask, True, caches, self.note_hidden)

    def features(
        self,
        input_ids: Array,
        mask: Array | None = None,
        decoder_input_ids: Array | None = None,
        decoder_mask: Array | None = None,
    ) -> Array:
        return self.decode(decoder_input_ids, self.encode(input_ids, mask), mask, decoder_mask)

    def features_backward(self, dx: Array) -> None:
        dtarget, dmemory = self.transformer.decoder.backward(dx)
        self.target.backward(dtarget)
        self.source.backward(self.transformer.encoder.backward(dmemory))

    @property
    def head_weight(self) -> Parameter:
        return self.target.embedding.weight if self.head is None else self.head.weight

    def get_input_embeddings(self) -> Embedding:
        return self.source.embedding

    def token_tables(self) -> list[Parameter]:
        return [*super().token_tables(), self.target.embedding.weight]

    # -- writing --------------------------------------------------------------------------------------

    def new_caches(self, length: int) -> list[DecoderCache]:
        return self.transformer.new_caches(length)

    def continuation(
        self, input_ids: Array, length: int, use_cache: bool, attention_mask: Any = None
    ) -> tuple[Array, Continuation]:
        """The decoder's beginning, (B, 1), and what says what comes next in the light of the source."""
        input_ids, mask = self._input_ids(input_ids), None
        if attention_mask is not None:
            with use(device_of(input_ids)):
                attention_mask = asarray(attention_mask)
            given = attention_mask[None] if attention_mask.ndim == 1 else attention_mask  # of one source, (S,)
            mask = (self._like_ids("attention_mask", given, input_ids) != 0)[:, None, None, :]
        xp = namespace(input_ids)
        begin = xp.full((len(input_ids), 1), self.config.bos_token_id, dtype=xp.int64)
        return begin, _Translation(self, length, use_cache, input_ids, mask)

    def _prompt_length(self, ids: Array) -> int:
        return 1  # of the decoder, which begins with bos

    @property
    def default_eos_token_id(self) -> int:
        return int(self.config.eos_token_id)

    @property
    def max_generated_length(self) -> int:
        return self.max_seq_len + 1  # the last token is never read

    @classmethod
    def settings_from_run(cls, model: Mapping[str, Any]) -> dict[str, Any]:
        given = {**model, **(model.get("transformer") or {})}
        names = {f.name for f in fields(cls.config_class)}
        settings = {name: value for name, value in given.items() if name in names and value is not None}
        return {"d_ffn": 4 * settings["d_model"], **settings} if "d_model" in settings else settings


class _Translation(Continuation):
    """Targets that are being written, each beside its source."""

    def __init__(self, model: Seq2Seq, length: int, use_cache: bool, source: Array, mask: Array | None):
        super().__init__(model, length, use_cache)
        self._translator, self._source, self._mask = model, source, mask
        self._memory: Array | None = None

    def _next_logits(self, ids: Array) -> Array:
        model = self._translator
        if self._memory is None:
            self._memory = model.encode(self._source, self._mask)
        x = model.decode(ids, self._memory, self._mask, caches=self.caches)
        return linear(x[:, -1], model.head_weight.data, None)

    def reorder(self, rows: Any) -> None:
        super().reorder(rows)
        if self._memory is not None:
            rows = to_device(rows, device_of(self._memory))
            self._memory = self._memory[rows]
            self._mask = None if self._mask is None else self._mask[rows]
