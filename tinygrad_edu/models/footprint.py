"""The memory that a training step will take, foretold from shapes: nothing is run, and an outline is enough.

Three parts are plain sums: weights, gradients, and what the optimizer keeps. The fourth, activations, is what the
forward pass keeps for the backward pass, and what is at work beside it at the worst moment. The layers are walked in
the order of the forward pass; each keeps something, and its backward makes something while what the layers before it
kept is still there. The worst moment is one of those, or the head, whose logits are made a chunk of rows at a time.

The rules count arrays as the compiled kernels and the layers make them today. Tests hold them to what is measured; who
changes what a layer keeps changes its rule here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..backend import kernels_enabled
from ..errors import ConfigError, did_you_mean
from ..layers import (
    GELU,
    GRU,
    LSTM,
    RNN,
    Embedding,
    LayerNorm,
    Linear,
    MultiHeadAttention,
    ReLU,
    Sigmoid,
    SiLU,
    Tanh,
    TransformerBlock,
    TransformerDecoder,
    TransformerDecoderBlock,
    TransformerStack,
)
from ..layers.attention_ops import attention
from ..layers.base import Layer
from ..optim import Optimizer

if TYPE_CHECKING:
    from .base import BaseLanguageModel

_ALIGN = 64  # bytes, of a parameter in the flat buffers
_CHUNK = 64 * 2**20  # bytes of logits at a time
_WHOLE = 512  # from this length on the textbook's attention goes by blocks, and never holds the T x T weights
_OPTIMIZERS = {"adamw": 2, "adam": 2, "sgd": 0}  # arrays kept for each weight, with the optimizer's defaults


@dataclass(frozen=True)
class MemoryFootprint:
    """Memory of a training step, in bytes.

    Attributes
    ----------
    parameters, gradients : the weights, and as much again
    optimizer : what it keeps from step to step
    activations : what a step holds besides, at its worst moment
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.parameters + self.gradients + self.optimizer + self.activations

    def as_dict(self) -> dict[str, int]:
        """Plain data, the total with it."""
        return {**asdict(self), "total": self.total}

    def __str__(self) -> str:
        return ", ".join(f"{name} {size / 2**20:,.1f} MiB" for name, size in self.as_dict().items())


