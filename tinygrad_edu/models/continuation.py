"""A batch of sequences in the course of being written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..backend import Array, device_of, namespace, to_device

if TYPE_CHECKING:
    from .generation import GeneratingModel


class Continuation:
    """What a model has read of the sequences that it is writing, so that it can say what comes next.

    Parameters
    ----------
    model : what writes
    length : positions there must be room for
    use_cache : keep what the model computed for earlier positions; else it reads everything again at each token
    """

    def __init__(self, model: GeneratingModel, length: int, use_cache: bool = True):
        self.model = model
        self.caches: list[Any] | None = model.new_caches(length) if use_cache else None
        self._read: Array | None = None  # without caches, all ids so far

    def logits(self, new_ids: Array) -> Array:
        """Logits of the token after the last of `new_ids`, (B, V).

        Parameters
        ----------
        new_ids : (B, n), what has been written since the last call; the first time, the whole beginning
        """
        return self._next_logits(self._unread(new_ids))

    def _unread(self, new_ids: Array) -> Array:
        """What the model has to read."""
        if self.caches is not None:
            return new_ids
        xp = namespace(new_ids)
        self._read = new_ids if self._read is None else xp.concatenate([self._read, new_ids], axis=1)
        return self._read

    def _next_logits(self, ids: Array) -> Array:
        return self.model.next_logits(ids, self.caches)

    def reorder(self, rows: Any) -> None:
        """Let sequence i go on from sequence ``rows[i]``: a sequence may come several times, or not at all.

        Parameters
        ----------
        rows : (new batch,) integers on the host
        """
        for cache in self.caches or ():
            cache.reorder(rows)
        if self._read is not None:
            self._read = self._read[to_device(rows, device_of(self._read))]
