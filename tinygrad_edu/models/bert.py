"""BERT (Devlin et al., 2018): a transformer that sees both sides of each token, and learns by filling gaps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from ..backend import Array, Generator, namespace, use, zeros
from ..errors import ConfigError
from ..layers import Dropout, Embedding, LayerNorm, Linear, Parameter, Tanh, TransformerBlock, TransformerStack
from ..layers.activation import make_activation
from ..layers.base import Layer
from ..layers.embedding import check_ids
from .base import BaseLanguageModel
from .config import PUBLISHED_ACTIVATIONS, ModelConfig, choice, count, flag, number, optional
from .core import Inputs
from .registry import register_architecture


@dataclass(kw_only=True)
class BertConfig(ModelConfig):
    """Settings of :class:`BertForMaskedLM`, by the names of the published ``config.json``; the defaults: BERT-base.

    Attributes
    ----------
    vocab_size : V, token ids are in [0, V)
    hidden_size, num_hidden_layers, num_attention_heads, intermediate_size : width, blocks, heads, width inside the
        feed-forward part
    hidden_act : gelu, gelu_new (the tanh formula), relu, silu, tanh, sigmoid
    hidden_dropout_prob, attention_probs_dropout_prob : dropout on embeddings and branches, on attention weights
    max_position_embeddings : longest sequence
    type_vocab_size : number of segments that tokens can belong to
    initializer_range : standard deviation of the initial weights
    layer_norm_eps : of the norms
    pad_token_id : the id of padding, whose embedding begins as zeros and is not learned where it is read; or None
    add_pooling_layer : whether there is a layer that makes one vector of a text, of its first token
    tie_word_embeddings : whether the decoder of the head is the token embedding again
    checkpointing : whether a block's forward is computed again in the backward pass instead of kept
    """

    vocab_size: int = count(30522)
    hidden_size: int = count(768)
    num_hidden_layers: int = count(12)
    num_attention_heads: int = count(12)
    intermediate_size: int = count(3072)
    hidden_act: str = choice("gelu", *PUBLISHED_ACTIVATIONS)
    hidden_dropout_prob: float = number(0.1, 0.0, 1.0)
    attention_probs_dropout_prob: float = number(0.1, 0.0, 1.0)
    max_position_embeddings: int = count(512)
    type_vocab_size: int = count(2)
    initializer_range: float = number(0.02)
    layer_norm_eps: float = number(1e-12)
    pad_token_id: int | None = optional(count(0, at_least=0), 0)
    add_pooling_layer: bool = flag(False)
    tie_word_embeddings: bool = flag(True)
    checkpointing: bool = flag(False)

    @classmethod
    def _conflicts(cls, settings: dict[str, Any]) -> list[str]:
        wrong = []
        width, heads = settings["hidden_size"], settings["num_attention_heads"]
        if width % heads:
            wrong.append(f"hidden_size must be divisible by num_attention_heads, got {width} and {heads}")
        padding, vocab = settings["pad_token_id"], settings["vocab_size"]
        if padding is not None and padding >= vocab:
            wrong.append(f"pad_token_id must be below vocab_size {vocab}, got {padding}; give None if there is none")
        return wrong


class BertPooler(Layer):
    """One vector for a text: a linear map and tanh of its first token's.

    Parameters
    ----------
    dim : width C
    """

    def __init__(self, dim: int, generator: Generator | None = None):
        super().__init__()
        self.dense = Linear(dim, dim, True, generator)
        self.activation = Tanh()

    def forward(self, x: Array) -> Array:  # (B, T, C) -> (B, C)
        self.save(x.shape)
        return self.activation(self.dense(x[:, 0]))

    def backward(self, dy: Array) -> Array:  # (B, C) -> (B, T, C)
        dx = namespace(dy).zeros(self.saved(), dtype=dy.dtype)
        dx[:, 0] = self.dense.backward(self.activation.backward(dy))
        return dx


class BertModel(Layer):
    """The encoder: ids to a vector for each token, and with a pooler one for the whole text.

    Parameters
    ----------
    config : :class:`BertConfig`, a dict, or an object with attributes of its names
    generator : draws the initial weights and the dropout seeds; one of ``config.seed`` if None

    Attributes
    ----------
    word_embeddings, position_embeddings, token_type_embeddings : the three tables whose rows are added
    norm, dropout, blocks, pooler : the layers above them; ``pooler`` is None without ``add_pooling_layer``
    """

    def __init__(self, config: BertConfig | dict[str, Any] | Any, generator: Generator | None = None):
        super().__init__()
        self.config = c = BertConfig.from_any(config)
        width, std = c.hidden_size, c.initializer_range
        with use(c.device):
            self.generator = Generator(c.seed) if generator is None else generator
            self.word_embeddings = Embedding(c.vocab_size, width, self.generator, std, c.pad_token_id)
            self.position_embeddings = Embedding(c.max_position_embeddings, width, self.generator, std)
            self.token_type_embeddings = Embedding(c.type_vocab_size, width, self.generator, std)
            self.norm = LayerNorm(width, c.layer_norm_eps)
            self.dropout = Dropout(c.hidden_dropout_prob, self.generator)
            blocks = (
                TransformerBlock(
                    width,
                    c.num_attention_heads,
                    c.intermediate_size,
                    c.hidden_dropout_prob,
                    PUBLISHED_ACTIVATIONS[c.hidden_act],
                    "post",
                    c.layer_norm_eps,
                    generator=self.generator,
                    attention_dropout=c.attention_probs_dropout_prob,
                    activation_dropout=0.0,
                )
                for _ in range(c.num_hidden_layers)
            )
            self.blocks = TransformerStack(blocks, c.checkpointing)
            self.pooler = BertPooler(width, self.generator) if c.add_pooling_layer else None
            draw_linear_maps(self, self.generator, std)
        if c.dtype != "float32":
            self.astype(c.dtype)

    def forward(
        self,
        input_ids: Array,
        mask: Array | None = None,
        token_type_ids: Array | None = None,
        position_ids: Array | None = None,
        note: Callable[[Array], None] | None = None,
    ) -> tuple[Array, Array | None]:
        """(B, T) ids -> the tokens' vectors (B, T, C), and the text's, (B, C) or None.

        Parameters
        ----------
        mask : bool, broadcastable to (B, H, T, T), False where nothing may be seen, as at padding
        token_type_ids : (B, T), the segment of each token; all 0 if None
        position_ids : (B, T), the position of each token; 0, 1, 2 ... if None
        note : is told the hidden states: what each block reads, and last what it all comes to
        """
        xp, time = namespace(input_ids), input_ids.shape[1]
        # Where all rows of the batch read the same, the row is looked up once and spread over them.
        positions = xp.arange(time) if position_ids is None else position_ids  # (T,) or (B, T)
        segments = xp.zeros(1, dtype=xp.int64) if token_type_ids is None else token_type_ids  # (1,) or (B, T)
        self.save(position_ids is None, token_type_ids is None)
        x = self.word_embeddings(input_ids)  # (B, T, C)
        x = x + self.token_type_embeddings(segments)
        x += self.position_embeddings(positions)
        x = self.dropout(self.norm(x))
        x = self.blocks(x, mask, False, None, note)
        if note is not None:
            note(x)
        return x, None if self.pooler is None else self.pooler(x)

    def backward(self, dsequence: Array | None, dpooled: Array | None = None) -> None:
        """Accumulate all gradients, from those of both outputs; None stands for zeros.

        Raises
        ------
        ConfigError
            If both are None, or `dpooled` is given and there is no pooler.
        """
        if dsequence is None and dpooled is None:
            raise ConfigError("BertModel.backward: give dsequence, dpooled, or both")
        if self.pooler is None and dpooled is not None:
            raise ConfigError("BertModel.backward: got dpooled, but there is no pooler; see add_pooling_layer")
        dx = dsequence
        if self.pooler is not None:
            if dpooled is None:
                _forget_latest(self.pooler)
            else:
                dpooler = self.pooler.backward(dpooled)
                dx = dpooler if dx is None else dx + dpooler
        one_order, one_segment = self.saved()
        dx = self.norm.backward(self.dropout.backward(self.blocks.backward(dx)))
        self.position_embeddings.backward(dx.sum(axis=0) if one_order else dx)
        self.token_type_embeddings.backward(dx.sum(axis=(0, 1))[None] if one_segment else dx)
        self.word_embeddings.backward(dx)


def _forget_latest(layer: Layer) -> None:
    """Take the latest forward of `layer` and of all below it as gone back through, with a gradient of zero."""
    for child in layer.layers():
        if child._saved:
            child.saved()


def draw_linear_maps(layer: Layer, generator: Generator, std: float) -> None:
    """BERT's start below `layer`: normal matrices and zero biases; norms and embeddings are left as they are."""
    for child in layer.layers():
        for name, parameter in child._parameters.items():
            if isinstance(child, Embedding | LayerNorm):
                continue
            if name.endswith("bias"):
                parameter.data.fill(0)
            else:
                parameter.data[...] = generator.normal(*parameter.shape, std=std)


