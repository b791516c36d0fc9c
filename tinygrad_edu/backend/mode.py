"""Modes: forward passes that keep nothing for a backward pass, and models without values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_inference: ContextVar[bool] = ContextVar("tinygrad_edu_inference", default=False)
_outline: ContextVar[bool] = ContextVar("tinygrad_edu_outline", default=False)


@contextmanager
def inference() -> Iterator[None]:
    """Under ``with inference():`` a layer's ``save`` keeps nothing, so no memory is held and no backward is possible.

    It is not the same as ``model.eval()``, which switches what a layer computes (dropout off).
    """
    token = _inference.set(True)
    try:
        yield
    finally:
        _inference.reset(token)


def is_inference() -> bool:
    """Whether the caller is under ``with inference():``."""
    return _inference.get()


@contextmanager
def outline() -> Iterator[None]:
    """Under ``with outline():`` a model is built with all its shapes and without its values.

    Nothing is drawn, and arrays that would be drawn take one element of memory each, on the host. So names, shapes and
    counts are there at once, also of a model that would not fit into memory; values must be given before it computes.
    """
    token = _outline.set(True)
    try:
        yield
    finally:
        _outline.reset(token)


def is_outline() -> bool:
    """Whether the caller is under ``with outline():``."""
    return _outline.get()
