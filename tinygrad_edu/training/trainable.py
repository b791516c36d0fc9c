"""What can be trained: batches, and models that give the loss of one together with its gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from ..backend import asarray, device_of, use
from ..errors import ConfigError, DataError
from ..layers.base import Layer


@dataclass(frozen=True)
class Batch:
    """A batch as arguments: what a loader gives as a tuple goes by position, what it gives as a mapping by name.

    Attributes
    ----------
    args : arguments by position
    named : arguments by name
    """

    args: tuple[Any, ...] = ()
    named: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, value: Any) -> Batch:
        """The batch that a loader's `value` is.

        Raises
        ------
        DataError
            If it is neither a tuple, a list nor a mapping with names.
        """
        if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
            return cls(named=dict(value))
        if isinstance(value, tuple | list):
            return cls(args=tuple(value))
        raise DataError(
            f"loader: a batch is a {type(value).__name__}, wanted a tuple such as (inputs, targets) or a mapping "
            "such as {'input_ids': ..., 'labels': ...}"
        )

    @property
    def first(self) -> Any:
        """Its first array, for its size."""
        return self.args[0] if self.args else next(iter(self.named.values()), None)


@runtime_checkable
class Trainable(Protocol):
    """A layer that brings its own loss. Every :class:`~tinygrad_edu.models.BaseLanguageModel` is one.

    Because a batch may be one of several that make a step together, the loss is a sum over targets, divided
    by a number that is given: the gradient is then that of all of them at once, however unequal they are.
    """

    def count_targets(self, *args: Any, **named: Any) -> Any:
        """What the loss of the batch is the mean over: a number of targets, or a sum of their weights."""

    def forward_backward(self, *args: Any, **named: Any) -> Any:
        """The loss of the batch, with all gradients accumulated.

        The keyword argument ``divisor`` is what the sum of losses is divided by, if not by
        :meth:`count_targets`.
        """


class LayerWithLoss:
    """Makes a layer and a loss :class:`Trainable`.

    A batch is ``(inputs, targets)``, or ``(first, second, ..., targets)`` for a layer of several inputs, or a
    mapping with ``targets`` (or ``labels``) among the arguments of the layer. Arrays of the host are taken
    to the layer's device.

    Parameters
    ----------
    layer : what is trained
    loss : ``forward(prediction, targets)`` and ``backward(dloss) -> dprediction``, with ``reduction="mean"`` or
        ``"sum"``. The mean is over what :func:`mean_over` says

    Raises
    ------
    ConfigError
        If the loss gives more than a number, or has parameters of its own.
    """

    unit = "examples"

    def __init__(self, layer: Layer, loss: Layer):
        name = type(loss).__name__
        if not isinstance(loss, Layer) or not hasattr(loss, "forward") or not hasattr(loss, "backward"):
            raise ConfigError(f"loss: must be a loss layer such as CrossEntropyLoss(), got {name}")
        if getattr(loss, "reduction", "mean") == "none":
            raise ConfigError(f"loss: {name} has reduction='none'; training wants one number: 'mean' or 'sum'")
        if next(loss.parameters(), None) is not None:
            raise ConfigError(
                f"loss: {name} has parameters, which would not be trained; put it into a layer of your own with "
                "count_targets and forward_backward"
            )
        self.layer, self.loss = layer, loss

    def _split(self, args: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any], Any]:
        """Inputs by position and by name, and targets, on the layer's device."""
        keys = [key for key in ("targets", "labels") if key in named]
        if len(keys) > 1 or (not keys and (named or len(args) < 2)):
            found = f"{len(args)} arrays" + (f" and {', '.join(named)}" if named else "")
            raise DataError(f"loader: a batch is (inputs, targets) or a mapping with 'targets', got {found}")
        with use(device_of(next(self.layer.parameters()).data)):
            inputs = {key: asarray(value) for key, value in named.items() if key not in keys}
            placed = [asarray(value) for value in args]
            targets = asarray(named[keys[0]]) if keys else placed.pop()
        return placed, inputs, targets

    def count_targets(self, *args: Any, **named: Any) -> float:
        """See :func:`mean_over`; 1 for a loss that is a sum."""
        _, _, targets = self._split(args, named)
        return mean_over(self.loss, targets)

    def predict(self, *args: Any, **named: Any) -> tuple[Any, Any]:
        """Prediction and targets of a batch."""
        inputs, others, targets = self._split(args, named)
        return self.layer(*inputs, **others), targets

    def forward_backward(self, *args: Any, divisor: float | None = None, **named: Any) -> float:
        """Loss of the batch, with the gradients of the layer's parameters accumulated."""
        self.layer.clear_saved()  # what an interrupted step may have left
        self.loss.clear_saved()
        prediction, targets = self.predict(*args, **named)
        share = 1.0 if divisor is None else mean_over(self.loss, targets) / divisor
        value = self.loss(prediction, targets)
        self.layer.backward(self.loss.backward(share))
        return float(value) * share


def mean_over(loss: Layer, targets: Any) -> float:
    """What ``loss(prediction, targets)`` is the mean over, so that means of batches can be put together.

    What the loss itself says, if it has a method ``mean_over(targets)``: of cross-entropy the targets that count, of
    the mean squared error the elements, each or the sum of their weights. Of any other mean the examples, the first
    axis. A sum has 1.

    A loss in which examples meet (contrastive ones) is no mean over them: of such, accumulated batches are as
    good as their mean, but not equal to one large batch.
    """
    if getattr(loss, "reduction", "mean") == "sum":
        return 1.0
    own = getattr(loss, "mean_over", None)
    return float(len(targets)) if own is None else float(own(targets))


def as_trainable(model: Any, loss: Layer | None = None) -> Trainable:
    """What trains `model`: itself if it brings its own loss, else together with `loss`.

    Raises
    ------
    ConfigError
        If `model` is no layer, or a loss is missing or too much.
    """
    if not isinstance(model, Layer):
        raise ConfigError(f"model: must be a layer or a language model, got {type(model).__name__}")
    name = type(model).__name__
    if isinstance(model, Trainable):
        if loss is not None:
            raise ConfigError(f"loss: {name} brings its own; leave it out")
        return model
    if loss is None:
        raise ConfigError(
            f"loss: {name} brings none of its own (no count_targets and forward_backward); "
            "give one, such as loss=CrossEntropyLoss()"
        )
    if next(model.parameters(), None) is None:
        raise ConfigError(f"model: {name} has no parameters to train")
    return LayerWithLoss(model, loss)


def unit_of(trainable: Trainable) -> str:
    """What is counted of a batch: ``"tokens"`` of a language model, ``"examples"`` of others."""
    default = "tokens" if hasattr(trainable, "vocab_size") else "examples"
    return str(getattr(trainable, "unit", default))


def size_of(batch: Batch, unit: str) -> int:
    """How many tokens (without padding, where an attention mask tells it) or examples a batch has."""
    mask = batch.named.get("attention_mask")
    if unit == "tokens" and mask is not None:
        return int((mask != 0).sum()) if hasattr(mask, "shape") else int((asarray(mask) != 0).sum())
    first = batch.named.get("input_ids", batch.first)
    first = first if hasattr(first, "shape") else asarray(first)
    return int(first.size) if unit == "tokens" else len(first)
