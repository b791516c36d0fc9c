"""CustomTransformer: a decoder-only transformer language model."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

from ..backend import Array, Generator, namespace, use
from ..errors import ConfigError, did_you_mean
from ..layers import (
    Dropout,
    Embedding,
    KeyValueCache,
    LayerList,
    LayerNorm,
    LearnedPositions,
    Linear,
    Parameter,
    RotaryPositions,
    SinusoidalPositions,
    TransformerBlock,
)
from ..layers.base import Layer
from ..layers.linear import linear, linear_backward
from ..losses import linear_cross_entropy, linear_cross_entropy_grad
from .base import IGNORE_INDEX, BaseLanguageModel
from .persistence import load_model, save_model

_CHOICES = {
    "position": ("learned", "sinusoidal", "rotary", "none"),
    "norm_placement": ("pre", "post"),
    "activation": ("gelu", "gelu_tanh", "relu", "silu", "tanh", "sigmoid"),
    "device": ("cpu", "cuda", "auto"),
    "dtype": ("float32", "float64"),
}


@dataclass
class CustomTransformerConfig:
    """Settings of :class:`CustomTransformer`; all mistakes are reported at once.

    Attributes
    ----------
    vocab_size : V, token ids are in [0, V)
    max_seq_len : longest sequence
    n_blocks, n_heads, d_model, d_ffn : blocks, heads, width, width inside the feed-forward part
    dropout : in [0, 1)
    position : learned, sinusoidal, rotary or none
    norm_placement : pre or post
    activation : of the feed-forward part
    tied_head : whether the head is the token embedding again (Press & Wolf, 2017)
    bias : whether the linear maps of the blocks have one
    eps : of the norms
    init_std : standard deviation of the initial weights
    seed : of the initial weights and of dropout
    device : cpu, cuda or auto
    dtype : float32 or float64

    Raises
    ------
    ConfigError
        Listing every value that is not allowed.
    """

    vocab_size: int = 50257
    max_seq_len: int = 256
    n_blocks: int = 4
    n_heads: int = 4
    d_model: int = 256
    d_ffn: int = 512
    dropout: float = 0.0
    position: str = "learned"
    norm_placement: str = "pre"
    activation: str = "gelu"
    tied_head: bool = True
    bias: bool = True
    eps: float = 1e-5
    init_std: float = 0.02
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        wrong = _mistakes({f.name: getattr(self, f.name) for f in fields(self)})
        if wrong:
            raise ConfigError("CustomTransformerConfig:\n  " + "\n  ".join(wrong))

    @classmethod
    def from_any(cls, config: Any) -> CustomTransformerConfig:
        """A config from itself, from a dict, or from any object with attributes of these names.

        Raises
        ------
        ConfigError
            For a dict with an unknown key; its other mistakes are listed with it.
        """
        if isinstance(config, cls):
            return config
        names = [f.name for f in fields(cls)]
        if isinstance(config, dict):
            unknown = [f"unknown key {key!r}.{did_you_mean(key, names)}" for key in config if key not in names]
            if unknown:
                known = {f.name: config.get(f.name, f.default) for f in fields(cls)}
                raise ConfigError("CustomTransformerConfig:\n  " + "\n  ".join(unknown + _mistakes(known)))
            return cls(**config)
        return cls(**{name: getattr(config, name) for name in names if hasattr(config, name)})

    def get(self, name: str | None = None, default: Any = None) -> Any:
        """The setting `name`, or `default` if there is none; all settings as a dict without a name."""
        return asdict(self) if name is None else getattr(self, name, default)

    def get_device(self) -> str:
        """``"cpu"`` or ``"cuda"``, with ``"auto"`` settled."""
        with use(self.device) as device:
            return device

    def get_dtype(self) -> str:
        """``"float32"`` or ``"float64"``."""
        return self.dtype


def _mistakes(settings: dict[str, Any]) -> list[str]:
    """All values that are not allowed, a line each."""
    wrong = []
    for name in ("vocab_size", "max_seq_len", "n_blocks", "n_heads", "d_model", "d_ffn"):
        value = settings[name]
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            wrong.append(f"{name} must be an integer >= 1, got {value!r}")
    for name, low, high in (("dropout", 0.0, 1.0), ("eps", 0.0, math.inf), ("init_std", 0.0, math.inf)):
        value = settings[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value < high:
            wrong.append(f"{name} must be a number in [{low:g}, {high:g}), got {value!r}")
    wrong += [
        f"{name} must be True or False, got {settings[name]!r}"
        for name in ("tied_head", "bias")
        if not isinstance(settings[name], bool)
    ]
    for name, allowed in _CHOICES.items():
        value = settings[name]
        if value not in allowed:
            hint = did_you_mean(str(value), allowed)
            wrong.append(f"{name} must be one of {', '.join(allowed)}, got {value!r}.{hint}")
    seed, width, heads = settings["seed"], settings["d_model"], settings["n_heads"]
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        wrong.append(f"seed must be an integer >= 0, got {seed!r}")
    if not wrong and width % heads:
        wrong.append(f"d_model must be divisible by n_heads, got {width} and {heads}")
    elif not wrong and settings["position"] == "rotary" and width // heads % 2:
        wrong.append(f"position rotary needs an even head width, got {width // heads}")
    return wrong


class CustomTransformer(Layer):
    """Decoder-only transformer: ids to logits (Vaswani et al., 2017), by default laid out as GPT-2.

    Parameters
    ----------
    config : :class:`CustomTransformerConfig`, a dict, or an object with attributes of its names
    """

    position: LearnedPositions | SinusoidalPositions | None

    def __init__(self, config: CustomTransformerConfig | dict[str, Any] | Any):
        super().__init__()
        self.config = c = CustomTransformerConfig.from_any(config)
        with use(c.device):
            self.generator = Generator(c.seed)
            self.token_embedding = Embedding(c.vocab_size, c.d_model, self.generator, c.init_std)
            if c.position == "learned":
                self.position = LearnedPositions(c.max_seq_len, c.d_model, self.generator, c.init_std)
            elif c.position == "sinusoidal":
                self.position = SinusoidalPositions(c.max_seq_len, c.d_model)
            else:
                self.position = None
            rotary = RotaryPositions(c.max_seq_len, c.d_model // c.n_heads) if c.position == "rotary" else None
            self.dropout = Dropout(c.dropout, self.generator)
            self.blocks = LayerList(
                TransformerBlock(
                    c.d_model,
                    c.n_heads,
                    c.d_ffn,
                    c.dropout,
                    c.activation,
                    c.norm_placement,
                    c.eps,
                    c.bias,
                    rotary,
                    self.generator,
                )
                for _ in range(c.n_blocks)
            )
            self.norm = LayerNorm(c.d_model, c.eps) if c.norm_placement == "pre" else None
            self.head = None if c.tied_head else Linear(c.d_model, c.vocab_size, False, self.generator)
            self._initialise()
        if c.dtype != "float32":
            self.astype(c.dtype)
        self.flatten()

    def _initialise(self) -> None:
        """GPT-2's start: normal weights, zero biases, and the last map of each branch smaller.

        Each block adds two branches to the residual stream; 1/sqrt(2 n_blocks) keeps its variance near one.
        """
        c = self.config
        small = c.init_std / math.sqrt(2 * c.n_blocks)
        for name, parameter in self.named_parameters():
            if name.startswith("blocks.") and parameter.decay:
                std = small if name.endswith(("out_proj.weight", "linear2.weight")) else c.init_std
                parameter.data[...] = self.generator.normal(*parameter.shape, std=std)
            elif name.endswith("bias"):
                parameter.data.fill(0)
            elif name == "head.weight":
                parameter.data[...] = self.generator.normal(*parameter.shape, std=c.init_std)

    @property
    def head_weight(self) -> Parameter:
        """(V, C): the head's matrix, the token embedding if tied."""
        return self.token_embedding.weight if self.head is None else self.head.weight

    def features(self, input_ids: Array, mask: Array | None = None, caches: list[KeyValueCache] | None = None) -> Array:
        """(B, T) ids -> (B, T, C), what the head reads.

        Parameters
        ----------
        mask : bool, broadcastable to (B, H, T, S), combined with the causal mask
        caches : one for each block, for generation
        """
        x = self.token_embedding(input_ids)
        if self.position is not None:
            x = self.position(x, 0 if caches is None else caches[0].length)
        x = self.dropout(x)
        for index, block in enumerate(self.blocks):
            x = block(x, mask, True, None if caches is None else caches[index])
        return x if self.norm is None else self.norm(x)

    def features_backward(self, dx: Array) -> None:
        """Accumulate all gradients below the head."""
        if self.norm is not None:
            dx = self.norm.backward(dx)
        for block in reversed(list(self.blocks)):
            dx = block.backward(dx)
        dx = self.dropout.backward(dx)
        if self.position is not None:
            dx = self.position.backward(dx)
        self.token_embedding.backward(dx)

    def forward(self, input_ids: Array, mask: Array | None = None) -> Array:
        """(B, T) ids -> (B, T, V) logits."""
        x = self.features(input_ids, mask)
        self.save(x)
        return linear(x, self.head_weight.data, None)

    def backward(self, dlogits: Array) -> None:
        """Accumulate all gradients; ids have none."""
        x = self.saved()
        dx, dweight, _ = linear_backward(dlogits, x, self.head_weight.data, False)
        self.head_weight.accumulate(dweight)
        self.features_backward(dx)


