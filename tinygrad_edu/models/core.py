"""What every language model is made of: features below, a head above, and the loss of both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

from ..backend import Array, asarray, device_of, namespace, use
from ..errors import ConfigError, DtypeError, ShapeError, format_shape
from ..layers import Embedding, MultiHeadAttention, Parameter
from ..layers.base import Layer
from ..layers.embedding import check_ids
from ..layers.linear import linear, linear_backward
from ..losses import CrossEntropyLoss, check_targets
from .config import ModelConfig
from .output import ModelOutput

IGNORE_INDEX = -100
Inputs = dict[str, Any]


class ModelCore(Layer):
    """Ids to features to logits to loss, and back: the part of :class:`BaseLanguageModel` that computes."""

    model_type = "base"
    config_class: ClassVar[type[ModelConfig]] = ModelConfig
    #: What the labels are: the next token, the masked token, or a text in another language.
    objective: Literal["causal_lm", "masked_lm", "translation"] = "causal_lm"
    supports_generation = False
    #: Names of array arguments of :meth:`forward` besides input_ids, labels and attention_mask.
    extra_inputs: tuple[str, ...] = ()

    config: Any
    vocab_size: int
    max_seq_len: int

    def __init__(self) -> None:
        super().__init__()
        self.label_smoothing = 0.0
        self._hidden: list[Array] | None = None

    # -- what an architecture brings ------------------------------------------------------------------

    #: ``features(input_ids, mask=None, **more)``: what the head reads, (B, T, C), saving what
    #: features_backward needs. `input_ids` is (B, T); `mask` (B, 1, 1, T) bool, False at padding; `more` are
    #: `extra_inputs`, and in generation ``caches``.
    features: Callable[..., Array]

    def features_backward(self, dx: Array) -> None:
        """Accumulate all gradients below the head from that of the features, (B, T, C)."""
        raise AssertionError(f"{type(self).__name__} must define features_backward")

    @property
    def head_weight(self) -> Parameter:
        """(V, C): the matrix that makes logits of features."""
        raise AssertionError(f"{type(self).__name__} must define head_weight")

    @property
    def head_bias(self) -> Parameter | None:
        """(V,), or None."""
        return None

    def get_input_embeddings(self) -> Embedding:
        """The table that turns ids into vectors."""
        raise AssertionError(f"{type(self).__name__} must define get_input_embeddings")

    def token_tables(self) -> list[Parameter]:
        """Parameters that have a row for each token id."""
        parameters = (self.get_input_embeddings().weight, self.head_weight, self.head_bias)
        return [parameter for parameter in parameters if parameter is not None]

    @classmethod
    def settings_from_run(cls, model: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of this architecture's config from the ``model`` section of a run's settings."""
        own = model.get(cls.model_type) or {}
        return dict(own)

    # -- inputs ---------------------------------------------------------------------------------------

    def _ids(self, name: str, ids: Any) -> Array:
        """`ids` as a (batch, time) integer array on the model's device."""
        device = device_of(next(self.parameters()).data)
        with use(device):
            try:
                ids = asarray(ids)
            except ValueError:
                raise ShapeError(f"{name}: the sequences of a batch must have one length") from None
        if ids.dtype.kind not in "iu":
            raise DtypeError(f"{name} must be integers, got {ids.dtype}")
        if ids.ndim != 2:
            raise ShapeError(f"{name}: expected (batch, time), got {format_shape(tuple(ids.shape))}")
        return ids

    def _input_ids(self, input_ids: Any, name: str = "input_ids") -> Array:
        """Ids that the model can read."""
        input_ids = self._ids(name, input_ids)
        batch, time = input_ids.shape
        if batch == 0 or time == 0:
            raise ShapeError(f"{name}: the batch is empty, got {format_shape((batch, time))}")
        if time > self.max_seq_len:
            raise ShapeError(f"{name}: sequence of length {time} is longer than max_seq_len {self.max_seq_len}")
        check_ids(name, input_ids, self.vocab_size)
        return input_ids

    def _like_ids(self, name: str, values: Any, input_ids: Array) -> Array:
        """An array of the shape of `input_ids`, beside them."""
        with use(device_of(input_ids)):
            values = asarray(values)
        if tuple(values.shape) != tuple(input_ids.shape):
            raise ShapeError(
                f"{name} must have the shape of input_ids, {format_shape(tuple(input_ids.shape))}, "
                f"got {format_shape(tuple(values.shape))}"
            )
        return values

    def _targets(self, labels: Any, input_ids: Array) -> Array:
        """For each position the token that it must predict: of a causal model the label of the next one."""
        labels = self._ids("labels", labels)
        causal = self.objective == "causal_lm"
        if labels.shape != input_ids.shape:
            shifted = " (they are shifted inside)" if causal else ""
            raise ShapeError(
                f"labels must have the shape of input_ids{shifted}, "
                f"got {format_shape(tuple(labels.shape))} and {format_shape(tuple(input_ids.shape))}"
            )
        if causal and labels.shape[1] < 2:
            raise ShapeError("labels: a sequence of length 1 has no next token to predict; at least 2 are needed")
        check_targets("labels", labels, self.vocab_size, IGNORE_INDEX)
        if not causal:
            return labels
        xp = namespace(labels)
        targets = xp.full(labels.shape, IGNORE_INDEX, dtype=xp.int64)  # the last position predicts nothing
        targets[:, :-1] = labels[:, 1:]
        return targets

    def _prepare(
        self, input_ids: Any, labels: Any, attention_mask: Any, more: Mapping[str, Any]
    ) -> tuple[Inputs, Array | None]:
        """Checked arguments of :meth:`features`, and the targets."""
        unknown = [name for name in more if name not in self.extra_inputs]
        if unknown:
            known = ", ".join(("input_ids", "labels", "attention_mask", *self.extra_inputs))
            raise ConfigError(f"{self.model_type} takes no {unknown[0]!r}; it takes {known}")
        ids = self._input_ids(input_ids)
        targets = None if labels is None else self._targets(labels, ids)
        mask = None
        if attention_mask is not None:
            mask = (self._like_ids("attention_mask", attention_mask, ids) != 0)[:, None, None, :]  # (B, 1, 1, T)
        extra = {name: self._like_ids(name, value, ids) for name, value in more.items() if value is not None}
        return {"input_ids": ids, "mask": mask, **extra}, targets

    # -- forward and backward -------------------------------------------------------------------------

    def forward(
        self,
        input_ids: Any,
        labels: Any = None,
        attention_mask: Any = None,
        *,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        **more: Any,
    ) -> ModelOutput:
        """Logits, and with labels the loss.

        Parameters
        ----------
        input_ids : (B, T) integers in [0, V)
        labels : (B, T), -100 where nothing is counted. A causal model takes, as in Hugging Face, the ids
            themselves: they are shifted inside
        attention_mask : (B, T), 0 at padding
        output_hidden_states, output_attentions : give these too; see :class:`ModelOutput`
        more : what else this architecture takes, `extra_inputs`

        Raises
        ------
        ShapeError, DtypeError, RangeError
            For arrays that do not fit the model or each other.
        ConfigError
            For an argument that this architecture does not take.
        """
        inputs, targets = self._prepare(input_ids, labels, attention_mask, more)
        with self._collecting(output_hidden_states, output_attentions) as collected:
            x = self.features(**inputs)
        bias = self.head_bias
        logits = linear(x, self.head_weight.data, None if bias is None else bias.data)
        loss = value = None
        if targets is not None:
            smoothing = self.label_smoothing if self.training else 0.0
            loss = CrossEntropyLoss(ignore_index=IGNORE_INDEX, label_smoothing=smoothing)
            value = loss(logits, targets)
        self.save(x, loss)
        return ModelOutput(loss=value, logits=logits, **collected)

    def backward(self, dlogits: Array | None = None) -> None:
        """Accumulate all gradients: of the loss, or from `dlogits` (B, T, V) if the forward had no labels."""
        x, loss = self.saved()
        if dlogits is None and loss is None:
            raise ConfigError(f"{type(self).__name__}.backward: forward had no labels, so dlogits must be given")
        dlogits = loss.backward() if dlogits is None else dlogits
        bias = self.head_bias
        weight, dbias = self.head_weight, None if bias is None else bias.grad
        dx, *_ = linear_backward(dlogits, x, weight.data, bias is not None, weight.grad, dbias)
        self.features_backward(dx)

    @contextmanager
    def _collecting(self, hidden_states: bool, attentions: bool) -> Iterator[dict[str, Any]]:
        """Within, what :meth:`note_hidden` is told and the attention layers' weights are collected."""
        collected: dict[str, Any] = {}
        layers = [layer for layer in self.layers() if isinstance(layer, MultiHeadAttention)] if attentions else []
        self._hidden = [] if hidden_states else None
        for layer in layers:
            layer.keep_weights = True
        try:
            yield collected
            if hidden_states:
                collected["hidden_states"] = tuple(self._hidden or ())
            if attentions:
                collected["attentions"] = tuple(layer.last_weights for layer in layers)
        finally:
            self._hidden = None
            for layer in layers:
                layer.keep_weights, layer.last_weights = False, None

    def note_hidden(self, x: Array) -> None:
        """:meth:`features` tells each block's output here, in case somebody asked for hidden states."""
        if self._hidden is not None:
            self._hidden.append(x)