def memory_footprint(
    model: BaseLanguageModel, batch_size: int, seq_len: int, optimizer: str | Optimizer | None = "adamw"
) -> MemoryFootprint:
    """See :meth:`BaseLanguageModel.get_memory_footprint`."""
    for name, value in (("batch_size", batch_size), ("seq_len", seq_len)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"get_memory_footprint: {name} must be an integer >= 1, got {value!r}")
    if seq_len > model.max_seq_len:
        raise ConfigError(f"get_memory_footprint: seq_len {seq_len} is longer than max_seq_len {model.max_seq_len}")
    item = next(model.parameters()).dtype.itemsize
    step = _ALIGN // item
    weights = sum(-(-parameter.size // step) * step for parameter in model.parameters()) * item
    activations = item * _Walk(model, batch_size, seq_len, item).worst()
    return MemoryFootprint(weights, weights, _kept_by(optimizer) * weights, activations)


def _kept_by(optimizer: str | Optimizer | None) -> int:
    if optimizer is None:
        return 0
    if isinstance(optimizer, Optimizer):
        return len(optimizer.state_names)
    if optimizer not in _OPTIMIZERS:
        raise ConfigError(
            f"get_memory_footprint: optimizer must be one of {', '.join(_OPTIMIZERS)}, an optimizer, or None, "
            f"got {optimizer!r}.{did_you_mean(str(optimizer), _OPTIMIZERS)}"
        )
    return _OPTIMIZERS[optimizer]


@dataclass(frozen=True)
class _Stage:
    """One layer, in numbers of elements.

    Attributes
    ----------
    kept : what its forward keeps
    work : what is at work in its backward, while that is still there
    """

    kept: int
    work: int


def _peak(stages: list[_Stage]) -> int:
    """The most that is held at once while the backward pass goes from the last stage to the first."""
    held = worst = 0
    for stage in stages:
        held += stage.kept
        worst = max(worst, held + stage.work)
    return worst


class _Walk:
    """The stages of a model, for a batch of a size.

    Attributes
    ----------
    rows : tokens of the batch, R; `width` is that of the last layer that had one, C
    waiting : gradients that layers outside of blocks gave, which whoever called them still holds
    fused : whether kernels do the work, and not the textbook, whose formulas make more arrays on their way
    """

    def __init__(self, model: BaseLanguageModel, batch: int, time: int, item: int):
        self.model, self.batch, self.time, self.item = model, batch, time, item
        self.rows, self.width = batch * time, model.get_input_embeddings().embedding_dim
        self.waiting, self.memory_counted = 0, False
        self.fused = kernels_enabled() and attention.kernel_for("cpu", str(next(model.parameters()).dtype)) is not None

    def worst(self) -> int:
        """The most elements that a step holds besides weights, gradients and optimizer."""
        stages = list(self.stages(self.model))
        vocab, width = self.model.head_weight.shape
        chunk = max(64, _CHUNK // (self.item * vocab) // 64 * 64)
        logits = min(self.rows, chunk) * vocab * (1 if self.fused else 4)
        around = 2 * self.rows * width  # what the head read, and its gradient, are held until the step is done
        return around + max(sum(stage.kept for stage in stages) + logits, self.waiting + _peak(stages))

    def stages(self, layer: Layer) -> Iterator[_Stage]:
        """Of a layer and those below it, in the order of the forward pass, which is that of their registration."""
        for kind, rule in self.rules().items():
            if isinstance(layer, kind):
                yield from rule(layer)
                return
        for child in layer._children.values():
            yield from self.stages(child)

    def rules(self) -> dict[Any, Callable[[Any], Iterator[_Stage]]]:
        """What is known of each kind of layer; one that stands not here is what its children are."""
        return {
            TransformerStack: self.stack,
            TransformerBlock: self.block,
            TransformerDecoder: self.decoder,
            TransformerDecoderBlock: self.decoder_block,
            MultiHeadAttention: self.attention,
            (LSTM, GRU, RNN): self.recurrent,
            Embedding: self.embedding,
            LayerNorm: self.norm,
            (Linear, GELU, ReLU, SiLU, Tanh, Sigmoid): self.outside,
        }

    # -- single layers --------------------------------------------------------------------------------

    def embedding(self, layer: Embedding) -> Iterator[_Stage]:
        self.width = layer.embedding_dim
        yield _Stage(0, 0)

    def norm(self, layer: LayerNorm) -> Iterator[_Stage]:
        size = self.rows * layer.dim
        yield _Stage(size + 2 * self.rows, 2 * size if self.fused else 5 * size)

    def outside(self, layer: Layer) -> Iterator[_Stage]:
        """A layer that stands for itself."""
        if isinstance(layer, Linear):
            if layer.weight is self.model.head_weight:
                return  # the head is counted by itself
            yield from self.linear(layer, 0)
            self.waiting += self.rows * layer.in_features
        else:
            yield from self.activation(layer)
            self.waiting += self.rows * self.width

    def linear(self, layer: Linear, beside: int) -> Iterator[_Stage]:
        self.width = layer.out_features
        x, y = self.rows * layer.in_features, self.rows * layer.out_features
        product = 0 if self.fused else layer.weight.size  # BLAS adds to the gradient where it stands
        yield _Stage(x, y + x + product + beside)

    def activation(self, layer: Layer) -> Iterator[_Stage]:
        size = self.rows * self.width
        yield _Stage(size, (2 if self.fused else 8) * size)

    def attention(self, layer: MultiHeadAttention, memory: bool = False, beside: int = 0) -> Iterator[_Stage]:
        """Kept are what was read, q, k, v, the result, and one number a row; the result is what out_proj keeps."""
        width, size = layer.embed_dim, self.rows * layer.embed_dim
        kept = (5 if layer.rotary is None else 7) * size + self.rows * layer.num_heads
        if memory and not self.memory_counted:  # all blocks read one memory
            kept, self.memory_counted = kept + size, True
        work = 5 * size
        if not self.fused:
            work += 3 * width * width + 5 * self.batch * layer.num_heads * min(self.time, _WHOLE) ** 2
        yield _Stage(kept, work + beside)

    # -- transformers ---------------------------------------------------------------------------------

    def stack(self, layer: TransformerStack) -> Iterator[_Stage]:
        for block in layer:
            stages = list(self.block(block))
            yield from self._again(stages) if layer.checkpointing else stages

    def _again(self, stages: list[_Stage]) -> list[_Stage]:
        """Of a block that is computed again: what it reads is kept, all the rest is work."""
        size = self.rows * self.width
        return [_Stage(size, _peak(stages) - size)]

    def block(self, layer: Any) -> Iterator[_Stage]:
        size = self.rows * layer.self_attn.embed_dim
        beside = size * (2 if layer.dropout1.p else 1)  # the gradient of the residual path, and that of the branch
        attend = list(self.attention(layer.self_attn, beside=beside))
        first, second = list(self.norm(layer.norm1)), list(self.norm(layer.norm2))
        forward = list(self.feed_forward(layer, beside))
        yield from (
            [*first, *attend, *second, *forward]
            if layer.norm_placement == "pre"
            else [*attend, *first, *forward, *second]
        )

    def decoder(self, layer: TransformerDecoder) -> Iterator[_Stage]:
        for block in layer.blocks:
            stages = list(self.decoder_block(block))
            yield from self._again(stages) if layer.checkpointing else stages
        if layer.norm is not None:
            yield from self.stages(layer.norm)

    def decoder_block(self, layer: Any) -> Iterator[_Stage]:
        size = self.rows * layer.self_attn.embed_dim
        beside = size * (3 if layer.dropout1.p else 2)  # the gradient of the memory waits as well
        parts = [
            list(self.attention(layer.self_attn, beside=beside)),
            list(self.attention(layer.multihead_attn, memory=True, beside=beside)),
            list(self.feed_forward(layer, beside)),
        ]
        norms = [list(self.norm(norm)) for norm in (layer.norm1, layer.norm2, layer.norm3)]
        for norm, part in zip(norms, parts, strict=True):
            yield from [*norm, *part] if layer.norm_placement == "pre" else [*part, *norm]

    def feed_forward(self, layer: Any, beside: int) -> Iterator[_Stage]:
        outside = layer.linear1.in_features
        yield from self.linear(layer.linear1, beside)
        yield from self.activation(layer.feed_forward.activation)
        # The gradient of what linear2 made is that of the branch, which is counted beside it.
        (last,) = self.linear(layer.linear2, beside - self.rows * outside)
        if layer.feed_forward.activation.saves_input:  # what linear2 read is made again
            yield _Stage(0, last.work + last.kept)
        else:  # without dropout the activation keeps it already
            yield _Stage(last.kept if layer.feed_forward.dropout.p else 0, last.work)

    # -- recurrent layers -----------------------------------------------------------------------------

    def recurrent(self, layer: Any) -> Iterator[_Stage]:
        """Kept are inputs, states and gates; at work are the gradients of gates, weights and inputs."""
        gates = {LSTM: 4, GRU: 4, RNN: 1}[type(layer)]
        states = (1 if type(layer) is not LSTM else 2) + (0 if type(layer) is RNN else gates)
        inner, ways = layer.hidden_size, layer.directions
        for number in range(layer.num_layers):
            inputs = layer.input_size if number == 0 else ways * inner
            weights = len(layer._parameters[f"weight_hh_l{number}"].data) * (inputs + inner)
            x = self.rows * inputs
            dy = self.rows * ways * inner * (1 if number + 1 < layer.num_layers or layer.dropout else 0)
            work = self.rows * gates * inner + (1 + ways) * x + weights + dy
            if not self.fused:
                work += {LSTM: 0, GRU: 2, RNN: 3}[type(layer)] * self.rows * inner
            yield _Stage(x + ways * self.rows * states * inner, work)
        self.width = ways * inner
