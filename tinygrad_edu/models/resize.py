"""More or fewer token ids: embedding, head and optimizer follow."""

from __future__ import annotations

from dataclasses import replace
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
    # New configs, not changed ones: another model may have been made from the same. They also say what does not go.
    configs = {id(layer.config): replace(layer.config, vocab_size=vocab_size) for layer in _configured(model)}
    tables = {id(p): p for p in model.token_tables()}
    generator = next(model.generators(), None) or default_generator()
    std = float(getattr(model.config, "initializer_range", getattr(model.config, "init_std", 0.02)))
    for table in tables.values():
        table.data = _resized(table, vocab_size, generator, std)
        table.grad = None
    model.clear_saved()
    for layer in model.layers():
        if isinstance(layer, Embedding) and id(layer.weight) in tables:
            layer.num_embeddings = vocab_size
        if isinstance(layer, Linear) and id(layer.weight) in tables:
            layer.out_features = vocab_size
    for layer in _configured(model):
        layer.config = configs[id(layer.config)]
    model.vocab_size = vocab_size
    model.flatten()
    return embedding


def _configured(model: BaseLanguageModel) -> list[Any]:
    """The layers that have a config: the model, and perhaps one within it."""
    return [layer for layer in model.layers() if hasattr(layer, "config")]


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
