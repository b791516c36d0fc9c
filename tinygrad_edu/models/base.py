"""The interface that all language models share."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ..backend import Array, asarray, device_of, namespace, to_host
from ..errors import ConfigError, NonFiniteError
from ..layers import Embedding
from ..losses import linear_cross_entropy, linear_cross_entropy_grad
from ..optim import AdamW, Optimizer, clip_factor, grad_norm
from .core import IGNORE_INDEX
from .generation import GeneratingModel
from .output import ModelOutput

if TYPE_CHECKING:
    from .footprint import MemoryFootprint

__all__ = ["IGNORE_INDEX", "BaseLanguageModel", "ModelOutput"]

_MOST_SCORED = 0.75  # share of scored positions above which picking them out costs more than it saves


class BaseLanguageModel(GeneratingModel):
    """A language model: token ids in, logits and loss out.

    An architecture brings its config class, ``features``, :meth:`features_backward`, the head's weights and
    :meth:`get_input_embeddings`; and, if it generates, :meth:`new_caches`. Loss, training, evaluation and
    generation are the same for all. The guide "Adding an architecture" walks through it.

    Attributes
    ----------
    config : of the architecture
    vocab_size, max_seq_len : limits of the ids and of the length
    clip_norm : gradients are scaled to this joint norm in :meth:`train_step`; None for no clipping
    label_smoothing : part of the target that training gives to all classes alike
    optimizer : what :meth:`train_step` updates with; AdamW if none was set
    """

    def __init__(self) -> None:
        super().__init__()
        self.clip_norm: float | None = 1.0
        self.optimizer: Optimizer | None = None

    # -- training -------------------------------------------------------------------------------------

    def count_targets(self, input_ids: Any, labels: Any = None, attention_mask: Any = None, **_more: Any) -> int:
        """How many tokens the loss of a batch is the mean of; the arguments as :meth:`forward_backward` takes them."""
        labels = self._labels(input_ids, labels, attention_mask)
        labels = labels if hasattr(labels, "shape") else asarray(labels)
        scored = labels[:, 1:] if self.objective == "causal_lm" else labels
        return int((scored != IGNORE_INDEX).sum())

    def forward_backward(
        self, input_ids: Any, labels: Any = None, attention_mask: Any = None, *, divisor: int | None = None, **more: Any
    ) -> float:
        """Loss of a batch, with its gradients accumulated; never holds the (B, T, V) logits.

        Parameters
        ----------
        labels : as in :meth:`forward`; of a causal model the ids themselves if None, but for padding
        divisor : what the sum of the losses is divided by, if not by the number of targets: where a batch is
            worked off in parts, the number of targets of all parts together

        Raises
        ------
        ConfigError
            If every label is -100: such a step would learn nothing.
        """
        self.clear_saved()  # what an interrupted step may have left
        inputs, targets = self._prepare(
            input_ids, self._labels(input_ids, labels, attention_mask), attention_mask, more
        )
        assert targets is not None, "labels were given, so _prepare gave targets"
        count = int((targets != IGNORE_INDEX).sum())
        if count == 0 and divisor is None:
            raise ConfigError("labels: every label of the batch is -100, so there is nothing to learn from")
        x = self.features(**inputs)
        rows, flat_targets = x.reshape(-1, x.shape[-1]), targets.reshape(-1)
        scored = _scored(flat_targets, count)
        if scored is not None:
            rows, flat_targets = rows[scored], flat_targets[scored]
        weight, bias = self.head_weight, self.head_bias
        divisor = count if divisor is None else divisor
        losses, drows = linear_cross_entropy_grad(
            rows,
            weight.data,
            None if bias is None else bias.data,
            flat_targets,
            namespace(x).full(len(rows), 1 / divisor, dtype=x.dtype),
            weight.grad,
            None if bias is None else bias.grad,
            IGNORE_INDEX,
            self.label_smoothing if self.training else 0.0,
        )
        dx = drows if scored is None else _in_place(drows, scored, x.reshape(-1, x.shape[-1]))
        self.features_backward(dx.reshape(x.shape))
        return float(losses.sum()) / divisor

    def _labels(self, input_ids: Any, labels: Any, attention_mask: Any) -> Any:
        """The labels given; of a causal model without any the ids themselves, but for padding."""
        if labels is not None:
            return labels
        if self.objective != "causal_lm":
            raise ConfigError(f"labels: {self.model_type} learns {self.objective} and needs labels")
        if attention_mask is None:
            return input_ids
        ids = self._ids("input_ids", input_ids)
        mask = self._like_ids("attention_mask", attention_mask, ids)
        return namespace(ids).where(mask != 0, ids, IGNORE_INDEX)

    def train_step(
        self,
        input_ids: Any,
        labels: Any = None,
        learning_rate: float | None = None,
        *,
        attention_mask: Any = None,
        **more: Any,
    ) -> dict[str, float]:
        """One step: forward, loss, backward, clipping, update.

        Clipping is a factor in the update: each parameter's ``grad`` is afterwards as the backward pass left it.

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
        carried = self.carried_state()
        try:
            loss = self.forward_backward(input_ids, labels, attention_mask, **more)
            if not math.isfinite(loss):
                raise NonFiniteError(f"the loss is {loss}; the weights were not updated")
            norm = grad_norm(self)
        except NonFiniteError:
            self.load_carried_state(carried)  # that of the broken step would break the next one
            raise
        self.optimizer.step(learning_rate, grad_scale=clip_factor(norm, self.clip_norm))
        return {"loss": loss, "grad_norm": norm, "learning_rate": self.optimizer.lr}

    def token_losses(
        self, input_ids: Any, labels: Any = None, attention_mask: Any = None, **more: Any
    ) -> tuple[Any, Any]:
        """Loss in nats of each predicted token, and whether the likeliest token was right; for evaluation.

        Returns
        -------
        losses : (B, T - 1) of a causal model, (B, T) of others; 0 where the label is -100
        correct : of the same shape, bool, False where the label is -100
            Both on the host.
        """
        bias = self.head_bias
        with self.evaluating():  # also while preparing: a model that carries its state reads other batches in training
            inputs, targets = self._prepare(
                input_ids, self._labels(input_ids, labels, attention_mask), attention_mask, more
            )
            assert targets is not None, "labels were given, so _prepare gave targets"
            x = self.features(**inputs)
            rows, flat_targets = x.reshape(-1, x.shape[-1]), targets.reshape(-1)
            scored = _scored(flat_targets, int((flat_targets != IGNORE_INDEX).sum()))
            losses, predicted = linear_cross_entropy(
                rows if scored is None else rows[scored],
                self.head_weight.data,
                None if bias is None else bias.data,
                flat_targets if scored is None else flat_targets[scored],
                IGNORE_INDEX,
                0.0,
            )
            if scored is not None:
                losses, predicted = _in_place(losses, scored, rows), _in_place(predicted, scored, rows)
        losses, correct = to_host(losses.reshape(targets.shape)), to_host(predicted.reshape(targets.shape) == targets)
        last = -1 if self.objective == "causal_lm" else None
        return losses[:, :last], correct[:, :last]

    # -- state that is no parameter -------------------------------------------------------------------

    def carried_state(self) -> dict[str, Array]:
        """Arrays that go from one training batch to the next, and into checkpoints; none for most models."""
        return {}

    def load_carried_state(self, state: Mapping[str, Array]) -> None:
        """Go on from what :meth:`carried_state` gave."""

    # -- the vocabulary -------------------------------------------------------------------------------

    def resize_token_embeddings(self, vocab_size: int) -> Embedding:
        """Make room for more token ids, or for fewer.

        Rows of ids that stay are kept; new ones are drawn as at the start. The head follows, tied or not,
        and so does the state of the optimizer, in which new rows begin at zero.

        Parameters
        ----------
        vocab_size : ids are in [0, vocab_size) from now on

        Returns
        -------
        The input embeddings.

        Raises
        ------
        ConfigError
        """
        from .resize import resize

        return resize(self, vocab_size)

    # -- on disk --------------------------------------------------------------------------------------

    def save_checkpoint(self, path: str | os.PathLike[str]) -> Path:
        """Save weights, optimizer, generators and config as a checkpoint inside the folder `path`, atomically.

        Returns
        -------
        The folder of this checkpoint.

        Raises
        ------
        CheckpointError
            If it cannot be written; what was there before is untouched.
        """
        from .persistence import save_model

        return save_model(self, path, self.config.get())

    @classmethod
    def load_checkpoint(cls, path: str | os.PathLike[str]) -> Self:
        """The model that :meth:`save_checkpoint` saved, ready to go on training exactly where it was.

        Raises
        ------
        CheckpointError
            If nothing intact of this kind is there.
        """
        from .persistence import load_model

        return load_model(cls, path)

    def save_pretrained(
        self,
        path: str | os.PathLike[str],
        max_shard_size: int | str = "5GB",
        tokenizer: Any = None,
        overwrite: bool = False,
    ) -> Path:
        """Write config and weights to a folder, in Hugging Face's layout, all or nothing.

        GPT-2 and BERT are written as ``transformers`` writes them, and loads them back unchanged; other architectures
        by our own names. For optimizer and generators see :meth:`save_checkpoint`.

        Parameters
        ----------
        path : the folder, which must be empty or not there
        max_shard_size : bytes of weights in one file, as a number or as text such as ``"200MB"``; with more than that
            there are several files, and an index
        tokenizer : with a method ``save(folder)``, as those of :mod:`tinygrad_edu.data` have; saved beside the weights
        overwrite : replace an earlier model in the folder

        Returns
        -------
        The folder.

        Raises
        ------
        CheckpointError
            If it cannot be written, is a link, or holds something else. What was there is untouched then.
        ConfigError
            For a size that is none.
        """
        from .pretrained import save_pretrained

        return save_pretrained(self, path, max_shard_size, tokenizer, overwrite)

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike[str], *, new_head: bool = False, **overrides: Any) -> Self:
        """A model of this class from a folder of Hugging Face's layout, or from the hub.

        See :func:`tinygrad_edu.models.from_pretrained` for the arguments and errors.
        """
        from .pretrained import load_pretrained

        wanted = None if cls is BaseLanguageModel else cls
        model: Any = load_pretrained(wanted, name_or_path, new_head, overrides)
        return model

    # -- facts ----------------------------------------------------------------------------------------

    def get_parameter_count(self) -> int:
        """How many numbers are learned; a shared one counts once."""
        return self.num_parameters()

    count_parameters = get_parameter_count

    def get_memory_footprint(
        self, batch_size: int, seq_len: int, optimizer: str | Optimizer | None = "adamw"
    ) -> MemoryFootprint:
        """The memory that a training step will take, foretold without taking it.

        A model that is only outlined can be asked as well; see :func:`tinygrad_edu.backend.outline`. Counted are
        arrays: the interpreter, its libraries and compiled code come on top.

        Parameters
        ----------
        batch_size, seq_len : of the input ids; of a translation, of the target too
        optimizer : adamw, adam, sgd, an optimizer, or None

        Returns
        -------
        Bytes of parameters, gradients, optimizer and activations, and their total.

        Raises
        ------
        ConfigError
            For a size below 1, a sequence longer than the model can read, or an optimizer that is unknown.

        Examples
        --------
        >>> from tinygrad_edu.backend import outline
        >>> with outline():
        ...     model = create_model({"architecture": "gpt2"})
        >>> print(model.get_memory_footprint(batch_size=4, seq_len=64))
        """
        from .footprint import memory_footprint

        return memory_footprint(self, batch_size, seq_len, optimizer)

    def get_model_info(self) -> dict[str, Any]:
        """Plain facts: kind, parameters, sizes, device, dtype, memory of weights in bytes, config."""
        first = next(self.parameters()).data
        return {
            "model_type": self.model_type,
            "objective": self.objective,
            "parameters": self.num_parameters(),
            "vocab_size": self.vocab_size,
            "max_seq_len": self.max_seq_len,
            "device": device_of(first),
            "dtype": str(first.dtype),
            "weight_bytes": self.num_parameters() * first.dtype.itemsize,
            "supports_generation": self.supports_generation,
            "config": self.config.get(),
        }


def _scored(targets: Array, count: int) -> Array | None:
    """Places of the `count` targets that are scored, if they are few; else None.

    Of a masked batch some 15% are: the head, the costliest product, need not see the other positions.
    """
    return namespace(targets).nonzero(targets != IGNORE_INDEX)[0] if count < _MOST_SCORED * len(targets) else None


def _in_place(values: Array, places: Array, like: Array) -> Array:
    """`values` at their `places`, and zeros elsewhere, as many as `like` has rows."""
    whole = namespace(values).zeros((len(like), *values.shape[1:]), dtype=values.dtype)
    whole[places] = values
    return whole
