"""What a model's forward gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from ..backend import Array


@dataclass
class ModelOutput:
    """What ``forward`` gives, readable as attribute, as key (``out["loss"]``) and in order.

    Attributes
    ----------
    loss : mean cross-entropy over the predicted tokens, in nats; None without labels
    logits : (B, T, V)
    hidden_states : tuple of (B, T, C), where asked for: the embeddings, then what each block gave
    attentions : tuple of (B, H, T, S), where asked for: the attention weights of each block
    """

    loss: Any = None
    logits: Array | None = None
    hidden_states: Any = None
    attentions: Any = None

    def _items(self) -> list[tuple[str, Any]]:
        return [(f.name, getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) is not None]

    def __getitem__(self, key: str | int | slice) -> Any:
        if isinstance(key, int | slice):
            return self.to_tuple()[key]
        if key not in {f.name for f in fields(self)}:
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.to_tuple())

    def __len__(self) -> int:
        return len(self._items())

    def __contains__(self, key: object) -> bool:
        return any(name == key for name, _ in self._items())

    def keys(self) -> list[str]:
        """Names of what is there."""
        return [name for name, _ in self._items()]

    def to_tuple(self) -> tuple[Any, ...]:
        """What is there, in order."""
        return tuple(value for _, value in self._items())
