"""More or fewer token ids: embedding, head and optimizer follow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..backend import Array, default_generator, device_of, namespace, to_device
from ..errors import ConfigError
from ..layers import Embedding, Linear, Parameter

if TYPE_CHECKING:
    from .base import BaseLanguageModel


def resize(model: BaseLanguageModel, vocab_size: int) -> Embedding:
    """See :meth:`BaseLanguageModel.resize_token_embeddings`."""
    if isinstance(vocab_size, bool) or not isinstance(vocab_size, int) or vocab_size < 1:
        raise ConfigError(f"resize_token_embeddings: vocab_size must be an integer >= 1, got {vocab_size!r}")
    embedding = model.get_input_embeddings()
    if vocab_size == model.vocab_size:
        return embedding
    tables = {id(p): p for p in (embedding.weight, model.head_weight, model.head_bias) if p is not None}
    generator = next(model.generators(), None) or default_generator()
    std = float(getattr(model.config, "initializer_range", getattr(model.config, "init_std", 0.02)))
    for table in tables.values():
        table.data = _resized(table, vocab_size, generator, std)
        table.grad = None
    model.clear_saved()
    for layer in model.layers():
        if isinstance(layer, Embedding) and layer.weight is embedding.weight:
            layer.num_embeddings = vocab_size
        if isinstance(layer, Linear) and layer.weight is model.head_weight:
            layer.out_features = vocab_size
        if hasattr(layer, "config"):
            layer.config.vocab_size = vocab_size
    model.vocab_size = vocab_size
    model.flatten()
    return embedding


def _resized(table: Parameter, rows: int, generator: Any, std: float) -> Array:
    """The rows of `table` that stay, and new ones: normal in a matrix, zero in a bias."""
    kept = table.data[:rows]
    if rows <= len(table.data):
        return kept.copy()
    xp, more = namespace(kept), rows - len(kept)
    if kept.ndim == 1:
        return xp.concatenate([kept, xp.zeros(more, dtype=kept.dtype)])
    new = to_device(generator.normal(more, *kept.shape[1:], std=std), device_of(kept))
    return xp.concatenate([kept, new.astype(kept.dtype)])