@register_architecture("bert")
class BertForMaskedLM(BaseLanguageModel):
    """BERT with the head that fills masked tokens in.

    Its weights are exchanged with ``transformers``' BertForMaskedLM; see :meth:`from_pretrained`. A pooler, if there
    is one, learns nothing here: the loss does not read it.

    Parameters
    ----------
    config : :class:`BertConfig`, a dict, or an object with attributes of its names

    Attributes
    ----------
    bert : the encoder, :class:`BertModel`
    transform, transform_activation, transform_norm, decoder, decoder_bias : the head; ``decoder`` is None if tied:
        the token embedding again is its matrix
    """

    config_class: ClassVar[type[ModelConfig]] = BertConfig
    objective: Literal["causal_lm", "masked_lm", "translation"] = "masked_lm"
    supports_generation = False
    extra_inputs: tuple[str, ...] = ("token_type_ids", "position_ids")

    def __init__(self, config: BertConfig | dict[str, Any] | Any):
        super().__init__()
        self.config = c = BertConfig.from_any(config)
        self.vocab_size, self.max_seq_len = c.vocab_size, c.max_position_embeddings
        with use(c.device):
            self.generator = Generator(c.seed)
            self.bert = BertModel(c, self.generator)
            self.transform = Linear(c.hidden_size, c.hidden_size, True, self.generator)
            self.transform_activation = make_activation(PUBLISHED_ACTIVATIONS[c.hidden_act])
            self.transform_norm = LayerNorm(c.hidden_size, c.layer_norm_eps)
            tied = c.tie_word_embeddings
            self.decoder = None if tied else Linear(c.hidden_size, c.vocab_size, False, self.generator)
            self.decoder_bias = Parameter(zeros(c.vocab_size))
            for layer in (self.transform, self.decoder):
                if layer is not None:
                    draw_linear_maps(layer, self.generator, c.initializer_range)
        if c.dtype != "float32":
            self.astype(c.dtype)
        self.flatten()

    def _prepare(
        self, input_ids: Any, labels: Any, attention_mask: Any, more: Mapping[str, Any]
    ) -> tuple[Inputs, Array | None]:
        inputs, targets = super()._prepare(input_ids, labels, attention_mask, more)
        for name, size in (
            ("token_type_ids", self.config.type_vocab_size),
            ("position_ids", self.config.max_position_embeddings),
        ):
            if name in inputs:
                check_ids(name, inputs[name], size)
        return inputs, targets

    def features(
        self,
        input_ids: Array,
        mask: Array | None = None,
        *,
        token_type_ids: Array | None = None,
        position_ids: Array | None = None,
    ) -> Array:
        x, _ = self.bert(input_ids, mask, token_type_ids, position_ids, self.note_hidden)
        return self.transform_norm(self.transform_activation(self.transform(x)))

    def features_backward(self, dx: Array) -> None:
        dx = self.transform_activation.backward(self.transform_norm.backward(dx))
        self.bert.backward(self.transform.backward(dx))

    @property
    def head_weight(self) -> Parameter:
        return self.bert.word_embeddings.weight if self.decoder is None else self.decoder.weight

    @property
    def head_bias(self) -> Parameter | None:
        return self.decoder_bias

    def get_input_embeddings(self) -> Embedding:
        return self.bert.word_embeddings

    @classmethod
    def settings_from_run(cls, model: Mapping[str, Any]) -> dict[str, Any]:
        """Settings from ``model.bert``, and from what all architectures share: ``max_seq_len`` and ``dropout``."""
        own = {name: value for name, value in (model.get("bert") or {}).items() if value is not None}
        if model.get("max_seq_len") is not None:
            own.setdefault("max_position_embeddings", model["max_seq_len"])
        if model.get("dropout") is not None:
            own.setdefault("hidden_dropout_prob", model["dropout"])
            own.setdefault("attention_probs_dropout_prob", model["dropout"])
        if "hidden_size" in own:
            own.setdefault("intermediate_size", 4 * own["hidden_size"])
        if own.get("hidden_act") == "gelu_tanh":  # our name of it
            own["hidden_act"] = "gelu_new"
        names = {f.name for f in fields(BertConfig)}
        return {name: value for name, value in own.items() if name in names}