class CustomTransformerWrapper(BaseLanguageModel):
    """:class:`CustomTransformer` behind the interface of all language models.

    Parameters
    ----------
    config : as for :class:`CustomTransformer`
    """

    model_type = "custom_transformer"
    supports_generation = True

    def __init__(self, config: CustomTransformerConfig | dict[str, Any] | Any):
        super().__init__()
        self.model = CustomTransformer(config)
        self.config = self.model.config
        self.vocab_size, self.max_seq_len = self.config.vocab_size, self.config.max_seq_len
        self.generator = self.model.generator
        self.model.__dict__.pop("flat")  # the outer layer holds the buffers
        self.flatten()

    def logits(self, input_ids: Array, mask: Array | None) -> Array:
        return self.model.forward(input_ids, mask)

    def logits_backward(self, dlogits: Array) -> None:
        self.model.backward(dlogits)

    def loss_and_gradients(self, input_ids: Array, targets: Array, count: int, mask: Array | None) -> float:
        x = self.model.features(input_ids, mask)
        rows = x.reshape(-1, x.shape[-1])
        weight = self.model.head_weight
        dlosses = namespace(x).full(len(rows), 1 / count, dtype=x.dtype)
        losses, drows = linear_cross_entropy_grad(
            rows, weight.data, None, targets.reshape(-1), dlosses, weight.grad, None, IGNORE_INDEX, 0.0
        )
        self.model.features_backward(drows.reshape(x.shape))
        return float(losses.sum()) / count

    def score_tokens(self, input_ids: Array, targets: Array, mask: Array | None) -> tuple[Array, Array]:
        x = self.model.features(input_ids, mask)
        losses, predicted = linear_cross_entropy(
            x.reshape(-1, x.shape[-1]),
            self.model.head_weight.data,
            None,
            targets.reshape(-1),
            IGNORE_INDEX,
            0.0,
        )
        return losses.reshape(targets.shape), predicted.reshape(targets.shape)

    def new_caches(self, length: int) -> list[KeyValueCache]:
        return [KeyValueCache(length) for _ in self.model.blocks]

    def next_logits(self, input_ids: Array, caches: list[KeyValueCache] | None) -> Array:
        x = self.model.features(input_ids, None, caches)
        return linear(x[:, -1], self.model.head_weight.data, None)

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
        return save_model(self, path, cast("dict[str, Any]", self.config.get()))

    @classmethod
    def load_checkpoint(cls, path: str | os.PathLike[str]) -> CustomTransformerWrapper:
        """The model that :meth:`save_checkpoint` saved, ready to go on training exactly where it was.

        Raises
        ------
        CheckpointError
            If nothing intact of this kind is there.
        """
        return load_model(cls, path)

    def get_model_info(self) -> dict[str, Any]:
        return {**super().get_model_info(), "config": cast("dict[str, Any]", self.config.get())}
