"""From images to rows of numbers, as a linear map wants them."""

from __future__ import annotations

import math

from ..backend import Array, namespace
from ..errors import ShapeError, format_shape
from .base import Layer
from .images import check_gradient


class Flatten(Layer):
    """All axes but the batch laid end to end, ``(B, *size)`` to ``(B, product of size)``, as torch.nn.Flatten does.

    Numbers only change their index, so the gradient is laid back as the input was. Their order is that of the index,
    channel by channel, however the image lies in memory, so that what is learned behind it means the same everywhere;
    of a channels-last image that takes a copy.

    Raises
    ------
    ShapeError
        If there is nothing behind the batch.

    Examples
    --------
    >>> net = Sequential(Conv2d(3, 8, 3, padding=1), ReLU(), Flatten(), Linear(8 * 32 * 32, 10))
    """

    def forward(self, x: Array) -> Array:  # (B, *size) -> (B, N)
        namespace(x)  # an error for what is no array
        if x.ndim < 2:
            raise ShapeError(f"Flatten: expected (batch, *size), got {format_shape(tuple(x.shape))}")
        self.save(tuple(x.shape))
        return x.reshape(len(x), _numbers(x.shape))

    def backward(self, dy: Array) -> Array:
        shape = self.saved()
        check_gradient(self, dy, (shape[0], _numbers(shape)))
        return dy.reshape(shape)


def _numbers(shape: tuple[int, ...]) -> int:
    """How many belong to one of the batch; reshape would not find it (-1) for an empty batch."""
    return math.prod(shape[1:])
