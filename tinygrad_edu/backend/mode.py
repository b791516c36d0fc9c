"""Inference mode: forward passes that keep nothing for a backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_inference: ContextVar[bool] = ContextVar("tinygrad_edu_inference", default=False)


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
