"""Recurrent language models: LSTM, GRU and RNN, in one direction or both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Self

from ..backend import Array, Generator, asarray, device_of, is_inference, namespace, to_device, use
from ..errors import ConfigError, ShapeError
from ..layers import GRU, LSTM, RNN, Dropout, Embedding, Linear, Parameter
from .base import BaseLanguageModel
from .config import ModelConfig, choice, count, flag, number, optional
from .core import Inputs
from .registry import register_architecture

State = Any  # h, or of an LSTM the pair (h, c); each (num_layers * directions, B, hidden_size)


@dataclass(kw_only=True)
class RecurrentConfig(ModelConfig):
    """Settings that the recurrent models share.

    Attributes
    ----------
    vocab_size : V, token ids are in [0, V)
    embedding_size : width of the embeddings; hidden_size if None
    hidden_size, num_layers : width of a direction's state, and layers
    bidirectional : whether a second direction reads from the end; for the masked objective only
    dropout : on the embeddings, between layers, and on the features
    tied_head : whether the head is the token embedding again; features of another width than the embeddings'
        then pass through a linear map to it (Merity et al., 2018)
    objective : causal_lm or masked_lm
    carry_state : while training, begin each batch with the state that the one before ended in (truncated
        backpropagation through time); its rows must then go on where the rows before ended
    max_seq_len : longest sequence taken at once
    init_std : standard deviation of the initial embeddings; with the 0.02 of transformers, whose norms rescale
        what follows, a recurrent model of this size learns far slower
    """

    vocab_size: int = count(50257)
    embedding_size: int | None = optional(count(1))
    hidden_size: int = count(256)
    num_layers: int = count(1)
    bidirectional: bool = flag(False)
    dropout: float = number(0.0, 0.0, 1.0)
    tied_head: bool = flag(True)
    objective: str = choice("causal_lm", "causal_lm", "masked_lm")
    carry_state: bool = flag(False)
    max_seq_len: int = count(65536)
    init_std: float = number(0.1)

    @classmethod
    def _conflicts(cls, settings: dict[str, Any]) -> list[str]:
        wrong = []
        if settings["bidirectional"] and settings["objective"] == "causal_lm":
            wrong.append(
                "bidirectional and objective causal_lm do not go together: the second direction has read the token "
                "that is to be predicted; set bidirectional=False or objective='masked_lm'"
            )
        if settings["bidirectional"] and settings["carry_state"]:
            wrong.append("bidirectional and carry_state do not go together: the second direction begins at the end")
        return wrong

    @property
    def width(self) -> int:
        """Of the embeddings."""
        return self.embedding_size or self.hidden_size


@dataclass(kw_only=True)
class LSTMConfig(RecurrentConfig):
    """Settings of :class:`LSTMLanguageModel`; see :class:`RecurrentConfig`."""


@dataclass(kw_only=True)
class GRUConfig(RecurrentConfig):
    """Settings of :class:`GRULanguageModel`; see :class:`RecurrentConfig`."""


@dataclass(kw_only=True)
class RNNConfig(RecurrentConfig):
    """Settings of :class:`RNNLanguageModel`; see :class:`RecurrentConfig`.

    Attributes
    ----------
    nonlinearity : tanh or relu
    """

    nonlinearity: str = choice("tanh", "tanh", "relu")


@dataclass
class StateCache:
    """The state of a recurrent model after the tokens it has read: all that generation needs of them."""

    state: State = None

    def reorder(self, rows: Any) -> None:
        """Let sequence i go on from sequence ``rows[i]``; see :meth:`KeyValueCache.reorder`."""
        if self.state is not None:
            parts = self.state if isinstance(self.state, tuple) else (self.state,)
            parts = tuple(part[:, to_device(rows, device_of(part))] for part in parts)
            self.state = parts if isinstance(self.state, tuple) else parts[0]


class RecurrentLanguageModel(BaseLanguageModel):
    """Embedding, recurrent layers, head; base of the three.

    Attributes
    ----------
    embedding, rnn, projection : the layers; the projection is None where widths agree
    """

    config_class: ClassVar[type[ModelConfig]] = RecurrentConfig
    layer_class: ClassVar[type[LSTM] | type[GRU] | type[RNN]]

    def __init__(self, config: RecurrentConfig | dict[str, Any] | Any):
        super().__init__()
        c: Any = self.config_class.from_any(config)
        self.config = c
        self.vocab_size, self.max_seq_len = c.vocab_size, c.max_seq_len
        self.objective: Literal["causal_lm", "masked_lm"] = c.objective
        self.supports_generation = c.objective == "causal_lm"
        self._carried: State = None
        features = c.hidden_size * (2 if c.bidirectional else 1)
        options: dict[str, Any] = {"nonlinearity": c.nonlinearity} if isinstance(c, RNNConfig) else {}
        with use(c.device):
            self.generator = Generator(c.seed)
            self.embedding = Embedding(c.vocab_size, c.width, self.generator, c.init_std)
            self.dropout = Dropout(c.dropout, self.generator)
            self.rnn = self.layer_class(
                c.width,
                c.hidden_size,
                c.num_layers,
                dropout=c.dropout if c.num_layers > 1 else 0.0,
                bidirectional=c.bidirectional,
                generator=self.generator,
                **options,
            )
            self.dropout_out = Dropout(c.dropout, self.generator)
            project = c.tied_head and features != c.width
            self.projection = Linear(features, c.width, True, self.generator) if project else None
            self.head = Linear(c.width if c.tied_head else features, c.vocab_size, True, self.generator)
            assert self.head.bias is not None, "it was asked for"
            self.head.bias.data.fill(0)
            if c.tied_head:
                self.head.weight = self.embedding.weight
        if c.dtype != "float32":
            self.astype(c.dtype)
        self.flatten()

    # -- inputs ---------------------------------------------------------------------------------------

    def _prepare(
        self, input_ids: Any, labels: Any, attention_mask: Any, more: Mapping[str, Any]
    ) -> tuple[Inputs, Array | None]:
        """As of every model; the attention mask becomes lengths, because only padding at the end can be left out."""
        inputs, targets = super()._prepare(input_ids, labels, attention_mask, more)
        ids, mask = inputs["input_ids"], inputs.pop("mask")
        lengths = None
        if mask is not None:
            real = mask[:, 0, 0, :]
            lengths = real.sum(axis=1)
            xp = namespace(real)
            in_front = real != (xp.arange(real.shape[1])[None, :] < lengths[:, None])
            if bool(in_front.any()) or bool((lengths == 0).any()):
                row = int(xp.nonzero(in_front.any(axis=1) | (lengths == 0))[0][0])
                raise ShapeError(
                    f"attention_mask: row {row} must be ones and then zeros, with at least one of the former: "
                    f"{self.model_type} reads from the start, so padding can only stand at the end"
                )
        if self._carries() and targets is not None:
            if lengths is not None:
                raise ConfigError("attention_mask: with carry_state every row goes on, so none can have padding")
            # The last token predicts nothing here, and is the first of the next batch: it is not read yet.
            ids, targets = ids[:, :-1], targets[:, :-1]
        return {"input_ids": ids, "lengths": lengths}, targets

    def _carries(self) -> bool:
        return bool(self.config.carry_state) and self.training and not is_inference()

    # -- there and back -------------------------------------------------------------------------------

    def features(
        self, input_ids: Array, lengths: Array | None = None, *, caches: list[StateCache] | None = None
    ) -> Array:
        x = self.dropout(self.embedding(input_ids))
        self.note_hidden(x)
        carries = self._carries()
        initial = caches[0].state if caches is not None else self._carried if carries else None
        if carries and initial is not None and _batch_of(initial) != len(input_ids):
            raise ShapeError(
                f"input_ids: a batch of {len(input_ids)} cannot go on from the state of a batch of "
                f"{_batch_of(initial)}; call forget_state() between texts, or leave out incomplete batches"
            )
        y, state = self.rnn(x, initial, lengths)
        if caches is not None:
            caches[0].state = state
        if carries:
            self._carried = state
        self.save(initial is not None)
        self.note_hidden(y)
        y = self.dropout_out(y)
        return y if self.projection is None else self.projection(y)

    def features_backward(self, dx: Array) -> None:
        if self.projection is not None:
            dx = self.projection.backward(dx)
        dx = self.rnn.backward(self.dropout_out.backward(dx))
        if self.saved():  # the gradient of the carried state ends here: that is the truncation
            dx, _ = dx
        self.embedding.backward(self.dropout.backward(dx))

    @property
    def head_weight(self) -> Parameter:
        return self.head.weight

    @property
    def head_bias(self) -> Parameter | None:
        return self.head.bias

    def get_input_embeddings(self) -> Embedding:
        return self.embedding

    def new_caches(self, length: int) -> list[StateCache]:
        return [StateCache()]

    # -- the carried state ----------------------------------------------------------------------------

    def _convert(self, change: Callable[[Array], Array]) -> Self:
        super()._convert(change)
        self.load_carried_state({name: change(values) for name, values in self.carried_state().items()})
        return self

    def forget_state(self) -> None:
        """Begin the next training batch with zeros, as between two texts."""
        self._carried = None

    def carried_state(self) -> dict[str, Array]:
        if self._carried is None:
            return {}
        parts = self._carried if isinstance(self._carried, tuple) else (self._carried,)
        return dict(zip(("h", "c"), parts, strict=False))

    def load_carried_state(self, state: Mapping[str, Array]) -> None:
        with use(device_of(self.embedding.weight.data)):
            parts = tuple(asarray(state[name]) for name in ("h", "c") if name in state)
        self._carried = None if not parts else parts[0] if len(parts) == 1 else parts

    @classmethod
    def settings_from_run(cls, model: Mapping[str, Any]) -> dict[str, Any]:
        given = {**model, **(model.get("rnn") or {})}
        names = {f.name for f in fields(cls.config_class)}
        return {name: value for name, value in given.items() if name in names and value is not None}


def _batch_of(state: State) -> int:
    return int((state[0] if isinstance(state, tuple) else state).shape[1])


@register_architecture("lstm")
class LSTMLanguageModel(RecurrentLanguageModel):
    """Language model on LSTM layers (Hochreiter & Schmidhuber, 1997).

    Parameters
    ----------
    config : :class:`LSTMConfig`, a dict, or an object with attributes of its names
    """

    config_class = LSTMConfig
    layer_class = LSTM


@register_architecture("gru")
class GRULanguageModel(RecurrentLanguageModel):
    """Language model on GRU layers (Cho et al., 2014).

    Parameters
    ----------
    config : :class:`GRUConfig`, a dict, or an object with attributes of its names
    """

    config_class = GRUConfig
    layer_class = GRU


@register_architecture("rnn")
class RNNLanguageModel(RecurrentLanguageModel):
    """Language model on simple recurrent layers (Elman, 1990), with tanh or relu.

    Parameters
    ----------
    config : :class:`RNNConfig`, a dict, or an object with attributes of its names
    """

    config_class = RNNConfig
    layer_class = RNN
