"""Layers made of layers: one after the other, and around each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..backend import Array
from ..errors import ShapeError, format_shape
from .base import Layer


class LayerList(Layer):
    """Layers by number, as a list; only a place to keep them, with no forward of its own."""

    def __init__(self, layers: Iterable[Layer] = ()):
        super().__init__()
        for layer in layers:
            self.append(layer)

    def append(self, layer: Layer) -> None:
        """Add a layer at the end."""
        setattr(self, str(len(self._children)), layer)

    def __getitem__(self, index: int) -> Layer:
        return list(self._children.values())[index]

    def __iter__(self) -> Iterator[Layer]:
        return iter(self._children.values())

    def __len__(self) -> int:
        return len(self._children)


class Sequential(LayerList):
    """Layers one after the other: backward is the chain rule, last layer first.

    Examples
    --------
    >>> mlp = Sequential(Linear(8, 32), GELU(), Linear(32, 2))
    """

    def __init__(self, *layers: Layer):
        super().__init__(layers)

    def forward(self, x: Array) -> Array:
        for layer in self:
            x = layer(x)
        return x

    def backward(self, dy: Array) -> Array:
        for layer in reversed(list(self)):
            dy = layer.backward(dy)
        return dy


class Residual(Layer):
    """``y = x + layer(x)`` (He et al., 2016).

    A sum passes its gradient to both terms, so the gradient of x comes by two paths and they add.
    """

    def __init__(self, layer: Layer):
        super().__init__()
        self.layer = layer

    def forward(self, x: Array) -> Array:
        y = self.layer(x)
        if y.shape != x.shape:
            raise ShapeError(
                f"Residual: the inner layer must keep the shape {format_shape(tuple(x.shape))}, "
                f"it gave {format_shape(tuple(y.shape))}"
            )
        return x + y

    def backward(self, dy: Array) -> Array:
        return dy + self.layer.backward(dy)
