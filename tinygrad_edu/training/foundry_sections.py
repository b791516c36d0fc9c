"""The sections of the foundry's settings, and what each architecture reads of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer
from pydantic_core import PydanticCustomError

from ..errors import did_you_mean
from .schema import DataSection, Section, TokenizerSection, TrainingSection, TransformerShape


@dataclass(frozen=True)
class Architecture:
    """What the settings of an architecture look like.

    Attributes
    ----------
    section : the section of ``model`` that it reads
    objectives : what it can be trained for
    """

    section: str
    objectives: tuple[str, ...]


#: The architectures that a config may name: those of :mod:`tinygrad_edu.models.registry`. Whoever registers a
#: further one puts it here as well, and its section, if it is a new one, into a subclass of the config.
ARCHITECTURES = {
    "custom_transformer": Architecture("transformer", ("causal_lm",)),
    "gpt2": Architecture("transformer", ("causal_lm",)),
    "bert": Architecture("bert", ("masked_lm",)),
    "lstm": Architecture("rnn", ("causal_lm", "masked_lm")),
    "gru": Architecture("rnn", ("causal_lm", "masked_lm")),
    "rnn": Architecture("rnn", ("causal_lm", "masked_lm")),
    "seq2seq": Architecture("transformer", ("translation",)),
}

#: Kinds of tokenizer that are trained on the corpus.
TRAINED_TOKENIZERS = ("bpe", "wordpiece", "sentencepiece", "character")


def _known_architecture(name: str) -> str:
    if name not in ARCHITECTURES:
        wanted = f"one of {', '.join(ARCHITECTURES)}.{did_you_mean(name, ARCHITECTURES)}".removesuffix(".")
        raise PydanticCustomError("architecture", "{wanted}", {"wanted": wanted})
    return name


# -- sections --------------------------------------------------------------------------------------

Share = Annotated[float, Field(ge=0, lt=1)]
#: The activations that the transformers have.
Activation = Literal["gelu", "gelu_tanh", "relu", "silu", "tanh"]


class TransformerSection(TransformerShape):
    """The shape of custom_transformer, gpt2 and seq2seq. What is null is as the architecture has it."""

    position: Literal["learned", "sinusoidal", "rotary", "none"] | None = Field(  # type: ignore[assignment]
        default=None, description="position encoding; the architecture's own if not given, as with the next three"
    )
    norm_placement: Literal["pre", "post"] | None = Field(  # type: ignore[assignment]
        default=None, description="norms before or after each sub-layer"
    )
    activation: Activation | None = Field(default=None, description="of the feed-forward part")  # type: ignore[assignment]
    tied_head: bool | None = Field(default=None, description="output matrix = token embedding")  # type: ignore[assignment]
    checkpointing: bool = Field(
        default=False, description="compute each block's forward pass again in the backward pass, to save memory"
    )


class BertSection(Section):
    """The shape of bert, by the names of its published ``config.json``."""

    hidden_size: int = Field(default=128, ge=1, description="width of the model")
    num_hidden_layers: int = Field(default=4, ge=1, description="number of transformer blocks")
    num_attention_heads: int = Field(default=4, ge=1, description="attention heads; must divide hidden_size")
    intermediate_size: int | None = Field(
        default=None, ge=1, description="width inside the feed-forward part; 4 * hidden_size if not given"
    )
    hidden_act: Activation = Field(default="gelu", description="of the feed-forward part")
    type_vocab_size: int = Field(default=2, ge=1, description="number of segments that tokens can belong to")
    hidden_dropout_prob: Share | None = Field(
        default=None, description="on embeddings and branches; model.dropout if not given"
    )
    attention_probs_dropout_prob: Share | None = Field(
        default=None, description="on attention weights; model.dropout if not given"
    )
    initializer_range: float = Field(default=0.02, gt=0, description="standard deviation of the initial weights")
    layer_norm_eps: float = Field(default=1e-12, gt=0, description="of the norms")
    checkpointing: bool = Field(
        default=False, description="compute each block's forward pass again in the backward pass, to save memory"
    )


class RnnSection(Section):
    """The shape of lstm, gru and rnn, by the names of torch.nn."""

    hidden_size: int = Field(default=128, ge=1, description="width of the state, of each direction")
    embedding_size: int | None = Field(
        default=None, ge=1, description="width of the token embedding; hidden_size if not given"
    )
    num_layers: int = Field(default=1, ge=1, description="recurrent layers, one above the other")
    bidirectional: bool = Field(default=False, description="read the text backwards as well; for masked_lm only")
    nonlinearity: Literal["tanh", "relu"] | None = Field(default=None, description="of rnn only; tanh if not given")
    tied_head: bool = Field(
        default=True, description="output matrix = token embedding, behind a linear map where their widths differ"
    )


class FoundryModelSection(Section):
    """Which architecture, what all of them share, and the one section that this one reads."""

    architecture: Annotated[str, AfterValidator(_known_architecture)] = Field(
        description=f"one of {', '.join(ARCHITECTURES)}"
    )
    max_seq_len: int = Field(default=128, ge=2, description="longest sequence that the model can take, in tokens")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="share of activations dropped in training")
    transformer: TransformerSection | None = None
    bert: BertSection | None = None
    rnn: RnnSection | None = None

    @model_serializer(mode="wrap")
    def _without_absent_sections(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Null below ``model`` stands for an absent section, and reads back as an empty one: it is left out."""
        return {name: value for name, value in handler(self).items() if value is not None}


class FoundryDataSection(DataSection):
    """What text to train on: a corpus, or for translation two aligned files or a made task."""

    src_path: str | None = Field(
        default=None, min_length=1, description="of translation: text file of the source, a sentence a line"
    )
    tgt_path: str | None = Field(
        default=None, min_length=1, description="of translation: text file of the target, line by line to src_path"
    )
    task: str | None = Field(
        default=None, min_length=1, description="of translation: name of a task whose pairs are made, without files"
    )
    task_size: int = Field(default=20_000, ge=10, description="number of pairs that are made for the task")


class FoundryTokenizerSection(TokenizerSection):
    """How text becomes tokens."""

    type: str = Field(
        default="bpe",
        min_length=1,
        description="bpe, wordpiece, sentencepiece or character (trained on the corpus), gpt2, a folder or "
        "tokenizer.json, or a hub name",
    )
    vocab_size: int = Field(default=1024, ge=2, le=1_000_000, description="of a tokenizer that is trained, at most")
    special_tokens: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...] | None,
        BeforeValidator(lambda v: tuple(v) if isinstance(v, list) else v),
    ] = Field(default=None, description="of a tokenizer that is trained; what its type and the objective need if null")
    min_frequency: int = Field(default=2, ge=1, description="how often a pair or word must occur to become a token")


class FoundryTrainingSection(TrainingSection):
    """How to train, and for what."""

    objective: Literal["causal_lm", "masked_lm", "translation"] = Field(
        default="causal_lm", description="what the model learns to predict"
    )
    mlm_probability: float = Field(default=0.15, ge=0, lt=1, description="of masked_lm: share of tokens to predict")
    carry_state: bool = Field(
        default=False,
        description="of lstm, gru, rnn: the state goes on from batch to batch (truncated backpropagation)",
    )
