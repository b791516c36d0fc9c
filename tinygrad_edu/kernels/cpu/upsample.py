"""Images of another size, and their gradients: banded matrices along each axis."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from ...backend import kernel, registered_ops
from .bands import Bands, bands_of, multiply

Size = tuple[int, ...]
Steps = tuple[float, ...]


@functools.lru_cache(maxsize=128)
def _nearest(length: int, output: int, step: float, transposed: bool) -> Bands:
    """Pixel i of the result shows pixel floor(i step)."""
    shown = np.minimum(np.floor(np.arange(output) * step), length - 1)
    matrix = shown[:, None] == np.arange(length)
    return bands_of((matrix.T if transposed else matrix).astype(np.float32))


@functools.lru_cache(maxsize=128)
def _linear(length: int, output: int, step: float, align_corners: bool, transposed: bool) -> Bands:
    """Pixel i of the result lies between the pixels beside its place, and the nearer one weighs more."""
    i = np.arange(output)
    place = i * ((length - 1) / max(output - 1, 1)) if align_corners else (i + 0.5) * step - 0.5
    place = np.clip(place, 0, length - 1)
    matrix = np.maximum(0, 1 - abs(place[:, None] - np.arange(length)))
    return bands_of(matrix.T if transposed else matrix)


@kernel("upsample_nearest", device="cpu")
def upsample_nearest(x: Any, output: Size, steps: Steps) -> Any:
    if len(output) > 2:
        return registered_ops()["upsample_nearest"].reference(x, output, steps)
    axes = zip(x.shape[2:], output, steps, strict=True)
    return multiply(x, tuple(_nearest(n, m, step, False) for n, m, step in axes))


@kernel("upsample_nearest_backward", device="cpu")
def upsample_nearest_backward(dy: Any, size: Size, steps: Steps) -> Any:
    if len(size) > 2:
        return registered_ops()["upsample_nearest_backward"].reference(dy, size, steps)
    axes = zip(size, dy.shape[2:], steps, strict=True)
    return multiply(dy, tuple(_nearest(n, m, step, True) for n, m, step in axes))


@kernel("upsample_linear", device="cpu")
def upsample_linear(x: Any, output: Size, steps: Steps, align_corners: bool) -> Any:
    axes = zip(x.shape[2:], output, steps, strict=True)
    return multiply(x, tuple(_linear(n, m, step, align_corners, False) for n, m, step in axes))


@kernel("upsample_linear_backward", device="cpu")
def upsample_linear_backward(dy: Any, size: Size, steps: Steps, align_corners: bool) -> Any:
    axes = zip(size, dy.shape[2:], steps, strict=True)
    return multiply(dy, tuple(_linear(n, m, step, align_corners, True) for n, m, step in axes))
