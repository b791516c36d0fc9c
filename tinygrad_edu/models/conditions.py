"""Conditions of a diffusion: classes, vectors or sequences, and the condition that says nothing."""

from __future__ import annotations

from typing import Any

from ..backend import Array, Generator, asarray, device_of, full, namespace, use
from ..errors import ConfigError, DtypeError, ShapeError, format_shape
from ..layers import Embedding, Linear, Parameter
from ..layers.base import Layer
from ..layers.embedding import check_ids

#: The vector that every block is told, (B, E); the sequence that attention looks at, (B, L, D); its mask, (B, L).
Embedded = tuple[Array, Array | None, Array | None]


def _dropped(drop: Any, batch: int, like: Array) -> Array | None:
    """`drop` as a boolean array (B,), beside `like`."""
    if drop is None:
        return None
    with use(device_of(like)):
        drop = asarray(drop)
    if drop.dtype != bool:
        raise DtypeError(f"drop must be bool, True where the condition is put aside, got {drop.dtype}")
    if tuple(drop.shape) != (batch,):
        raise ShapeError(f"drop must be (batch,), here ({batch},), got {format_shape(tuple(drop.shape))}")
    return drop


class ClassCondition(Layer):
    """A vector for each class, and one more for no class.

    Parameters
    ----------
    num_classes : K; id K stands for no class
    embed_dim : E
    """

    def __init__(self, num_classes: int, embed_dim: int, generator: Generator):
        super().__init__()
        self.num_classes = num_classes
        self.table = Embedding(num_classes + 1, embed_dim, generator)

    def null(self, batch: int) -> Array:
        """(B,) ids of no class."""
        with use(device_of(self.table.weight.data)):
            return full((batch,), self.num_classes, dtype="int64")

    def forward(self, condition: Any, mask: Any, drop: Any, batch: int) -> Embedded:
        ids = self._check(condition, mask, batch)
        drop = _dropped(drop, batch, ids)
        if drop is not None:
            ids = namespace(ids).where(drop, self.num_classes, ids)
        return self.table(ids), None, None

    def _check(self, condition: Any, mask: Any, batch: int) -> Array:
        if mask is not None:
            raise ConfigError("mask was given, but a condition of classes has no padding")
        with use(device_of(self.table.weight.data)):
            ids = asarray(condition)
        if tuple(ids.shape) != (batch,):
            raise ShapeError(
                f"condition must be class ids (batch,), here ({batch},), got {format_shape(tuple(ids.shape))}"
            )
        check_ids(
            f"condition (of {self.num_classes} classes, and {self.num_classes} for none)", ids, self.num_classes + 1
        )
        return ids

    def backward(self, dvector: Array, dcontext: None = None) -> None:
        """Accumulate the gradient of the table; ids have none."""
        self.table.backward(dvector)


class ContextCondition(Layer):
    """A sequence for attention to look at, and the mean of it for the vector that every block is told.

    Parameters
    ----------
    dim : D, width of the sequence, which is taken in the type of the weights
    embed_dim : E

    Attributes
    ----------
    nothing : (D,), what stands in every place of a condition that is put aside; learned
    """

    def __init__(self, dim: int, embed_dim: int, generator: Generator):
        super().__init__()
        self.dim = dim
        self.nothing = Parameter(generator.normal(dim, std=0.02))
        self.pooled = Linear(dim, embed_dim, generator=generator)

    def null(self, batch: int) -> Array:
        """(B, 1, D), a copy of `nothing` for each image."""
        return namespace(self.nothing.data).tile(self.nothing.data, (batch, 1, 1))

    def _check(self, condition: Array, mask: Any, batch: int) -> tuple[Array, Array | None]:
        namespace(condition, self.nothing.data)  # an error for what is no array, or on another device
        found = format_shape(tuple(condition.shape))
        if condition.ndim not in (2, 3) or condition.shape[-1] != self.dim or len(condition) != batch:
            raise ShapeError(
                f"condition must be ({batch}, {self.dim}) or ({batch}, length, {self.dim}), "
                f"the batch being that of the images, got {found}"
            )
        if condition.dtype.kind != "f":
            raise DtypeError(f"condition must hold floating-point numbers, got {condition.dtype}")
        if condition.size == 0:
            raise ShapeError(f"condition is empty, got {found}")
        # NumPy's own type, float64, in a row of one-hots would make the whole network compute in it.
        condition = condition.astype(self.nothing.dtype, copy=False)
        if mask is None:
            return condition, None
        with use(device_of(condition)):
            mask = asarray(mask)
        if mask.dtype != bool:
            raise DtypeError(f"mask must be bool, False at padding, got {mask.dtype}")
        if condition.ndim == 2 or tuple(mask.shape) != tuple(condition.shape[:2]):
            raise ShapeError(
                f"mask must be (batch, length) for a condition (batch, length, {self.dim}), "
                f"got {format_shape(tuple(mask.shape))} for {found}"
            )
        return condition, mask

    def forward(self, condition: Array, mask: Any, drop: Any, batch: int) -> Embedded:
        """(B, D) or (B, L, D) -> vector (B, E), context (B, L, D), mask (B, L)."""
        condition, mask = self._check(condition, mask, batch)
        drop = _dropped(drop, batch, condition)
        xp = namespace(condition)
        context = condition.reshape(batch, -1, self.dim)  # one vector is a sequence of one
        if drop is not None:
            context = xp.where(drop[:, None, None], self.nothing.data, context)
            mask = None if mask is None else mask | drop[:, None]
        share = _shares(context, mask)
        self.save(condition.shape, share, drop)
        return self.pooled((context * share).sum(axis=1)), context, mask

    def backward(self, dvector: Array, dcontext: Array | None) -> Array:
        """Gradient of the condition, from those of the vector and (if anything attended) of the context."""
        shape, share, drop = self.saved()
        dmean = self.pooled.backward(dvector)  # (B, D)
        dcontext = dmean[:, None, :] * share if dcontext is None else dcontext + dmean[:, None, :] * share
        if drop is not None:
            xp = namespace(dcontext)
            aside = drop[:, None, None]
            self.nothing.accumulate(xp.where(aside, dcontext, 0).sum(axis=(0, 1)))
            dcontext = xp.where(aside, 0, dcontext)
        return dcontext.reshape(shape)


def _shares(context: Array, mask: Array | None) -> Array:
    """What each place counts in the mean over those that are no padding: (B, L, 1), or (1, 1, 1) without padding."""
    xp = namespace(context)
    if mask is None:
        return xp.full((1, 1, 1), 1 / context.shape[1], dtype=context.dtype)
    seen = mask[:, :, None].astype(context.dtype)
    return seen / xp.maximum(seen.sum(axis=1, keepdims=True), 1)
