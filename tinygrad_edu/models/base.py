"""The interface that all language models share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

from ..backend import Array, asarray, device_of, inference, namespace, to_device, to_host, use
from ..errors import ConfigError, DtypeError, NonFiniteError, ShapeError, format_shape
from ..layers import KeyValueCache
from ..layers.base import Layer
from ..layers.embedding import check_ids
from ..losses import check_targets
from ..optim import AdamW, Optimizer, clip_grad_norm_
from .generation import check_sampling, choose_next

IGNORE_INDEX = -100


@dataclass
class ModelOutput:
    """What ``forward`` gives, readable as attribute, as key (``out["loss"]``) and in order.

    Attributes
    ----------
    loss : mean cross-entropy over the predicted tokens, in nats; None without labels
    logits : (B, T, V)
    hidden_states, attentions : where the architecture gives them
    """

    loss: Any = None
    logits: Array | None = None
    hidden_states: Any = None
    attentions: Any = None

    def _items(self) -> list[tuple[str, Any]]:
        return [(f.name, getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) is not None]

    def __getitem__(self, key: str | int) -> Any:
        if isinstance(key, int):
            return self._items()[key][1]
        if key not in {f.name for f in fields(self)}:
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[Any]:
        return (value for _, value in self._items())

    def __contains__(self, key: object) -> bool:
        return any(name == key for name, _ in self._items())

    def keys(self) -> list[str]:
        """Names of what is there."""
        return [name for name, _ in self._items()]


class BaseLanguageModel(Layer):
    """A language model: token ids in, logits and loss out.

    A subclass defines :meth:`logits`, :meth:`logits_backward`, :meth:`loss_and_gradients`,
    :meth:`score_tokens`, and for generation :meth:`new_caches` and :meth:`next_logits`.

    Attributes
    ----------
    vocab_size, max_seq_len : limits of the ids and of the length
    clip_norm : gradients are scaled to this joint norm in :meth:`train_step`; None for no clipping
    optimizer : what :meth:`train_step` updates with; AdamW if none was set
    """

    model_type = "base"
    supports_generation = False
    vocab_size: int
    max_seq_len: int

    def __init__(self) -> None:
        super().__init__()
        self.clip_norm: float | None = 1.0
        self.optimizer: Optimizer | None = None

    # -- what an architecture brings ------------------------------------------------------------------

    def logits(self, input_ids: Array, mask: Array | None) -> Array:
        """(B, T) ids -> (B, T, V), saving what :meth:`logits_backward` needs."""
        raise AssertionError(f"{type(self).__name__} must define logits")

    def logits_backward(self, dlogits: Array) -> None:
        """Accumulate all gradients from that of the logits."""
        raise AssertionError(f"{type(self).__name__} must define logits_backward")

    def loss_and_gradients(self, input_ids: Array, targets: Array, count: int, mask: Array | None) -> float:
        """Mean loss over the `count` targets that are not -100, gradients accumulated; logits never held."""
        raise AssertionError(f"{type(self).__name__} must define loss_and_gradients")

    def score_tokens(self, input_ids: Array, targets: Array, mask: Array | None) -> tuple[Array, Array]:
        """Loss of each target, and the token predicted in its place, both (B, T); logits never held."""
        raise AssertionError(f"{type(self).__name__} must define score_tokens")

    def new_caches(self, length: int) -> list[KeyValueCache]:
        """Empty caches with room for `length` positions."""
        raise AssertionError(f"{type(self).__name__} must define new_caches")

    def next_logits(self, input_ids: Array, caches: list[KeyValueCache] | None) -> Array:
        """Logits after the last of `input_ids`, (B, V); with caches, only ids that they have not seen."""
        raise AssertionError(f"{type(self).__name__} must define next_logits")

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

    def _batch(self, input_ids: Any, labels: Any, attention_mask: Any) -> tuple[Array, Array | None, Array | None]:
        """Checked ids; targets, that is labels shifted by one; and the attention mask as booleans."""
        input_ids = self._ids("input_ids", input_ids)
        batch, time = input_ids.shape
        if batch == 0 or time == 0:
            raise ShapeError(f"input_ids: the batch is empty, got {format_shape((batch, time))}")
        if time > self.max_seq_len:
            raise ShapeError(f"input_ids: sequence of length {time} is longer than max_seq_len {self.max_seq_len}")
        check_ids("input_ids", input_ids, self.vocab_size)
        targets = mask = None
        if labels is not None:
            labels = self._ids("labels", labels)
            if labels.shape != input_ids.shape:
                raise ShapeError(
                    "labels must have the shape of input_ids (they are shifted inside), "
                    f"got {format_shape(tuple(labels.shape))} and {format_shape((batch, time))}"
                )
            if time < 2:
                raise ShapeError("labels: a sequence of length 1 has no next token to predict; at least 2 are needed")
            check_targets("labels", labels, self.vocab_size, IGNORE_INDEX)
            xp = namespace(input_ids)
            targets = xp.full((batch, time), IGNORE_INDEX, dtype=xp.int64)  # the last position predicts nothing
            targets[:, :-1] = labels[:, 1:]
        if attention_mask is not None:
            with use(device_of(input_ids)):
                mask = asarray(attention_mask)
            if tuple(mask.shape) != (batch, time):
                raise ShapeError(
                    f"attention_mask must have the shape of input_ids, {format_shape((batch, time))}, "
                    f"got {format_shape(tuple(mask.shape))}"
                )
            mask = (mask != 0)[:, None, None, :]  # (B, 1, 1, T)
        return input_ids, targets, mask

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """``eval()`` and ``inference()`` for a while; each layer then has the mode again that it had before."""
        before = [(layer, layer.training) for layer in self.layers()]
        self.eval()
        try:
            with inference():
                yield
        finally:
            for layer, training in before:
                layer.training = training

    # -- training -------------------------------------------------------------------------------------

    def forward(self, input_ids: Any, labels: Any = None, attention_mask: Any = None) -> ModelOutput:
        """Logits, and with labels the loss.

        Parameters
        ----------
        input_ids : (B, T) integers in [0, V)
        labels : (B, T), as in Hugging Face the same ids: they are shifted inside, and -100 is not counted
        attention_mask : (B, T), 0 at padding

        Raises
        ------
        ShapeError, DtypeError, RangeError
        """
        input_ids, targets, mask = self._batch(input_ids, labels, attention_mask)
        logits = self.logits(input_ids, mask)
        if targets is None:
            self.save(logits, None)
            return ModelOutput(logits=logits)
        from ..losses import CrossEntropyLoss

        loss = CrossEntropyLoss(ignore_index=IGNORE_INDEX)
        value = loss(logits, targets)
        self.save(logits, loss)
        return ModelOutput(loss=value, logits=logits)

    def backward(self, dlogits: Array | None = None) -> None:
        """Accumulate all gradients: of the loss, or from `dlogits` (B, T, V) if the forward had no labels."""
        _, loss = self.saved()
        if dlogits is None and loss is None:
            raise ConfigError(f"{type(self).__name__}.backward: forward had no labels, so dlogits must be given")
        self.logits_backward(loss.backward() if dlogits is None else dlogits)

    def forward_backward(self, input_ids: Any, labels: Any = None, attention_mask: Any = None) -> float:
        """Loss of a batch, with its gradients accumulated; never holds the (B, T, V) logits.

        Parameters
        ----------
        labels : as in :meth:`forward`; the ids themselves if None

        Raises
        ------
        ConfigError
            If every label is -100: such a step would learn nothing.
        """
        self.clear_saved()  # what an interrupted step may have left
        labels = input_ids if labels is None else labels
        input_ids, targets, mask = self._batch(input_ids, labels, attention_mask)
        assert targets is not None, "labels were given, so _batch gave targets"
        count = int((targets != IGNORE_INDEX).sum())
        if count == 0:
            raise ConfigError("labels: every label of the batch is -100, so there is nothing to learn from")
        return self.loss_and_gradients(input_ids, targets, count, mask)

    def train_step(self, input_ids: Any, labels: Any = None, learning_rate: float | None = None) -> dict[str, float]:
        """One step: forward, loss, backward, clipping, update.

        Returns
        -------
        ``{"loss", "grad_norm", "learning_rate"}``: the loss before the update, the norm before clipping

        Raises
        ------
        NonFiniteError
            If the loss or a gradient is not finite; the weights are then as they were.
        """
        if self.optimizer is None:
            self.optimizer = AdamW(self)
        self.train()
        self.zero_grad()
        loss = self.forward_backward(input_ids, labels)
        if not math.isfinite(loss):
            raise NonFiniteError(f"the loss is {loss}; the weights were not updated")
        norm = clip_grad_norm_(self, self.clip_norm if self.clip_norm is not None else math.inf)
        self.optimizer.step(learning_rate)
        return {"loss": loss, "grad_norm": norm, "learning_rate": self.optimizer.lr}

    def token_losses(self, input_ids: Any, labels: Any = None, attention_mask: Any = None) -> tuple[Any, Any]:
        """Loss in nats of each predicted token, and whether the likeliest token was right; for evaluation.

        Returns
        -------
        losses : (B, T - 1), 0 where the label is -100
        correct : (B, T - 1), bool, False where the label is -100
            Both on the host.
        """
        labels = input_ids if labels is None else labels
        input_ids, targets, mask = self._batch(input_ids, labels, attention_mask)
        with self.evaluating():
            losses, predicted = self.score_tokens(input_ids, targets, mask)
        return to_host(losses)[:, :-1], to_host(predicted == targets)[:, :-1]

    # -- generation -----------------------------------------------------------------------------------

    def generate(
        self,
        input_ids: Any,
        max_length: int | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        eos_token_id: int | None = None,
        *,
        max_new_tokens: int | None = None,
        do_sample: bool = True,
        seed: int | None = None,
        use_cache: bool = True,
    ) -> Array:
        """Continue each sequence, token by token.

        Parameters
        ----------
        input_ids : (B, T) or (T,), the prompts
        max_length : length to reach, counting the prompt; or give
        max_new_tokens : tokens to add
        temperature : logits are divided by it; 0 takes the likeliest token (greedy)
        top_k : draw from the k likeliest only
        top_p : draw from the fewest tokens that together have this probability (Holtzman et al., 2020)
        eos_token_id : a sequence that reached it is done, and filled up with it
        do_sample : False takes the likeliest token
        seed : of the draws; None draws one
        use_cache : keep keys and values of earlier positions instead of computing them again

        Returns
        -------
        ids on the model's device, int64, prompt included: (B, L) or (L,), L <= the length asked for

        Raises
        ------
        ConfigError, ShapeError, DtypeError, RangeError
            Before anything is computed.
        NonFiniteError
            If the logits of a token are NaN or infinite, as weights from broken training give.
        """
        if not self.supports_generation:
            raise ConfigError(f"{self.model_type} predicts no next token and cannot generate")
        ids = asarray_1d_or_2d(input_ids)
        if ids.size == 0:
            raise ShapeError(f"generate: the prompt is empty, got {format_shape(tuple(ids.shape))}")
        single = ids.ndim == 1
        ids = self._ids("input_ids", ids[None] if single else ids)
        check_ids("input_ids", ids, self.vocab_size)
        length = self._generation_length(ids.shape[1], max_length, max_new_tokens)
        check_sampling(temperature, top_k, top_p, eos_token_id, self.vocab_size)
        greedy = temperature == 0 or not do_sample
        with self.evaluating():
            out = self._generate(ids, length, greedy, temperature, top_k, top_p, eos_token_id, seed, use_cache)
        return out[0] if single else out

    def _generation_length(self, prompt: int, max_length: int | None, max_new_tokens: int | None) -> int:
        if (max_length is None) == (max_new_tokens is None):
            raise ConfigError("generate: give either max_length (counting the prompt) or max_new_tokens")
        for name, value in (("max_length", max_length), ("max_new_tokens", max_new_tokens)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
                raise ConfigError(f"generate: {name} must be an integer >= 0, got {value!r}")
        length = max_length if max_length is not None else prompt + max_new_tokens  # type: ignore[operator]
        if length < prompt:
            raise ConfigError(f"generate: max_length {length} is shorter than the prompt of {prompt} tokens")
        if length > self.max_seq_len:
            raise ShapeError(f"generate: length {length} is beyond max_seq_len {self.max_seq_len}")
        return length

    def _generate(
        self,
        ids: Array,
        length: int,
        greedy: bool,
        temperature: float,
        top_k: int | None,
        top_p: float | None,
        eos_token_id: int | None,
        seed: int | None,
        use_cache: bool,
    ) -> Array:
        from ..backend import Generator

        xp = namespace(ids)
        generator = Generator(seed)
        batch, start = ids.shape
        out = xp.zeros((batch, length), dtype=xp.int64)
        out[:, :start] = ids
        caches = self.new_caches(length) if use_cache else None
        done = [False] * batch
        for end in range(start, length):
            seen = 0 if caches is None or end == start else end - 1
            logits = to_host(self.next_logits(out[:, seen:end], caches))
            chosen = choose_next(logits, greedy, temperature, top_k, top_p, generator)
            if eos_token_id is not None:
                chosen[done] = eos_token_id
                done = [before or token == eos_token_id for before, token in zip(done, chosen, strict=True)]
            out[:, end] = to_device(chosen, device_of(out))
            if eos_token_id is not None and all(done):
                return out[:, : end + 1]
        return out

    # -- facts ----------------------------------------------------------------------------------------

    def count_parameters(self) -> int:
        """How many numbers are learned."""
        return self.num_parameters()

    def get_model_info(self) -> dict[str, Any]:
        """Plain facts: kind, parameters, sizes, device, dtype, memory of weights in bytes."""
        first = next(self.parameters()).data
        return {
            "model_type": self.model_type,
            "parameters": self.num_parameters(),
            "vocab_size": self.vocab_size,
            "max_seq_len": self.max_seq_len,
            "device": device_of(first),
            "dtype": str(first.dtype),
            "weight_bytes": self.num_parameters() * first.dtype.itemsize,
            "supports_generation": self.supports_generation,
        }


def asarray_1d_or_2d(ids: Any) -> Array:
    """`ids`, given as an array or as lists, as an array of one or two axes."""
    try:
        ids = ids if hasattr(ids, "ndim") else asarray(ids)
    except ValueError:
        raise ShapeError("input_ids: the sequences of a batch must have one length") from None
    if ids.ndim not in (1, 2):
        raise ShapeError(f"input_ids: expected (batch, time) or (time,), got {format_shape(tuple(ids.shape))}")
    return ids
